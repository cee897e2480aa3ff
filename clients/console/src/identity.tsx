// What an entity is to others: who it may be as well, what was merged into it, from whom it is distinct, and which ids it
// has had.
import { useState } from "preact/hooks";
import type { EntityMerge } from "../../typescript/gen/entity/v1/merge_pb.ts";
import { LostExternalIdCauseSchema } from "../../typescript/gen/entity/v1/merge_pb.ts";
import { Ask, type Question } from "./ask.tsx";
import { DuplicateList } from "./duplicates.tsx";
import { useList, useLoad } from "./load.ts";
import { ListEnd, Wide } from "./parts.tsx";
import { Problem } from "./problem.tsx";
import { entityPath } from "./route.ts";
import { useSession } from "./session.ts";
import { causeWord, dayText, timeText, wordOf } from "./words.ts";

export function Identity({ id, onChange }: { id: string; onChange: () => void }) {
  return (
    <>
      <h2>Suggested duplicates</h2>
      <DuplicateList entityId={id} />
      <h2>Merges</h2>
      <Merges id={id} onChange={onChange} />
      <h2>Distinct from</h2>
      <DistinctPairs id={id} />
      <h2>External ids over time</h2>
      <ExternalIdPeriods id={id} />
    </>
  );
}

const byId = (id: string) => ({ by: { case: "entityId" as const, value: id } });

function Merges({ id, onChange }: { id: string; onChange: () => void }) {
  const { entities } = useSession();
  const [question, setQuestion] = useState<Question | undefined>(undefined);
  const list = useList(
    async (pageToken, signal) => {
      const { merges, nextPageToken } = await entities.listMerges(
        { lookup: byId(id), pageSize: 50, pageToken },
        { signal },
      );
      return { items: merges, nextPageToken };
    },
    [id],
  );
  const undo = (merge: EntityMerge) => {
    // As it was before the preview: whatever becomes of it since, nobody has seen what undoing would do.
    const survivor = entities.getEntity({ lookup: byId(merge.primaryId) }).then(({ entity }) => entity);
    setQuestion({
      title: "Undo this merge?",
      button: "Undo the merge",
      what: "undo merges",
      needsReason: true,
      children: <UndoPreview merge={merge} survivor={survivor} />,
      async write({ reason, requestId }) {
        const { etag = "" } = (await survivor) ?? {};
        await entities.unmergeEntities({ mergeId: merge.id, reason, requestId, etag });
        list.again();
        onChange();
      },
    });
  };
  return (
    <>
      <ul class="plain">
        {list.items.map((merge) => (
          <li key={merge.id} class="row">
            <div>
              <p>
                <Name id={merge.secondaryId} /> into <Name id={merge.primaryId} />
              </p>
              <p class="hint">
                <time>{timeText(merge.mergedAt)}</time> by {merge.actor}: {merge.reason}
              </p>
              {merge.undoneAt === undefined ? null : (
                <p class="hint">
                  undone <time>{timeText(merge.undoneAt)}</time> by {merge.undoneActor}: {merge.undoneReason}
                </p>
              )}
            </div>
            {merge.undoneAt === undefined ? (
              <button type="button" onClick={() => undo(merge)}>
                Undo
              </button>
            ) : null}
          </li>
        ))}
      </ul>
      <ListEnd list={list} what="read merges" empty="Nothing was merged." />
      <Ask question={question} onEnd={() => setQuestion(undefined)} />
    </>
  );
}

/** What undoing would do, as the service says without doing it. */
function UndoPreview({ merge, survivor }: { merge: EntityMerge; survivor: Promise<unknown> }) {
  const { entities } = useSession();
  const { value, error } = useLoad(
    async (signal) => {
      await survivor;
      const trial = { mergeId: merge.id, reason: "Preview in the console", validateOnly: true };
      return entities.unmergeEntities(trial, { signal });
    },
    [merge.id],
  );
  if (error !== undefined) return <Problem error={error} what="undo merges" />;
  if (value === undefined) return <p class="hint">Loading</p>;
  return (
    <div class="preview">
      <p>
        <strong>{value.secondary?.name}</strong> is an entity of its own again.
      </p>
      {value.returned.length === 0 ? null : (
        <p>
          It has again: <code>{value.returned.join(", ")}</code>
        </p>
      )}
      {value.lost.map(({ externalId, cause }) => (
        <p key={externalId}>
          It does not get back <code>{externalId}</code>: {wordOf(LostExternalIdCauseSchema, cause)} since.
        </p>
      ))}
      {value.kept.length === 0 ? null : (
        <p>
          Edited since, and stays with <strong>{value.entity?.name}</strong>:{" "}
          {value.kept.map(({ path }) => path).join(", ")}
        </p>
      )}
    </div>
  );
}

function DistinctPairs({ id }: { id: string }) {
  const { entities } = useSession();
  const list = useList(
    async (pageToken, signal) => {
      const { pairs, nextPageToken } = await entities.listDistinct(
        { lookup: byId(id), pageSize: 50, pageToken },
        { signal },
      );
      return { items: pairs, nextPageToken };
    },
    [id],
  );
  return (
    <>
      <ul class="plain">
        {list.items.map((pair) => (
          <li key={pair.id} class="row">
            <p>
              <Name id={pair.firstId === id ? pair.secondId : pair.firstId} />{" "}
              <span class="hint">
                since {dayText(pair.markedAt)}
                {pair.liftedAt === undefined ? "" : `, lifted ${dayText(pair.liftedAt)}`}
              </span>
            </p>
          </li>
        ))}
      </ul>
      <ListEnd list={list} what="read marks" empty="Nobody has marked it as distinct from another one." />
    </>
  );
}

function ExternalIdPeriods({ id }: { id: string }) {
  const { entities } = useSession();
  const list = useList(
    async (pageToken, signal) => {
      const { periods, nextPageToken } = await entities.listExternalIdHistory(
        { lookup: byId(id), pageSize: 50, pageToken },
        { signal },
      );
      return { items: periods, nextPageToken };
    },
    [id],
  );
  return (
    <>
      {list.items.length === 0 ? null : (
        <Wide label="External ids over time">
          <table>
            <thead>
              <tr>
                <th scope="col">External id</th>
                <th scope="col">From</th>
                <th scope="col">Until</th>
                <th scope="col">Why it left</th>
              </tr>
            </thead>
            <tbody>
              {list.items.map((period) => (
                <tr key={`${period.externalId} ${period.entityId} ${timeText(period.attachedAt)}`}>
                  <th scope="row">
                    <code>{period.externalId}</code> <span class="hint">{period.type}</span>
                  </th>
                  <td class="nowrap">{timeText(period.attachedAt)}</td>
                  <td class="nowrap">{period.detachedAt === undefined ? "now" : timeText(period.detachedAt)}</td>
                  <td>{period.detachedAt === undefined ? "" : causeWord(period.cause)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Wide>
      )}
      <ListEnd list={list} what="read external ids" empty="It never had an external id." />
    </>
  );
}

function Name({ id }: { id: string }) {
  return (
    <a href={entityPath(id)}>
      <code>{id}</code>
    </a>
  );
}
