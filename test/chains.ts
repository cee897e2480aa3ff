// Rules 122 to 125, computed again from the rows alone: by a library that writes JSON in the form of RFC 8785 and by the
// text of the contract, with nothing of the code that seals.
import { createHash, randomBytes } from "node:crypto";
import canonicalize from "canonicalize";

type Sql = (text: string, values?: unknown[]) => Promise<Record<string, unknown>[]>;

/** A row of the log with its times to the microsecond. */
export type ChainedEvent = Record<string, unknown> & { recorded: string; occurred: string | null };

const time = (column: string) => `to_char(${column} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`;
const EVENTS = `select *, ${time("recorded_at")} as recorded, ${time("occurred_at")} as occurred
  from entity_event where $1::uuid[] is null or entity_id = any($1) order by organization_id, entity_id, entity_version`;

const sha256 = (before: Buffer, values: unknown[]) =>
  createHash("sha256")
    .update(before)
    .update(canonicalize(values) as string)
    .digest();

const NOTHING = Buffer.alloc(32);

/** Three decimals where that is all. */
const asStored = (text: string | null) => text?.replace(/000Z$/, "Z") ?? null;

export const personalHash = (event: ChainedEvent, salt = event.salt as Buffer): Buffer =>
  sha256(salt, [
    event.external_id,
    event.external_ids,
    event.previous_values,
    event.new_values,
    event.reason,
    event.metadata,
  ]);

export const eventHash = (event: ChainedEvent): Buffer =>
  sha256(event.previous_hash as Buffer, [
    "entity-event/1",
    event.organization_id,
    event.id,
    event.entity_id,
    Number(event.entity_version),
    event.entity_type,
    event.type,
    event.updated_fields,
    event.actor,
    event.principal,
    event.source,
    event.request_id,
    asStored(event.recorded),
    asStored(event.occurred),
    (event.personal_hash as Buffer).toString("hex"),
  ]);

/** The events of some entities or of all, in the order of their versions. */
export const readChained = (sql: Sql, entityIds: readonly string[] | null = null): Promise<ChainedEvent[]> =>
  sql(EVENTS, [entityIds]) as Promise<ChainedEvent[]>;

/**
 * What is wrong with the chains of a database all of whose events were written by the service as it is. The first events
 * of an entity may be gone where the organization's log was pruned.
 */
export async function brokenChains(sql: Sql): Promise<string[]> {
  const broken: string[] = [];
  const pruned = new Set((await sql("select organization_id as id from event_horizon")).map(({ id }) => id));
  const last = new Map<unknown, { hash: Buffer; version: number }>();
  const salts = new Set<string>();
  for (const event of await readChained(sql)) {
    const version = Number(event.entity_version);
    const at = `${event.entity_id} version ${version}`;
    const { salt, personal_hash, previous_hash, hash } = event as Record<string, Buffer | null>;
    if (salt == null || personal_hash == null || previous_hash == null || hash == null) {
      broken.push(`${at}: is not sealed`);
      continue;
    }
    const begins = version === 1 || !pruned.has(event.organization_id);
    const before = last.get(event.entity_id) ?? {
      hash: begins ? NOTHING : previous_hash,
      version: begins ? 0 : version - 1,
    };
    if (version !== before.version + 1) broken.push(`${at}: a version before it is missing`);
    if (salt.length !== 16 || salts.has(salt.toString("hex"))) broken.push(`${at}: the salt is another's`);
    salts.add(salt.toString("hex"));
    if (!personal_hash.equals(personalHash(event))) broken.push(`${at}: the personal values are others`);
    if (!previous_hash.equals(before.hash)) broken.push(`${at}: does not follow the version before`);
    if (!hash.equals(eventHash(event))) broken.push(`${at}: the hash is another`);
    last.set(event.entity_id, { hash, version });
  }
  const heads = await sql("select organization_id, id, version, audit_head as head from entity");
  for (const { organization_id: organization, id, version, head } of heads) {
    const { hash, version: newest } = last.get(id) ?? {};
    last.delete(id);
    if (hash === undefined) {
      if (!pruned.has(organization) || !Buffer.isBuffer(head)) broken.push(`${id}: has no event`);
    } else if (newest !== Number(version)) broken.push(`${id}: the event of its version is missing`);
    else if (!hash.equals(head as Buffer)) broken.push(`${id}: the head is not its last event's hash`);
  }
  for (const id of last.keys()) broken.push(`${id}: has events and is no entity`);
  return broken;
}

/** Seals what a test has written or changed by SQL, of some entities or of all, so that the chains are whole again. */
export async function reseal(sql: Sql, entityIds?: readonly string[]): Promise<void> {
  const events = await readChained(sql, entityIds);
  const last = new Map<unknown, Buffer>();
  for (const event of events) {
    event.salt ??= randomBytes(16);
    event.previous_hash = last.get(event.entity_id) ?? (event.entity_version === "1" ? NOTHING : event.previous_hash);
    event.personal_hash = personalHash(event);
    event.hash = eventHash(event);
    last.set(event.entity_id, event.hash as Buffer);
  }
  const seals = ["salt", "personal_hash", "previous_hash", "hash"];
  await sql(
    `update entity_event v set ${seals.map((name) => `${name} = s.${name}`).join(", ")}
     from unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[]) as s(id, ${seals.join(", ")})
     where v.id = s.id`,
    ["id", ...seals].map((name) => events.map((event) => event[name])),
  );
  await sql(
    "update entity e set audit_head = s.hash from unnest($1::uuid[], $2::bytea[]) as s(id, hash) where e.id = s.id",
    [[...last.keys()], [...last.values()]],
  );
}
