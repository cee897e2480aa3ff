// Two entities side by side, and what merging them would come to, as the service says without doing it.

import type { JsonValue } from "@bufbuild/protobuf";
import { toJson } from "@bufbuild/protobuf";
import { ValueSchema } from "@bufbuild/protobuf/wkt";
import { useState } from "preact/hooks";
import type { MergeEntitiesResponse } from "../../typescript/gen/entity/v1/entity_service_pb.ts";
import { type MergeConflict, MergeKept } from "../../typescript/gen/entity/v1/merge_pb.ts";
import { Ask, type Question } from "./ask.tsx";
import { leavesOf } from "./changes.ts";
import { useLoad } from "./load.ts";
import { Status, Wide } from "./parts.tsx";
import { Problem } from "./problem.tsx";
import { entityPath, goTo, pathOf } from "./route.ts";
import { useSession } from "./session.ts";
import { Path } from "./values.tsx";

const byId = (value: string) => ({ by: { case: "entityId" as const, value } });

export function MergePage({ primary, secondary }: { primary: string; secondary: string }) {
  const { entities } = useSession();
  const [question, setQuestion] = useState<Question | undefined>(undefined);
  const both = useLoad(
    async (signal) => {
      const { results } = await entities.batchGetEntities({ lookups: [byId(primary), byId(secondary)] }, { signal });
      const [first, second] = results.map(({ result }) => (result.case === "entity" ? result.value : undefined));
      return { first, second };
    },
    [primary, secondary],
  );
  const preview = useLoad(
    (signal) =>
      entities.mergeEntities(
        { primary: byId(primary), secondary: byId(secondary), reason: "Preview in the console", validateOnly: true },
        { signal },
      ),
    [primary, secondary],
  );
  const { first, second } = both.value ?? {};
  const ask = () =>
    setQuestion({
      title: "Merge these two?",
      button: "Merge",
      what: "merge entities",
      needsReason: true,
      children: (
        <p>
          <strong>{second?.name}</strong> becomes a part of <strong>{first?.name}</strong>, and is found by it. The
          merge can be undone at any time, on the page of the entity.
        </p>
      ),
      async write({ reason, requestId }) {
        await entities.mergeEntities({
          primary: byId(primary),
          secondary: byId(secondary),
          etag: first?.etag ?? "",
          secondaryEtag: second?.etag ?? "",
          reason,
          requestId,
        });
        goTo({ page: "entity", id: primary, tab: "identity", at: undefined });
      },
    });
  return (
    <section>
      <h1>Merge</h1>
      <Problem error={both.error} what="read entities" again={both.again} />
      {first === undefined || second === undefined ? null : (
        <div class="pair">
          {[
            { entity: first, role: "stays" },
            { entity: second, role: "is merged into it" },
          ].map(({ entity, role }) => (
            <div key={entity.id}>
              <p class="hint">{role}</p>
              <p>
                <a href={entityPath(entity.id)}>{entity.name}</a> <Status entity={entity} />
              </p>
              <p class="hint">
                {entity.externalIds.map(({ externalId }) => externalId).join(", ") || "no external id"}
              </p>
            </div>
          ))}
        </div>
      )}
      <p>
        <a href={pathOf({ page: "merge", primary: secondary, secondary: primary })}>The other way round</a>
      </p>
      <Problem error={preview.error} what="merge entities" again={preview.again} />
      {preview.value === undefined ? null : <Preview answer={preview.value} />}
      <p class="buttons">
        <button
          type="button"
          class="primary"
          disabled={preview.value === undefined || second === undefined}
          onClick={ask}
        >
          Merge
        </button>
      </p>
      <Ask question={question} onEnd={() => setQuestion(undefined)} />
    </section>
  );
}

function Preview({ answer }: { answer: MergeEntitiesResponse }) {
  const { conflicts, rows, entity } = answer;
  return (
    <>
      <h2>
        {conflicts.length === 0
          ? "No conflicts"
          : conflicts.length === 1
            ? "1 conflict"
            : `${conflicts.length} conflicts`}
      </h2>
      {conflicts.length === 0 ? (
        <p class="hint">Nothing that both have differs.</p>
      ) : (
        <Wide label="Conflicts">
          <table class="changes">
            <thead>
              <tr>
                <th scope="col">Field</th>
                <th scope="col">Stays</th>
                <th scope="col">Is merged into it</th>
              </tr>
            </thead>
            <tbody>
              {conflicts.map((conflict) => (
                <Conflict key={conflict.path} conflict={conflict} />
              ))}
            </tbody>
          </table>
        </Wide>
      )}
      <p class="hint">
        Afterwards it is found by {entity?.externalIds.map(({ externalId }) => externalId).join(", ") || "its id alone"}
        . {String(rows?.transactions ?? 0)} transactions and {String(rows?.userEvents ?? 0)} user events are listed with
        it.
      </p>
    </>
  );
}

function Conflict({ conflict }: { conflict: MergeConflict }) {
  const { path, primaryValue, secondaryValue, kept } = conflict;
  const isKept = (which: MergeKept) => kept === which || kept === MergeKept.BOTH;
  const cell = (value: typeof primaryValue, which: MergeKept, title: string) => (
    <td data-title={title}>
      <span class={isKept(which) ? "value after" : "value before"}>{textOf(value && toJson(ValueSchema, value))}</span>{" "}
      {isKept(which) ? <span class="hint">kept</span> : null}
    </td>
  );
  return (
    <tr>
      <th scope="row">
        <Path path={path} />
      </th>
      {cell(primaryValue, MergeKept.PRIMARY, "Stays")}
      {cell(secondaryValue, MergeKept.SECONDARY, "Is merged into it")}
    </tr>
  );
}

function textOf(value: JsonValue | undefined): string {
  return [...leavesOf("", value)].map(([path, text]) => (path === "" ? text : `${path.slice(1)}: ${text}`)).join("\n");
}
