// What is stored of tax ids, computed anew (rule 157): entities by id, a step at a time. Keys are no value of an entity and
// are written without an event; checks are commands like any other, which the caller sends.
import { createHash } from "node:crypto";
import { readAcross } from "../db/across.ts";
import type { Orm } from "../db/orm.ts";
import type { Statements } from "../db/statements.ts";
import { pipelined } from "../db/transaction.ts";
import { type EntityState, taxIdCanonicalOf, taxIdKeyOf } from "../domain/entity-state.ts";
import { LIMITS } from "../domain/limits.ts";
import { checkTaxId, TAX_ID_RULES, type TaxIdCheck } from "../domain/tax-id.ts";

/** Entities of one step. */
export const RECHECK_STEP = 500;

/** What an entity's row has of a tax id. */
interface StoredTaxId extends Pick<EntityState, "id" | "type" | "countryCode" | "taxId" | "taxIdCheck"> {
  key: string | null;
  canonical: string | null;
  rules: number;
  /** Neither deleted nor merged: its check may be written. */
  isLive: boolean;
}

/** An entity of which something differs. */
export interface TaxIdRecheck {
  entityId: string;
  isLive: boolean;
  /** Digests of what it can be found by; none where it is not live, as of the next three. */
  previousKeys: Buffer[];
  keys: Buffer[];
  /** Live entities that have one of these stored. */
  previousHolders: string[];
  holders: string[];
  previousCheck: TaxIdCheck | null;
  check: TaxIdCheck | null;
}

export interface RecheckedStep {
  changes: TaxIdRecheck[];
  entities: number;
  /** Undefined: there are no more. */
  lastId: string | undefined;
}

/** Rule 156: says in the log where tax ids of an older version are left: what they are found by may be incomplete. */
export async function tellOfOlderTaxIds(
  orm: Orm,
  { log, describe }: { log: { warn(what: object, message: string): void }; describe(error: unknown): object },
): Promise<void> {
  try {
    const rows = await readAcross(orm, (db) =>
      db.execute<{ organization_id: string }[]>("select organization_id from list_older_tax_ids($1)", [LOOK_ROWS]),
    );
    if (rows.length === 0) return;
    const organizations = rows.slice(0, NAMED).map((row) => row.organization_id);
    log.warn(
      { organizations },
      "tax ids of an older version: run entity-service tax-ids recheck for each organization",
    );
  } catch (error) {
    log.warn(describe(error), "could not look for tax ids of an older version");
  }
}

/** Rows that the look reads, and organizations that it names. */
const [LOOK_ROWS, NAMED] = [10_000, 20];

/** A step behind the entity of an id. With `apply` it writes the keys that differ, and the version of all. */
export function recheckTaxIds(
  orm: Orm,
  organizationId: string,
  { after, apply }: { after: string | undefined; apply: boolean },
): Promise<RecheckedStep> {
  return pipelined(orm, organizationId, async (db) => {
    const rows = await readStored(db, organizationId, after);
    const computed = rows.map((row) => ({ row, now: nowOf(row) }));
    const different = computed.filter(
      ({ row, now }) => now.key !== row.key || now.canonical !== row.canonical || now.taxIdCheck !== row.taxIdCheck,
    );
    const live = different.filter(({ row }) => row.isLive);
    // Of the time before this step writes.
    const previous = await readHolders(
      db,
      organizationId,
      live.map(({ row }) => row),
    );
    const next = await readHolders(
      db,
      organizationId,
      live.map(({ now }) => now),
    );
    const older = computed.filter(({ row }) => row.rules !== TAX_ID_RULES && row.taxId !== null);
    if (apply)
      await writeKeys(
        db,
        organizationId,
        [...new Set([...different, ...older])].map(({ now }) => now),
      );
    return {
      changes: different.map(({ row, now }) => ({
        entityId: row.id,
        isLive: row.isLive,
        previousKeys: row.isLive ? digestsOf(organizationId, row) : [],
        keys: row.isLive ? digestsOf(organizationId, now) : [],
        previousHolders: previous.get(row.id) ?? [],
        holders: next.get(row.id) ?? [],
        previousCheck: row.taxIdCheck,
        check: now.taxIdCheck,
      })),
      entities: rows.length,
      lastId: rows.length < RECHECK_STEP ? undefined : rows.at(-1)?.id,
    };
  });
}

