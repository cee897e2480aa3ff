// Lists of entities, by id.

import { type Bound, type Part, partOf, withinBytes } from "../db/bytes.ts";
import type { Statements } from "../db/statements.ts";
import type { EntityState } from "../domain/entity-state.ts";
import { type Instant, instantToText } from "../domain/time.ts";
import { readHorizon } from "../log/horizon.ts";
import { hasWords, type NameSource, nameSource } from "./name-search.ts";
import { ENTITY_BYTES, ENTITY_COLUMNS, toState } from "./rows.ts";
import { listedByForms, listedByKey } from "./tax-id-holders.ts";

/** Filters of a list; undefined or empty filters nothing. */
export interface EntityFilter {
  after: string | undefined;
  bound: Bound;
  type: string | undefined;
  statuses: string[];
  countryCodes: string[];
  taxIdKey: string | undefined;
  externalIds: string[] | undefined;
  namePrefix: string;
  /** As queryWords has them. */
  nameWords: string[] | undefined;
  updatedAfter: Instant | undefined;
  showDeleted: boolean;
}

interface ListedEntities extends Part<EntityState> {
  /** Set where the list was not looked through to its end: the rest is behind this id. */
  end?: string | undefined;
}

/** Entities by id. */
export async function listEntities(
  db: Statements,
  organizationId: string,
  filter: EntityFilter,
): Promise<ListedEntities> {
  const { updatedAfter } = filter;
  const entities = await listBy(db, organizationId, filter, { byLog: true });
  if (updatedAfter === undefined) return entities;
  // Read after the list: it tells whether the log still reached back that far.
  const horizon = await readHorizon(db, organizationId);
  if (horizon === undefined || horizon.recordedAt <= updatedAfter) return entities;
  return listBy(db, organizationId, filter, { byLog: false });
}

/** Only the filters that are used are in the statement, so that each form has its own plan. */
async function listBy(
  db: Statements,
  organizationId: string,
  filter: EntityFilter,
  { byLog }: { byLog: boolean },
): Promise<ListedEntities> {
  const values: unknown[] = [organizationId, filter.bound.rows];
  const value = (item: unknown) => `$${values.push(item)}`;
  const where = ["e.organization_id = $1", "e.merged_into is null"];
  if (filter.after !== undefined) where.push(`e.id > ${value(filter.after)}::uuid`);
  if (!filter.showDeleted) where.push("e.deleted_at is null");
  if (filter.type !== undefined) where.push(`e.type = ${value(filter.type)}`);
  if (filter.statuses.length > 0) where.push(`e.status = any(${value(filter.statuses)}::text[])`);
  if (filter.countryCodes.length > 0) where.push(`e.country_code = any(${value(filter.countryCodes)}::text[])`);
  const { taxIdKey, showDeleted } = filter;
  if (taxIdKey !== undefined) {
    const isKey = await isTaxIdKey(db, organizationId, taxIdKey, { showDeleted });
    const listed = isKey
      ? listedByKey(value(taxIdKey), { showDeleted })
      : listedByForms(taxIdKey, { showDeleted, bind: value });
    where.push(`e.id in (${listed})`);
  }
  if (filter.externalIds !== undefined) {
    where.push(`e.id in (select x.entity_id from external_id x
      where x.organization_id = $1 and x.external_id = any(${value(filter.externalIds)}::text[]))`);
  }
  if (filter.namePrefix !== "") {
    // A range and not LIKE, which is not leakproof and so would not use the index under row level security.
    where.push(`e.name >= ${value(filter.namePrefix)}`);
    const end = afterPrefix(filter.namePrefix);
    if (end !== undefined) where.push(`e.name < ${value(end)}`);
  }
  if (filter.updatedAfter !== undefined) {
    // Every change has an event of the same time, and the log is indexed by time; entities are not.
    const after = value(instantToText(filter.updatedAfter));
    where.push(
      byLog
        ? `e.id in (select v.entity_id from entity_event v
           where v.organization_id = $1 and v.recorded_at > ${after}::timestamptz)`
        : `e.updated_at > ${after}::timestamptz`,
    );
  }
  const { after, nameWords } = filter;
  let source: NameSource = { from: "entity e", order: "e.id", end: undefined };
  if (nameWords !== undefined) {
    where.push(hasWords(nameWords, value));
    const isNarrow =
      filter.taxIdKey !== undefined || filter.externalIds !== undefined || filter.updatedAfter !== undefined;
    if (!isNarrow) source = await nameSource(db, organizationId, { words: nameWords, after, bind: value });
  }
  const rows = await db.execute<unknown[]>(
    withinBytes(
      `select ${ENTITY_COLUMNS}, ${ENTITY_BYTES} as bytes
       from ${source.from} where ${where.join(" and ")} order by ${source.order} limit $2`,
      filter.bound.bytes,
      "id",
    ),
    values,
  );
  const part = partOf(rows, toState);
  if (source.end === undefined || part.isCut || part.rows.length === filter.bound.rows) return part;
  const end = await source.end(db);
  const last = part.rows.at(-1)?.id;
  // Entities may have come in between: nothing that is shown comes again.
  return { ...part, end: end !== undefined && last !== undefined && last > end ? last : end };
}

/** Rule 158: whether the list by it has an entity whose key this is. */
async function isTaxIdKey(
  db: Statements,
  organizationId: string,
  key: string,
  { showDeleted }: { showDeleted: boolean },
): Promise<boolean> {
  const [row] = await db.execute<{ is_key: boolean }[]>(
    `select exists (
       select from entity e where e.organization_id = $1 and e.id in (${listedByKey("$2", { showDeleted })})
         and e.merged_into is null ${showDeleted ? "" : "and e.deleted_at is null"}) as is_key`,
    [organizationId, key],
  );
  return row?.is_key === true;
}

/** The first text in code point order (collation "C") after all that begin with `prefix`, if there is one. */
function afterPrefix(prefix: string): string | undefined {
  const points = [...prefix];
  for (let last = points.pop(); last !== undefined; last = points.pop()) {
    const next = (last.codePointAt(0) ?? 0) + 1;
    // Surrogates are no characters: the one after U+D7FF is U+E000.
    if (next <= 0x10ffff) return points.join("") + String.fromCodePoint(next === 0xd800 ? 0xe000 : next);
  }
  return undefined;
}
