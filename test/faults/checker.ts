// Compares the final content of the database, read as superuser, with what the callers, watchers and receivers saw.
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import {
  type AuditCounts,
  type AuditFinding,
  AuditFindingKindSchema,
  type EventType,
  EventTypeSchema,
} from "../../clients/typescript/index.ts";
import { brokenChains } from "../chains.ts";
import { externalIdProblems } from "../external-id-periods.ts";
import { brokenMerges } from "../merge-invariants.ts";
import type { World } from "./callers.ts";
import type { Check } from "./checks.ts";
import { eventsOf, type Intent, type Write, wasUnknown } from "./journal.ts";
import type { Postgres } from "./postgres.ts";
import type { Filter, Watcher } from "./watchers.ts";

export interface LoggedEvent {
  id: string;
  organizationId: string;
  entityId: string;
  version: number;
  type: string;
  entityType: string;
  externalId: string | null;
  updatedFields: string[];
  previousValues: Record<string, unknown>;
  newValues: Record<string, unknown>;
  requestId: string | null;
  reason: string | null;
  /** Microseconds since 1970. */
  at: bigint;
}

interface EntityRow {
  id: string;
  version: number;
  externalId: string | null;
  values: Record<string, unknown>;
}

/** All events of the organizations, by entity and version. */
export async function readLog(postgres: Postgres, { organizations }: World): Promise<LoggedEvent[]> {
  const rows = await postgres.sql(
    `select id, organization_id, entity_id, entity_version, type, entity_type, external_id, updated_fields, previous_values,
       new_values, request_id, reason, (extract(epoch from recorded_at) * 1000000)::bigint::text as at
     from entity_event where organization_id = any($1::uuid[]) order by entity_id, entity_version`,
    [organizations.map(({ id }) => id)],
  );
  return rows.map((row) => ({
    ...{
      id: row.id,
      organizationId: row.organization_id,
      entityId: row.entity_id,
      version: Number(row.entity_version),
    },
    ...{ type: row.type, entityType: row.entity_type, externalId: row.external_id, updatedFields: row.updated_fields },
    ...{
      previousValues: row.previous_values,
      newValues: row.new_values,
      requestId: row.request_id,
      reason: row.reason,
    },
    at: BigInt(row.at),
  }));
}

/** Checks everything that can be judged by the database and the journal. */
export async function checkDatabase(postgres: Postgres, world: World, log: readonly LoggedEvent[]): Promise<void> {
  const { checks, journal } = world;
  const byRequest = Map.groupBy(
    log.filter(({ requestId }) => requestId !== null),
    ({ requestId }) => requestId as string,
  );
  const recorded = await readRecorded(postgres, world);
  const asked = new Map(journal.intents.map((intent) => [intent.requestId, intent]));
  const byToken = new Map<string, LoggedEvent[]>();
  for (const event of log.filter(({ requestId }) => requestId === null)) {
    const token = String((event.newValues.attributes as { token?: string } | undefined)?.token);
    byToken.set(token, [...(byToken.get(token) ?? []), event]);
  }
  for (const intent of journal.intents) {
    const events = intent.requestId === "" ? byToken.get(intent.token) : byRequest.get(intent.requestId);
    checkIntent(world, intent, events ?? [], recorded);
  }
  for (const [requestId, events] of byRequest) {
    checks.once.count();
    if (!asked.has(requestId))
      checks.once.fail(`${events.length} events of the request ${requestId}, which nobody made`);
    else if (events.length > eventsOf((asked.get(requestId) as Intent).method))
      checks.once.fail(`${events.length} events of ${describe(asked.get(requestId) as Intent)}`);
  }
  const rows = await readEntities(postgres, world);
  checkEntities(world, log, rows);
  checks.merges.count([...rows.values()].filter(({ values }) => values.mergedInto !== undefined).length);
  checks.merges.count(log.filter(({ type }) => type === "UNMERGED").length);
  for (const broken of await brokenMerges((text) => postgres.sql(text))) checks.merges.fail(broken);
  await checkCopies(postgres, world, rows);
  checks.chains.count(log.length);
  for (const broken of await brokenChains(postgres.sql)) checks.chains.fail(broken);
}

