// The page of one entity: what is known of it now or as it was, what happened to it, and what it is to others.
import { Tab, TabList, TabPanel, TabProvider } from "@ariakit/react";
import { type JsonObject, toJson } from "@bufbuild/protobuf";
import { useState } from "preact/hooks";
import { Designation, type Entity, EntityDataSchema } from "../../typescript/gen/entity/v1/entity_pb.ts";
import { leavesOf } from "./changes.ts";
import { Identity } from "./identity.tsx";
import { useLoad } from "./load.ts";
import { Copyable, Status } from "./parts.tsx";
import { Problem, reasonIs } from "./problem.tsx";
import { ENTITY_TABS, type EntityTab, entityPath, goTo, type Route } from "./route.ts";
import { useSession } from "./session.ts";
import { Timeline } from "./timeline.tsx";
import { Facts } from "./values.tsx";
import { checkWord, dayText, endOfDay, timestampOf, timeText, today, typeWord } from "./words.ts";

type EntityRoute = Extract<Route, { page: "entity" }>;

const TITLES: Record<EntityTab, string> = { overview: "Overview", timeline: "Timeline", identity: "Identity" };

export function EntityPage({ route }: { route: EntityRoute }) {
  const { entities } = useSession();
  const { id, at } = route;
  const loaded = useLoad(
    async (signal) => {
      const lookup = { by: { case: "entityId" as const, value: id } };
      const readTime = at === undefined ? {} : { readTime: timestampOf(at) };
      return { at, answer: await entities.getEntity({ lookup, ...readTime }, { signal }) };
    },
    [id, at],
  );
  // The answer for another moment is not shown as that of this one.
  const answer = loaded.value?.at === at ? loaded.value?.answer : undefined;
  const entity = answer?.entity;
  const redirectedFrom = answer?.redirectedFrom ?? "";
  return (
    <section>
      {entity === undefined ? null : <Head entity={entity} />}
      {redirectedFrom === "" ? null : (
        <p class="notice">
          <code>{redirectedFrom}</code> was merged into this entity: it is shown in its place.
        </p>
      )}
      <TabProvider
        selectedId={route.tab}
        setSelectedId={(tab) =>
          goTo({ page: "entity", id, tab: ENTITY_TABS.find((one) => one === tab) ?? "overview", at: undefined })
        }
      >
        <TabList aria-label="Views of the entity" class="tabs">
          {ENTITY_TABS.map((tab) => (
            <Tab key={tab} id={tab}>
              {TITLES[tab]}
            </Tab>
          ))}
        </TabList>
        <TabPanel tabId={route.tab} class="panel">
          {route.tab === "timeline" ? <Timeline entityId={entity?.id ?? id} onEvent={loaded.again} /> : null}
          {route.tab === "identity" ? <Identity id={entity?.id ?? id} onChange={loaded.again} /> : null}
          {route.tab === "overview" ? (
            <>
              <AsItWas id={id} at={at} />
              <Missing error={loaded.error} again={loaded.again} />
              {answer === undefined && loaded.isLoading ? (
                <p class="hint" role="status">
                  Loading
                </p>
              ) : null}
              {entity === undefined ? null : <Overview entity={entity} />}
            </>
          ) : null}
        </TabPanel>
      </TabProvider>
    </section>
  );
}

function Missing({ error, again }: { error: unknown; again: () => void }) {
  if (reasonIs(error, "NOT_FOUND"))
    return <p class="notice">There was no such entity then, or there is none at all.</p>;
  if (reasonIs(error, "READ_TIME_EXPIRED"))
    return <p class="notice">Events of that time were removed, so nobody can tell what it was like.</p>;
  return <Problem error={error} what="read entities" again={again} />;
}

function Head({ entity }: { entity: Entity }) {
  return (
    <header class="head">
      <h1>
        {entity.name} <Status entity={entity} />
      </h1>
      <p class="facts">
        <span>{typeWord(entity.type)}</span>
        <span>{entity.countryCode}</span>
        <Copyable text={entity.id} label="the id" />
      </p>
    </header>
  );
}

/** The day at whose end the entity is shown. */
function AsItWas({ id, at }: { id: string; at: string | undefined }) {
  const [problem, setProblem] = useState("");
  const show = (day: string) => {
    setProblem("");
    if (day === "" || day === today()) return goTo({ page: "entity", id, tab: "overview", at: undefined });
    const end = endOfDay(day);
    if (end === undefined) return setProblem("That day is not over yet.");
    goTo({ page: "entity", id, tab: "overview", at: end });
  };
  return (
    <div class="as-it-was">
      <label>
        As it was at the end of{" "}
        <input
          type="date"
          max={today()}
          value={at?.slice(0, 10) ?? ""}
          onChange={(event) => show(event.currentTarget.value)}
        />
      </label>
      {problem === "" ? null : <span role="alert">{problem}</span>}
      {at === undefined ? (
        <span class="hint">now</span>
      ) : (
        <span role="status">
          <strong>As it was at {at.replace("T", " ").replace(/(\.\d+)?Z$/, "")} UTC.</strong>{" "}
          <a href={entityPath(id)}>Show it as it is now</a>
        </span>
      )}
    </div>
  );
}

function Overview({ entity }: { entity: Entity }) {
  const data = entity.entityData && (toJson(EntityDataSchema, entity.entityData) as JsonObject);
  const { additional, ...named } = (data?.["person"] ?? data?.["company"] ?? {}) as JsonObject;
  return (
    <div class="overview">
      <div>
        <h2>Ids</h2>
        <ExternalIds entity={entity} />
        <h2>Record</h2>
        <Facts leaves={recordOf(entity)} />
      </div>
      <div>
        <Part
          title={data?.["company"] === undefined ? "Person" : "Company"}
          values={{ ...named, ...(additional as JsonObject | undefined) }}
        />
        <Part title="Attributes" values={entity.attributes} />
        <Part title="Metadata" values={entity.metadata} />
      </div>
    </div>
  );
}

function recordOf(entity: Entity): Map<string, string> {
  const check = entity.taxId === undefined ? undefined : checkWord(entity.taxIdCheck);
  return new Map(
    Object.entries({
      taxId: entity.taxId,
      taxIdCheck: check,
      nationality: entity.nationality,
      riskScore: entity.riskScore,
      riskMatrix: entity.riskMatrixId,
      created: timeText(entity.createdAt),
      changed: timeText(entity.updatedAt),
      deleted: timeText(entity.deletedAt) || undefined,
      etag: entity.etag,
    }).filter((one): one is [string, string] => one[1] !== undefined),
  );
}

function Part({ title, values = {} }: { title: string; values: JsonObject | undefined }) {
  const leaves = new Map(Object.entries(values).flatMap(([key, value]) => [...leavesOf(key, value)]));
  if (leaves.size === 0) return null;
  return (
    <section>
      <h2>{title}</h2>
      <Facts leaves={leaves} />
    </section>
  );
}

function ExternalIds({ entity }: { entity: Entity }) {
  if (entity.externalIds.length === 0) return <p class="hint">No other system has named it.</p>;
  return (
    <ul class="ids">
      {entity.externalIds.map((one) => (
        <li key={one.externalId}>
          <Copyable text={one.externalId} label={`the external id ${one.externalId}`} />
          <span class="hint">
            {one.designation === Designation.PRIMARY ? "primary" : "alias"}
            {one.type === "" ? "" : `, ${one.type}`}, since {dayText(one.attachedAt)}
            {one.lastResolvedOn === "" ? "" : `, last used ${one.lastResolvedOn}`}
          </span>
        </li>
      ))}
    </ul>
  );
}
