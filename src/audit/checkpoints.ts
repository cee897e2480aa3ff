// Rows of audit_checkpoint and audit_key. Nothing of a checkpoint is ever changed but that its leaves go with its events.

import { type Bound, type Part, partOf, withinBytes } from "../db/bytes.ts";
import { columnsOf, hydrator, insertOf, type RowOf, selected } from "../db/columns.ts";
import { AuditCheckpointRow } from "../db/schema.ts";
import type { Statements } from "../db/statements.ts";
import { type Instant, instantToText, parseInstant } from "../domain/time.ts";
import { parseSnapshot, type Snapshot } from "../log/snapshot.ts";

/** As it is stored, without its leaves. */
export type StoredCheckpoint = Omit<RowOf<typeof AuditCheckpointRow>, "leaves">;

const COLUMNS = columnsOf(AuditCheckpointRow);
const SELECT = `select ${selected(COLUMNS, "c")}`;
const toCheckpoint: (row: unknown) => StoredCheckpoint = hydrator<typeof AuditCheckpointRow>(COLUMNS);

const insertRows = insertOf<StoredCheckpoint & { leaves: Buffer }>("audit_checkpoint", COLUMNS, {
  rest: "on conflict (organization_id, number) do nothing returning number",
});

/** Writes a checkpoint behind the last one. False: another process has written one with this number. */
export async function insertCheckpoint(
  db: Statements,
  organizationId: string,
  checkpoint: StoredCheckpoint & { leaves: Buffer },
): Promise<boolean> {
  const rows = await db.execute<unknown[]>(...insertRows(organizationId, [checkpoint]));
  return rows.length === 1;
}

/** Remembers a public key. */
export async function insertKey(
  db: Statements,
  { keyId, publicKey }: { keyId: Buffer; publicKey: Buffer },
): Promise<void> {
  await db.execute("insert into audit_key (key_id, public_key) values ($1, $2) on conflict (key_id) do nothing", [
    keyId,
    publicKey,
  ]);
}

/** The last checkpoint; undefined where there is none. */
export async function lastCheckpoint(db: Statements, organizationId: string): Promise<StoredCheckpoint | undefined> {
  const rows = await db.execute<unknown[]>(
    `${SELECT} from audit_checkpoint c where c.organization_id = $1 order by c.number desc limit 1`,
    [organizationId],
  );
  return rows.map(toCheckpoint)[0];
}

/** The number of the first checkpoint with an event of this time or later; undefined where there is none. */
export async function firstSince(db: Statements, organizationId: string, since: Instant): Promise<number | undefined> {
  const [row] = await db.execute<{ number: string }[]>(
    `select number from audit_checkpoint where organization_id = $1 and last_at >= $2::timestamptz order by number limit 1`,
    [organizationId, instantToText(since)],
  );
  return row && Number(row.number);
}

/** Where a checkpoint ends; undefined where there is no such checkpoint. */
export async function endOf(db: Statements, organizationId: string, number: number): Promise<Place | undefined> {
  const [row] = await db.execute<{ epoch: number; to_position: string }[]>(
    "select epoch, to_position from audit_checkpoint where organization_id = $1 and number = $2::bigint",
    [organizationId, String(number)],
  );
  return row && { epoch: row.epoch, position: parseSnapshot(row.to_position) };
}

/** Where something ends, or begins: what the position sees, in the log of that number, is before it. */
export interface Place {
  epoch: number;
  position: Snapshot;
}

/** Where the first checkpoint of every organization begins. */
export async function startOfAll(db: Statements): Promise<Place> {
  const [row] = await db.execute<{ epoch: number; position: string }[]>("select epoch, position from audit_start", []);
  if (row === undefined) throw new Error("checkpoints have no beginning");
  return { epoch: row.epoch, position: parseSnapshot(row.position) };
}

export type ListedCheckpoint = StoredCheckpoint & { leaves: Buffer | null };

/** Checkpoints behind a number, in their order, with their leaves if they are asked for. */
export async function listCheckpoints(
  db: Statements,
  organizationId: string,
  { after, withLeaves, bound }: { after: number; withLeaves: boolean; bound: Bound },
): Promise<Part<ListedCheckpoint>> {
  const leaves = withLeaves ? "c.leaves" : "null::bytea";
  const rows = await db.execute<unknown[]>(
    withinBytes(
      `${SELECT}, ${leaves} as leaves, octet_length(c.body) + coalesce(octet_length(${leaves}), 0) as bytes
       from audit_checkpoint c where c.organization_id = $1 and c.number > $2 order by c.number limit $3`,
      bound.bytes,
      "number",
    ),
    [organizationId, after, bound.rows],
  );
  return partOf(rows, (row: { leaves: Buffer | null }) => ({ ...toCheckpoint(row), leaves: row.leaves }));
}

/** The body of each of these checkpoints that is there, by its number. */
export async function bodiesOf(
  db: Statements,
  organizationId: string,
  numbers: readonly number[],
): Promise<Map<number, string>> {
  const rows = await db.execute<{ number: string; body: string }[]>(
    "select number, body from audit_checkpoint where organization_id = $1 and number = any($2::bigint[])",
    [organizationId, numbers.map(String)],
  );
  return new Map(rows.map(({ number, body }) => [Number(number), body]));
}

export interface StoredKey {
  keyId: Buffer;
  publicKey: Buffer;
  firstUsedAt: Instant;
}

/** All keys that ever signed, the oldest first. */
export async function listKeys(db: Statements): Promise<StoredKey[]> {
  const rows = await db.execute<{ key_id: Buffer; public_key: Buffer; first_used_at: string }[]>(
    "select key_id, public_key, first_used_at from audit_key order by first_used_at, key_id",
    [],
  );
  return rows.map((row) => ({
    keyId: row.key_id,
    publicKey: row.public_key,
    firstUsedAt: parseInstant(row.first_used_at),
  }));
}