/** The service's own verification, once the last checkpoint is made. */
export async function checkAudit({ checks, organizations, services }: World, limitMs: number): Promise<void> {
  const limit = performance.now() + limitMs;
  for (const { name, client } of organizations) {
    const { entities } = client(services[0]?.baseUrl ?? "");
    for (let isWhole = false; !isWhole; ) {
      const findings: AuditFinding[] = [];
      let counts: AuditCounts | undefined;
      for await (const message of entities.verifyAuditTrail({})) {
        findings.push(...message.findings);
        counts = message.counts;
      }
      isWhole = counts?.notInCheckpoint === 0n;
      if (!isWhole && performance.now() < limit) {
        await sleep(500);
        continue;
      }
      checks.audit.count(Number(counts?.verified ?? 0n));
      if (!isWhole) checks.audit.fail(`${name}: ${counts?.notInCheckpoint} events are in no checkpoint`);
      for (const { kind, entityId, entityVersion, eventId, checkpoint, detail } of findings) {
        const where = `${entityId} version ${entityVersion}, event ${eventId}, checkpoint ${checkpoint}`;
        checks.audit.fail(`${name}: ${AuditFindingKindSchema.value[kind]?.localName}, ${where}: ${detail}`);
      }
      break;
    }
  }
}

const describe = ({ method, requestId, attempts }: Intent) =>
  `${method} ${requestId} (${attempts.map(({ outcome }) => outcome).join(", ")})`;

/** How many rows of activity have each token. */
async function readRecorded(postgres: Postgres, { organizations }: World): Promise<Map<string, number>> {
  const rows = await postgres.sql(
    `select token, count(*)::int as count from (
       select details->>'token' as token from transaction where organization_id = any($1::uuid[])
       union all select payload->>'token' from user_event where organization_id = any($1::uuid[])) x group by 1`,
    [organizations.map(({ id }) => id)],
  );
  return new Map(rows.map(({ token, count }) => [token, count]));
}

function checkIntent({ checks }: World, intent: Intent, events: LoggedEvent[], recorded: Map<string, number>): void {
  const { answer, refused, method, token } = intent;
  const isActivity = method === "RecordTransactions" || method === "RecordUserEvents";
  const found = isActivity ? (recorded.get(token) ?? 0) : events.length;
  const isUnknown = wasUnknown(intent);
  const fail = (check: Check, what: string) => {
    check.fail(`${describe(intent)}: ${what}`);
    if (isUnknown && check !== checks.unknown) checks.unknown.fail(`${describe(intent)}: ${what}`);
  };
  if (isUnknown) checks.unknown.count();
  if (intent.isRehearsal) {
    checks.refused.count();
    if (found > 0) fail(checks.refused, "was a rehearsal, and is written");
    return;
  }
  if (intent.requestId === "" && answer === undefined && refused === undefined) {
    checks.once.count();
    if (found > 1) fail(checks.once, `is there ${found} times, and was asked for once, without a request_id`);
    // DATABASE_UNAVAILABLE says that nothing was written.
    if (found > 0 && !isUnknown) fail(checks.refused, "was refused, and is written");
    return;
  }
  if (answer === undefined && refused === undefined) {
    fail(checks.unknown, "nobody knows what became of it");
    return;
  }
  if (answer === undefined) {
    checks.refused.count();
    // An attempt that continued after its caller had left may have been written after the refusal.
    if (found > 0 && !isUnknown) fail(checks.refused, `was refused as ${refused}, and is written`);
    return;
  }
  checks.acknowledged.count();
  const wanted = method === "RecordTransactions" ? 2 : answer.changed ? eventsOf(method) : 0;
  if (found < wanted) return fail(checks.acknowledged, `is not there: ${found} of ${wanted}`);
  if (found > wanted) return fail(checks.once, `is there ${found} times, answered as ${wanted}`);
  if (isActivity || events.length === 0) return;
  // A merge, and its undoing, are answered with the survivor.
  const event = events.find(({ entityId }) => entityId === answer.entityId) ?? (events[0] as LoggedEvent);
  if (events.some(({ at }) => at !== event.at)) fail(checks.acknowledged, "has events of different times");
  if (event.entityId !== answer.entityId)
    fail(checks.acknowledged, `is an event of ${event.entityId}, not ${answer.entityId}`);
  if (answer.updatedAt !== 0n && event.at !== answer.updatedAt)
    fail(checks.acknowledged, "was answered with another time");
  const holds =
    method === "ChangeExternalId"
      ? event.externalId === intent.externalId
      : ["DeleteEntity", "UndeleteEntity", "MergeEntities", "UnmergeEntities"].includes(method)
        ? events.every(({ reason }) => reason?.includes(token))
        : JSON.stringify(event.newValues).includes(token);
  if (!holds) fail(checks.acknowledged, "has not its values in the event");
}

async function readEntities(postgres: Postgres, { organizations }: World): Promise<Map<string, EntityRow>> {
  const rows = await postgres.sql(
    `select e.*, to_char(deleted_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as deleted
     from entity e where organization_id = any($1::uuid[])`,
    [organizations.map(({ id }) => id)],
  );
  return new Map(
    rows.map((row) => {
      const values = {
        ...{ type: row.type, countryCode: row.country_code, externalId: row.external_id, name: row.name },
        ...{ taxId: row.tax_id, status: row.status, nationality: row.nationality },
        entityData: row.entity_data === null ? undefined : { [row.type]: row.entity_data },
        attributes: Object.keys(row.attributes).length === 0 ? undefined : row.attributes,
        metadata: Object.keys(row.metadata).length === 0 ? undefined : row.metadata,
        externalIds: row.external_ids.length === 0 ? undefined : row.external_ids.map(([id]: [string]) => id),
        isDeleted: row.deleted !== null,
        ...{ mergedInto: row.merged_into ?? undefined, taxIdCheck: row.tax_id_check },
      };
      return [row.id, { id: row.id, version: Number(row.version), externalId: row.external_id, values }];
    }),
  );
}

