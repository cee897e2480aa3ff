// The past of external ids: a row for each time that one has left an entity. The period that goes on is the row of
// external_id, so that to attach one writes nothing here.

import { columnsOf, hydrator, insertOf, type RowOf, selected } from "../db/columns.ts";
import { ExternalIdPastRow } from "../db/schema.ts";
import type { Pipeline, Statements } from "../db/statements.ts";
import { type Instant, instantToText } from "../domain/time.ts";
import type { Move } from "./command.ts";

export type PastExternalId = Omit<RowOf<typeof ExternalIdPastRow>, "organizationId">;

const COLUMNS = columnsOf(ExternalIdPastRow);
const insertRows = insertOf<PastExternalId>("external_id_past", COLUMNS);
const toPeriod = hydrator<typeof ExternalIdPastRow>(COLUMNS);
const PAST_COLUMNS = selected(COLUMNS, "v");
/** Of external_id: what only a period that has ended has is null. */
const OPEN_COLUMNS = COLUMNS.map(({ property, name, type }) =>
  ["detachedAt", "cause", "eventId"].includes(property) ? `null::${type} as ${name}` : `v.${name}`,
).join(", ");

/** Rule 137: the periods that end with a move, which is one of the `moves` of its command. */
export function endedPeriods(
  { before, after, change }: Move,
  moves: readonly Move[],
  eventId: string,
): PastExternalId[] {
  // Rules keep what they do not change.
  if (change === null || before?.externalIds === after.externalIds) return [];
  const old = new Map(before?.externalIds.map((id) => [id.externalId, id]));
  for (const { externalId, attachedAt } of after.externalIds) {
    const had = old.get(externalId);
    old.delete(externalId);
    // Else the period would overlap with that of the entity before, or begin without an event.
    if (attachedAt !== (had?.attachedAt ?? after.updatedAt)) throw new Error("a rule attached an id at another time");
  }
  const isElsewhere = (externalId: string) =>
    moves.some((other) => other.after !== after && other.after.externalIds.some((id) => id.externalId === externalId));
  return [...old.values()].map(({ externalId, attachedAt, type }) => ({
    externalId,
    attachedAt,
    detachedAt: after.updatedAt,
    entityId: after.id,
    type: type === "" ? null : type,
    cause: change.detaches ?? (isElsewhere(externalId) ? "MOVED" : "CHANGED"),
    eventId,
  }));
}

export function insertPast(db: Pipeline, organizationId: string, periods: readonly PastExternalId[]): void {
  if (periods.length === 0) return;
  db.send(...insertRows(organizationId, periods));
}

/** A time at which an entity had an external id; the last three are null while it does. */
export type ExternalIdPeriod = Omit<PastExternalId, "detachedAt" | "cause" | "eventId"> & {
  [Property in "detachedAt" | "cause" | "eventId"]: PastExternalId[Property] | null;
};

/** The history of an external id, or of all those of an entity and of what is merged into it. */
export type HistoryOf = { externalId: string } | { entityId: string };

/** Periods, newest first: by the time at which they began, and by external id. */
export async function listPeriods(
  db: Statements,
  organizationId: string,
  of: HistoryOf,
  { before, rows }: { before: { attachedAt: Instant; externalId: string } | undefined; rows: number },
): Promise<ExternalIdPeriod[]> {
  const older = before === undefined ? "" : "and (v.attached_at, v.external_id) < ($4::timestamptz, $5)";
  const order = "order by attached_at desc, external_id desc limit $3";
  const part = (columns: string, table: string, where: string) =>
    `(select ${columns} from ${table} v where v.organization_id = $1 and v.${where} ${older} ${order})`;
  const parts =
    "externalId" in of
      ? [
          part(OPEN_COLUMNS, "external_id", "external_id = $2"),
          part(PAST_COLUMNS, "external_id_past", "external_id = $2"),
        ]
      : [
          // What is merged has no external id now.
          part(OPEN_COLUMNS, "external_id", "entity_id = $2::uuid"),
          `(select v.* from (select $2::uuid as id union all
              select g.id from entity g where g.organization_id = $1 and g.survivor_id = $2::uuid) m
            cross join lateral ${part(PAST_COLUMNS, "external_id_past", "entity_id = m.id")} v ${order})`,
        ];
  const found = await db.execute<unknown[]>(`${parts.join(" union all ")} ${order}`, [
    organizationId,
    "externalId" in of ? of.externalId : of.entityId,
    rows,
    ...(before === undefined ? [] : [instantToText(before.attachedAt), before.externalId]),
  ]);
  return found.map(toPeriod) as ExternalIdPeriod[];
}
