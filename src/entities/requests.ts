// request_id: a claim at the beginning of the transaction, the answer at its end, both in the transaction
// of the effect (rule 39). A second call with the same id waits on the claim of the first.

import type { Statements } from "../db/statements.ts";
import { DomainError } from "../domain/errors.ts";

/** The identity of a request: its owner, the id, and the hash of all else. */
export interface RequestKey {
  /** The API key. */
  principal: string;
  /** The RPC's name. */
  method: string;
  /** A UUID in lower case. */
  requestId: string;
  hash: Buffer;
}

/** "claimed" to go on, "later" for the second of one id in a group, else what was answered before or why it is refused. */
export type Claim = "claimed" | "later" | { answer: Uint8Array } | { refused: DomainError };

const REMEMBERED = "24 hours";

const nameOf = (key: { principal: string; method: string; requestId: string }) =>
  `${key.principal} ${key.method} ${key.requestId}`;
const columns = (keys: readonly RequestKey[]) => [
  keys.map((key) => key.principal),
  keys.map((key) => key.method),
  keys.map((key) => key.requestId),
];

/** Claims each request that is there; undefined needs no claim. */
export async function claimRequests(
  db: Statements,
  organizationId: string,
  requests: readonly (RequestKey | undefined)[],
): Promise<Claim[]> {
  const firsts = new Map<string, RequestKey>();
  for (const request of requests) {
    if (request !== undefined && !firsts.has(nameOf(request))) firsts.set(nameOf(request), request);
  }
  if (firsts.size === 0) return requests.map(() => "claimed");

  // Sorted, so that two groups with the same ids wait for each other instead of deadlocking.
  const claims = [...firsts.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, request]) => request);
  const fresh = await db.execute<{ principal: string; method: string; request_id: string }[]>(
    `insert into request_record as r (organization_id, principal, method, request_id, request_hash, created_at)
     select $1::uuid, v.*, clock_timestamp() from unnest($2::uuid[], $3::text[], $4::uuid[], $5::bytea[]) as v
     on conflict (organization_id, principal, method, request_id) do update
       set request_hash = excluded.request_hash, response = null, created_at = excluded.created_at
       where r.created_at < excluded.created_at - interval '${REMEMBERED}'
     returning principal, method, request_id`,
    [organizationId, ...columns(claims), claims.map((claim) => claim.hash)],
  );
  const claimed = new Set(fresh.map((row) => nameOf({ ...row, requestId: row.request_id })));
  const seen = new Map<string, { hash: Buffer; response: Buffer }>();
  if (claimed.size < claims.length) {
    const rows = await db.execute<
      { principal: string; method: string; request_id: string; request_hash: Buffer; response: Buffer }[]
    >(
      `select principal, method, request_id, request_hash, response from request_record
       where organization_id = $1
         and (principal, method, request_id) in (select * from unnest($2::uuid[], $3::text[], $4::uuid[]))`,
      [organizationId, ...columns(claims)],
    );
    for (const row of rows) {
      seen.set(nameOf({ ...row, requestId: row.request_id }), { hash: row.request_hash, response: row.response });
    }
  }

  return requests.map((request): Claim => {
    if (request === undefined) return "claimed";
    const name = nameOf(request);
    if (claimed.has(name)) return firsts.get(name) === request ? "claimed" : "later";
    const record = seen.get(name);
    if (record === undefined) throw new Error("a request record vanished");
    if (record.hash.equals(request.hash)) return { answer: record.response };
    return {
      refused: new DomainError(
        "REQUEST_ID_REUSED",
        "This request_id came with another request within the last 24 hours: use a new one",
        { request_id: request.requestId },
      ),
    };
  });
}

/** Keeps the answers to claimed requests. */
export async function rememberAnswers(
  db: Statements,
  organizationId: string,
  answers: readonly { key: RequestKey; answer: Uint8Array }[],
): Promise<void> {
  if (answers.length === 0) return;
  await db.execute(
    `update request_record r set response = v.response
     from unnest($2::uuid[], $3::text[], $4::uuid[], $5::bytea[]) as v(principal, method, request_id, response)
     where r.organization_id = $1 and r.principal = v.principal and r.method = v.method and r.request_id = v.request_id`,
    [organizationId, ...columns(answers.map(({ key }) => key)), answers.map(({ answer }) => Buffer.from(answer))],
  );
}

/** Takes back claims of this transaction that came to nothing: only committed outcomes are remembered. */
export async function forgetRequests(
  db: Statements,
  organizationId: string,
  requests: readonly RequestKey[],
): Promise<void> {
  if (requests.length === 0) return;
  await db.execute(
    `delete from request_record where organization_id = $1
       and (principal, method, request_id) in (select * from unnest($2::uuid[], $3::text[], $4::uuid[]))`,
    [organizationId, ...columns(requests)],
  );
}