/** The events of each entity, from its first, against each other and its row. */
function checkEntities({ checks }: World, log: readonly LoggedEvent[], rows: Map<string, EntityRow>): void {
  const byEntity = Map.groupBy(log, ({ entityId }) => entityId);
  for (const [entityId, events] of byEntity) {
    const row = rows.get(entityId);
    checks.versions.count();
    checks.fold.count(events.length);
    const versions = events.map(({ version }) => version);
    if (versions.some((version, i) => version !== i + 1)) checks.versions.fail(`${entityId} has ${versions.join(" ")}`);
    if (row === undefined) {
      checks.fold.fail(`${entityId} has ${events.length} events and no row`);
      continue;
    }
    if (row.version !== versions.at(-1))
      checks.versions.fail(`${entityId} has the version ${row.version}, its last event ${versions.at(-1)}`);
    const state: Record<string, unknown> = {};
    for (const event of events) {
      for (const field of event.updatedFields) {
        if (!isDeepStrictEqual(event.previousValues[field] ?? undefined, state[field])) {
          checks.fold.fail(
            `${entityId} version ${event.version}: the previous ${field} is not that of the events before`,
          );
        }
        state[field] = event.newValues[field] ?? undefined;
      }
    }
    const shown: Record<string, unknown> = {
      ...state,
      externalIds: (state.externalIds as { externalId: string }[] | undefined)?.map(({ externalId }) => externalId),
      isDeleted: state.deletedAt !== undefined,
    };
    for (const [field, value] of Object.entries(row.values)) {
      if (!isDeepStrictEqual(value ?? undefined, shown[field]))
        checks.fold.fail(`${entityId}: ${field} of the row is not that of the events`);
    }
  }
  for (const id of rows.keys()) {
    if (byEntity.has(id)) continue;
    checks.versions.count();
    checks.fold.fail(`${id} has a row and no event`);
  }
}

/** External ids: those of the row, of their table, and of each row of activity. */
async function checkCopies(
  postgres: Postgres,
  { checks, organizations }: World,
  rows: Map<string, EntityRow>,
): Promise<void> {
  const ids = organizations.map(({ id }) => id);
  const attached = await postgres.sql(
    "select entity_id, array_agg(external_id) as all, (array_agg(external_id) filter (where is_primary)) as primaries from external_id where organization_id = any($1::uuid[]) group by 1",
    [ids],
  );
  const tables = new Map(attached.map((row) => [row.entity_id, row]));
  for (const { id, externalId, values } of rows.values()) {
    checks.copies.count();
    const table = tables.get(id);
    const own = [...((values.externalIds as string[] | undefined) ?? [])].sort();
    if (!isDeepStrictEqual(own, [...(table?.all ?? [])].sort()))
      checks.copies.fail(`${id}: the row and the table of external ids differ`);
    if (!isDeepStrictEqual(table?.primaries ?? null, externalId === null ? null : [externalId])) {
      checks.copies.fail(`${id}: the row and the table have another primary external id`);
    }
  }
  for (const problem of await externalIdProblems((text) => postgres.sql(text))) checks.copies.fail(problem);
  for (const [table, entity, copy] of [
    ["transaction", "origin_entity_id", "origin_external_id"],
    ["transaction", "destination_entity_id", "destination_external_id"],
    ["user_event", "entity_id", "entity_external_id"],
  ] as const) {
    const [row] = await postgres.sql(
      `select count(*)::int as rows, count(*) filter (where t.${copy} <> e.external_id)::int as stale
       from ${table} t join entity e on e.organization_id = t.organization_id and e.id = t.${entity}
       where t.organization_id = any($1::uuid[])`,
      [ids],
    );
    checks.copies.count(row?.rows);
    if (row?.stale > 0) checks.copies.fail(`${row?.stale} of ${row?.rows} rows of ${table} have an old ${copy}`);
  }
}

// --- Time ---------------------------------------------------------------------------------------

/** A few seconds in which a process may not know yet. */
const HEALTH_MS = 6_000;
const LEAST_WRITES = 5;

