// API keys: a secret is shown once and stored as its SHA-256, which is enough for 256 random bits.
import { createHash, randomBytes } from "node:crypto";
import { LockMode } from "@mikro-orm/core";
import { changedValues } from "../domain/administration.ts";
import { DEFAULT_ORGANIZATION_ID, readAside } from "./across.ts";
import { insertAdministrationEvent } from "./administration.ts";
import { forOrganization, type Orm } from "./orm.ts";
import { ApiKeyRow, OrganizationRow } from "./schema.ts";
import { newId } from "./uuid.ts";

export const SCOPES = [
  "entities:read",
  "entities:write",
  "external_ids:change",
  "entities:merge",
  "activity:read",
  "activity:write",
  "audit:read",
  "risk:admin",
  "webhooks:admin",
  "admin",
  "operator",
] as const;

/** A new secret: recognisable to scanners, 256 random bits. */
export const newApiKeySecret = (): string => `es_${randomBytes(32).toString("base64url")}`;

export const digestOf = (secret: string): Buffer => createHash("sha256").update(secret).digest();

/** Who a key is of. */
interface KeyOwner {
  organizationId: string;
  apiKeyId: string;
  scopes: ReadonlySet<string>;
}

/** The owner of each secret; null where it is unknown, expired or revoked. Looks across organizations, beside the pool. */
export async function findApiKeys(orm: Orm, secrets: readonly string[]): Promise<(KeyOwner | null)[]> {
  const rows = await readAside<{ at: number; organization_id: string; id: string; scopes: string[] }>(
    orm,
    "select at, organization_id, id, scopes from find_api_keys($1::bytea[])",
    [secrets.map(digestOf)],
  );
  const owners = new Array<KeyOwner | null>(secrets.length).fill(null);
  for (const { at, organization_id: organizationId, id, scopes } of rows) {
    owners[at - 1] = { organizationId, apiKeyId: id, scopes: new Set(scopes) };
  }
  return owners;
}

/**
 * Makes sure of the organization `default` and of a key that can do everything: `wanted` where it is given, else a new
 * one when the database has none. A new one is committed only after `keep` has taken its secret: where that fails
 * nothing is left behind, and the next start makes one. Returns the secret that it made, if it made one.
 */
export async function bootstrap(
  orm: Orm,
  wanted: string | undefined,
  keep: (secret: string) => Promise<void>,
): Promise<string | undefined> {
  const em = forOrganization(orm, DEFAULT_ORGANIZATION_ID);
  return em.transactional(async (tx) => {
    await tx.execute(
      `insert into organization (organization_id, display_name, external_id_policy, etag)
       values ($1, 'default', 'MUTABLE_WITH_REASON', $2) on conflict do nothing`,
      [DEFAULT_ORGANIZATION_ID, newId()],
    );
    // If several processes start at once, one of them makes the key.
    await tx.findOneOrFail(
      OrganizationRow,
      { organizationId: DEFAULT_ORGANIZATION_ID },
      { lockMode: LockMode.PESSIMISTIC_WRITE },
    );
    const digest = wanted === undefined ? undefined : digestOf(wanted);
    const there = await tx.count(ApiKeyRow, digest === undefined ? {} : { digest });
    if (there > 0) return undefined;
    const secret = wanted ?? newApiKeySecret();
    const key = { id: newId(), displayName: "bootstrap", scopes: [...SCOPES] };
    const row = { organizationId: DEFAULT_ORGANIZATION_ID, digest: digestOf(secret), ...key };
    await tx.persist(tx.create(ApiKeyRow, row)).flush();
    await insertAdministrationEvent(tx, DEFAULT_ORGANIZATION_ID, {
      ...{ type: "API_KEY_CREATED", subjectId: key.id },
      ...{ actor: key.id, principal: key.id, source: "start" },
      ...{ requestId: undefined, callId: undefined, peer: undefined },
      ...changedValues({}, { displayName: key.displayName, scopes: key.scopes }),
    });
    if (wanted !== undefined) return undefined;
    await keep(secret);
    return secret;
  });
}
