// The rows of organizations.
import { LockMode } from "@mikro-orm/core";
import type { EntityManager } from "@mikro-orm/postgresql";
import { notFound } from "../domain/errors.ts";
import { OrganizationRow } from "./schema.ts";
import type { Statements } from "./statements.ts";

const missing = () => notFound("organization_id", "Organization");

/** The organization, with `lock` kept from other writers until the transaction ends. Throws NOT_FOUND. */
export async function getOrganization(
  em: EntityManager,
  organizationId: string,
  { lock = false }: { lock?: boolean } = {},
): Promise<OrganizationRow> {
  const options = lock ? { lockMode: LockMode.PESSIMISTIC_WRITE } : {};
  const row = await em.findOne(OrganizationRow, { organizationId }, options);
  if (row === null) throw missing();
  return row;
}

/** Throws NOT_FOUND where there is no such organization. */
export async function assertOrganization(em: EntityManager, organizationId: string): Promise<void> {
  if ((await em.count(OrganizationRow, { organizationId })) === 0) throw missing();
}

/** Makes other lockers of the organization wait until the transaction ends; rows may refer to it meanwhile. */
export async function lockOrganization(db: Statements, organizationId: string): Promise<void> {
  await db.execute("select from organization where organization_id = $1 for no key update", [organizationId]);
}

/** Organizations by id, behind `after`; of all of them, whichever the entity manager sees. */
export async function listOrganizations(
  em: EntityManager,
  { after, limit }: { after: string | undefined; limit: number },
): Promise<OrganizationRow[]> {
  const rows = await em.execute<Record<string, unknown>[]>("select * from list_organizations($1::uuid, $2::int)", [
    after ?? null,
    limit,
  ]);
  return rows.map((row) => em.map(OrganizationRow, row as never));
}
