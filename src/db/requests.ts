// request_id: a claim at the beginning of the transaction, the answer at its end, both in the transaction
// of the effect (rule 39). A second call with the same id waits on the claim of the first.
import type { EntityManager } from "@mikro-orm/postgresql";
import { DomainError } from "../domain/errors.ts";
import type { Author, Result } from "./unit-of-work.ts";

/** What makes a request the same: the id, and the hash of all else. */
export interface RequestKey {
  /** The RPC's name. */
  method: string;
  /** A UUID in lower case. */
  requestId: string;
  hash: Buffer;
}

const REMEMBERED = "24 hours";

/**
 * Claims each request that is there: "claimed" to go on (also for undefined, which needs no claim),
 * "later" for the second of one id in the group, else the replay or the refusal of a request seen before.
 */
export async function claimRequests(
  em: EntityManager,
  author: Pick<Author, "organizationId" | "principal">,
  requests: readonly (RequestKey | undefined)[],
): Promise<("claimed" | "later" | Extract<Result, { kind: "replayed" | "refused" }>)[]> {
  const keyOf = (request: { method: string; requestId: string }) => `${request.method} ${request.requestId}`;
  const firsts = new Map<string, RequestKey>();
  for (const request of requests) {
    if (request !== undefined && !firsts.has(keyOf(request))) firsts.set(keyOf(request), request);
  }
  if (firsts.size === 0) return requests.map(() => "claimed");

  // Sorted, so that two groups with the same ids wait for each other instead of deadlocking.
  const claims = [...firsts.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, request]) => request);
  const key = [author.organizationId, author.principal, claims.map((c) => c.method), claims.map((c) => c.requestId)];
  const fresh = await em.execute<{ method: string; request_id: string }[]>(
    `insert into request_record as r (organization_id, principal, method, request_id, request_hash, created_at)
     select $1::uuid, $2::uuid, v.*, clock_timestamp() from unnest($3::text[], $4::uuid[], $5::bytea[]) as v
     on conflict (organization_id, principal, method, request_id) do update
       set request_hash = excluded.request_hash, response = null, created_at = excluded.created_at
       where r.created_at < excluded.created_at - interval '${REMEMBERED}'
     returning method, request_id`,
    [...key, claims.map((c) => c.hash)],
  );
  const claimed = new Set(fresh.map((row) => keyOf({ method: row.method, requestId: row.request_id })));
  const seen = new Map<string, { hash: Buffer; response: Buffer }>();
  if (claimed.size < claims.length) {
    const rows = await em.execute<{ method: string; request_id: string; request_hash: Buffer; response: Buffer }[]>(
      `select method, request_id, request_hash, response from request_record
       where organization_id = $1 and principal = $2 and (method, request_id) in (select * from unnest($3::text[], $4::uuid[]))`,
      key,
    );
    for (const row of rows) {
      seen.set(keyOf({ method: row.method, requestId: row.request_id }), { hash: row.request_hash, response: row.response });
    }
  }

  return requests.map((request) => {
    if (request === undefined) return "claimed";
    const id = keyOf(request);
    if (claimed.has(id)) return firsts.get(id) === request ? "claimed" : "later";
    const record = seen.get(id);
    if (record === undefined) throw new Error("a request record vanished");
    if (record.hash.equals(request.hash)) return { kind: "replayed", answer: record.response };
    return {
      kind: "refused",
      error: new DomainError(
        "REQUEST_ID_REUSED",
        "This request_id came with another request within the last 24 hours: use a new one",
        { request_id: request.requestId },
      ),
    };
  });
}

/** Keeps the answers to claimed requests. */
export async function rememberAnswers(
  em: EntityManager,
  author: Pick<Author, "organizationId" | "principal">,
  answers: readonly { key: RequestKey; answer: Uint8Array }[],
): Promise<void> {
  if (answers.length === 0) return;
  await em.execute(
    `update request_record r set response = v.response
     from unnest($3::text[], $4::uuid[], $5::bytea[]) as v(method, request_id, response)
     where r.organization_id = $1 and r.principal = $2 and r.method = v.method and r.request_id = v.request_id`,
    [
      author.organizationId,
      author.principal,
      answers.map(({ key }) => key.method),
      answers.map(({ key }) => key.requestId),
      answers.map(({ answer }) => Buffer.from(answer)),
    ],
  );
}

/** Takes back claims of this transaction that came to nothing: only committed outcomes are remembered. */
export async function forgetRequests(
  em: EntityManager,
  author: Pick<Author, "organizationId" | "principal">,
  requests: readonly RequestKey[],
): Promise<void> {
  if (requests.length === 0) return;
  await em.execute(
    `delete from request_record where organization_id = $1 and principal = $2
       and (method, request_id) in (select * from unnest($3::text[], $4::uuid[]))`,
    [author.organizationId, author.principal, requests.map((r) => r.method), requests.map((r) => r.requestId)],
  );
}
