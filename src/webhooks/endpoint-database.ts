// The database as the work for one endpoint uses it: each use waits for its organization's turn at a connection.
import type { Orm } from "../db/orm.ts";
import type { Pipeline, Statements } from "../db/statements.ts";
import { pipelined, readStatements } from "../db/transaction.ts";
import type { Slots } from "../slots.ts";

export interface EndpointDatabaseDeps {
  orm: Orm;
  /** Bounds the connections to the database. */
  connections: Slots;
}

export interface EndpointDatabase {
  /** Each statement is a transaction of its own. */
  statements<T>(work: (db: Statements) => Promise<T>): Promise<T>;
  /** One transaction, whose statements travel together. */
  transaction<T>(work: (db: Pipeline) => Promise<T>): Promise<T>;
}

export const createEndpointDatabase = (
  { orm, connections }: EndpointDatabaseDeps,
  organizationId: string,
): EndpointDatabase => ({
  statements: (work) => connections(organizationId, () => readStatements(orm, organizationId, work)),
  transaction: (work) => connections(organizationId, () => pipelined(orm, organizationId, work)),
});
