// The one door to what lies across organizations. A connection of the service sees the rows of one organization alone; some
// functions of the database see all, each for one purpose, and tell no more than it needs: whose key a secret is, which
// endpoints have work, how far the log has come, what is old. What they see does not depend on the organization that is
// set, but a transaction must have one.
import type { EntityManager } from "@mikro-orm/postgresql";
import { toReason } from "./failures.ts";
import { forOrganization, type Orm } from "./orm.ts";
import type { Statements } from "./statements.ts";
import { readStatements } from "./transaction.ts";

/** The organization that the first start makes: it has the keys of operators. */
export const DEFAULT_ORGANIZATION_ID = "00000000-0000-7000-8000-000000000001";

/** Reads in one round trip: each statement of `work` is a transaction of its own. */
export const readAcross = <T>(orm: Orm, work: (db: Statements) => Promise<T>): Promise<T> =>
  readStatements(orm, DEFAULT_ORGANIZATION_ID, work);

/** For functions that change something: pruning, the start of the log. */
export const managerAcross = (orm: Orm): EntityManager => forOrganization(orm, DEFAULT_ORGANIZATION_ID);

/** Reads beside the pool, for what must not wait behind calls. */
export async function readAside<Row extends object>(
  orm: Orm,
  text: string,
  values: readonly unknown[],
): Promise<Row[]> {
  try {
    return (await orm.aside.query<Row>(text, [...values])).rows;
  } catch (error) {
    throw toReason(error, "read");
  }
}