/** The same with what would be written today. */
function nowOf(row: StoredTaxId): StoredTaxId {
  const { taxId, countryCode, type, isLive } = row;
  const taxIdCheck = isLive && taxId !== null ? checkTaxId(taxId, countryCode, type) : row.taxIdCheck;
  return { ...row, key: taxIdKeyOf(row), canonical: taxIdCanonicalOf(row), taxIdCheck };
}

/** The key, and the form in its country: that of which no form is stored is taken for its own. */
function digestsOf(organizationId: string, { key, canonical, countryCode }: StoredTaxId): Buffer[] {
  if (key === null) return [];
  const digest = (text: string) => createHash("sha256").update(`${organizationId} ${text}`).digest().subarray(0, 16);
  return [digest(key), digest(`${countryCode} ${canonical ?? key}`)];
}

async function readStored(db: Statements, organizationId: string, after: string | undefined): Promise<StoredTaxId[]> {
  return db.execute<StoredTaxId[]>(
    `select e.id, e.type, e.country_code as "countryCode", e.tax_id as "taxId", e.tax_id_check as "taxIdCheck",
       e.tax_id_key as key, e.tax_id_canonical as canonical, e.tax_id_rules as rules,
       e.deleted_at is null and e.merged_into is null as "isLive"
     from entity e where e.organization_id = $1 ${after === undefined ? "" : "and e.id > $2::uuid"}
     order by e.id limit ${RECHECK_STEP}`,
    after === undefined ? [organizationId] : [organizationId, after],
  );
}

/** By entity, the others that have its key, or its form in its country. */
async function readHolders(
  db: Statements,
  organizationId: string,
  entities: readonly StoredTaxId[],
): Promise<Map<string, string[]>> {
  const withKeys = entities.filter(({ key }) => key !== null);
  if (withKeys.length === 0) return new Map();
  const live = (match: string) =>
    `(select e.id from entity e where e.organization_id = $1 and ${match} and e.deleted_at is null
        and e.merged_into is null order by e.id limit ${LIMITS.candidates + 1})`;
  const rows = await db.execute<{ of: string; id: string }[]>(
    `select v.id as of, h.id from unnest($2::uuid[], $3::text[], $4::text[], $5::text[]) as v(id, key, form, country)
     cross join lateral (
       select distinct q.id from (
         ${live("e.tax_id_key = v.key")} union all
         ${live("e.tax_id_key = v.form and e.country_code = v.country")} union all
         ${live("e.tax_id_canonical = v.form and e.country_code = v.country")}) q
       where q.id <> v.id order by q.id limit ${LIMITS.candidates}) h`,
    [
      organizationId,
      withKeys.map(({ id }) => id),
      withKeys.map(({ key }) => key),
      withKeys.map(({ key, canonical }) => canonical ?? key),
      withKeys.map(({ countryCode }) => countryCode),
    ],
  );
  return new Map([...Map.groupBy(rows, ({ of }) => of)].map(([of, holders]) => [of, holders.map(({ id }) => id)]));
}

/** Of rows whose tax id is still that of which the keys are, locked in the order in which everybody locks them. */
async function writeKeys(db: Statements, organizationId: string, entities: readonly StoredTaxId[]): Promise<void> {
  if (entities.length === 0) return;
  await db.execute(
    `with locked as materialized (
       select e.id, v.key, v.form from unnest($2::uuid[], $3::text[], $4::text[], $5::text[]) as v(id, tax_id, key, form)
       join entity e on e.organization_id = $1 and e.id = v.id
       where e.tax_id is not distinct from v.tax_id
       order by e.id for no key update of e)
     update entity e set tax_id_key = l.key, tax_id_canonical = l.form, tax_id_rules = ${TAX_ID_RULES}
     from locked l where e.organization_id = $1 and e.id = l.id`,
    [
      organizationId,
      entities.map(({ id }) => id),
      entities.map(({ taxId }) => taxId),
      entities.map(({ key }) => key),
      entities.map(({ canonical }) => canonical),
    ],
  );
}