/** No process reports SERVING for longer than that while none of the writes that it ends succeeds. */
export function checkHealth({ checks, services, journal }: World, describe: (at: number) => string): void {
  for (const service of services) {
    // A process that is not running reports nothing, and its last report no longer counts.
    const isDown = ({ began, ended }: Write) => service.down.some(({ from, to }) => from <= ended && to >= began);
    const writes = journal.writes
      .filter((write) => write.service === service && !write.isRehearsal && !isDown(write))
      .sort((a, b) => a.ended - b.ended);
    /** The stretches between two writes that succeeded. */
    let failing: Write[] = [];
    const judge = (until: number) => {
      const [first] = failing;
      if (first === undefined || failing.length < LEAST_WRITES) return;
      // Readiness writes nothing, so it does not see a full disk; and reads are served.
      if (describe(first.ended).includes("disk full")) return;
      const since = Math.max(first.ended, ...service.down.map(({ to }) => to).filter((to) => to <= until));
      const samples = service.health.filter(({ at }) => at >= since + HEALTH_MS && at <= until);
      checks.health.count(samples.length);
      const wrong = samples.filter(({ isServing }) => isServing);
      if (wrong.length === 0) return;
      const seconds = ((until - first.ended) / 1000).toFixed(1);
      checks.health.fail(
        `${service.name} said SERVING ${wrong.length} of ${samples.length} times after ${HEALTH_MS / 1000} s without a write, ${seconds} s in all, ${describe(first.ended)}`,
      );
    };
    for (const write of writes) {
      if (!write.isDone) {
        failing.push(write);
        continue;
      }
      // A call that succeeded was being processed since it began.
      judge(write.began);
      failing = [];
    }
    judge(failing.at(-1)?.ended ?? 0);
    checks.health.count(service.health.length);
  }
}

// --- Watchers -----------------------------------------------------------------------------------

const typeName = (type: EventType) => EventTypeSchema.value[type]?.localName;

const fits = ({ types, entityTypes, entityId }: Filter, event: LoggedEvent): boolean =>
  (types === undefined || types.some((type) => typeName(type) === event.type)) &&
  (entityTypes === undefined || entityTypes.some((type) => (type === 1 ? "person" : "company") === event.entityType)) &&
  (entityId === undefined || entityId === event.entityId);

/** Events that a watcher neither received nor found in a list. */
export function missingOf(watcher: Watcher, log: readonly LoggedEvent[]): LoggedEvent[] {
  const seen = new Set(watcher.streams.flat().map(({ id }) => id));
  const merged = Map.groupBy(
    log.filter(({ type }) => type === "MERGED"),
    ({ entityId }) => entityId,
  );
  // What is not in a list, and was merged before it, is not for a list to show.
  const isMergedIn = ({ shown, at }: Watcher["lists"][number], event: LoggedEvent) =>
    !shown.has(event.entityId) && (merged.get(event.entityId) ?? []).some((one) => event.at <= one.at && one.at <= at);
  return log.filter(
    (event) =>
      event.organizationId === watcher.organization.id &&
      fits(watcher.filter, event) &&
      !seen.has(event.id) &&
      !watcher.lists.some((list) => (list.shown.get(event.entityId) ?? 0n) >= event.at || isMergedIn(list, event)),
  );
}

export function checkWatcher(
  { checks }: World,
  watcher: Watcher,
  log: readonly LoggedEvent[],
  describe: (at: number) => string,
): void {
  const { organization, filter, streams, told } = watcher;
  const name = `${organization.name}, ${filter.name}`;
  const known = new Map(log.map((event) => [event.id, event]));
  const missing = missingOf(watcher, log);
  checks.watched.count(log.filter((event) => event.organizationId === organization.id && fits(filter, event)).length);
  if (missing.length > 0) {
    const times = [...new Set(missing.map(({ at }) => describe(Number(at / 1000n) - performance.timeOrigin)))].join(
      "; ",
    );
    checks.watched.fail(`${name}: ${missing.length} events never came, written ${times} (told ${told.length} times)`);
  }
  for (const [number, stream] of streams.entries()) {
    checks.streams.count(stream.length);
    const own = new Set<string>();
    const last = new Map<string, number>();
    for (const { id, entityId, version, requestId } of stream) {
      const at = `${name}, stream ${number}, ${entityId} version ${version}`;
      const event = known.get(id);
      if (event === undefined) checks.streams.fail(`${at} is not in the log`);
      else if (event.entityId !== entityId || event.version !== version || (event.requestId ?? "") !== requestId)
        checks.streams.fail(`${at} is another in the log`);
      else if (!fits(filter, event)) checks.streams.fail(`${at} does not fit the filter`);
      if (own.has(id)) checks.streams.fail(`${at} came twice`);
      own.add(id);
      const before = last.get(entityId);
      if (before !== undefined && (version <= before || (filter.types === undefined && version !== before + 1))) {
        checks.streams.fail(`${at} came after ${before}`);
      }
      last.set(entityId, version);
    }
  }
}
