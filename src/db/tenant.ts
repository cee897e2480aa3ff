// The organization of a transaction, with which row level security compares every row: the one place that knows the
// statement. What it sets ends with the transaction.
import pg from "pg";

const SETTING = "app.organization_id";
const STATEMENT = `select set_config('${SETTING}', $1, true)`;

/**
 * The same, for the hot paths. Left to itself PostgreSQL would plan their statements anew each time, for the arrays that
 * it sees, which takes longer than their lookups do.
 */
const WITH_GENERIC_PLANS = `${STATEMENT}, set_config('plan_cache_mode', 'force_generic_plan', true)`;
/** The name under which a connection has prepared it. */
const PREPARED = "organization";

/** Lets the rest of a transaction see `organizationId` alone. */
export const setOrganization = <R>(
  execute: (text: string, values: readonly unknown[]) => R,
  organizationId: string,
): R => execute(STATEMENT, [organizationId]);

/** The same, and lets the statements of the transaction have generic plans. */
export const setOrganizationAndPlans = <R>(
  send: (text: string, values: readonly unknown[]) => R,
  organizationId: string,
): R => send(WITH_GENERIC_PLANS, [organizationId]);

/** Prepares a connection, once, for the queries of OrganizationQuery. */
export const prepareOrganization = <R>(query: (config: { name: string; text: string; values: unknown[] }) => R): R =>
  query({ name: PREPARED, text: WITH_GENERIC_PLANS, values: [""] });

/** What pg.Query calls and is called by, which its types leave out. */
interface QueryProtocol {
  prepare(connection: unknown): void;
  handleDataRow(message: unknown): void;
  handleCommandComplete(message: unknown, connection: unknown): void;
}
interface Wire {
  bind(config: { statement: string; values: unknown[] }): void;
  execute(config: object): void;
}

/**
 * A statement behind the one of setOrganizationAndPlans, without a Sync between them: both are one implicit transaction.
 * The answer to the setting is passed over.
 */
export class OrganizationQuery extends (pg.Query as unknown as new (config: object) => pg.Query & QueryProtocol) {
  readonly #organizationId: string;
  #isSet = false;

  constructor(organizationId: string, config: object) {
    super({ ...config, queryMode: "extended" });
    this.#organizationId = organizationId;
  }

  override prepare(connection: unknown): void {
    const wire = connection as Wire;
    wire.bind({ statement: PREPARED, values: [this.#organizationId] });
    wire.execute({});
    super.prepare(connection);
  }

  override handleDataRow(message: unknown): void {
    if (this.#isSet) super.handleDataRow(message);
  }

  override handleCommandComplete(message: unknown, connection: unknown): void {
    if (this.#isSet) super.handleCommandComplete(message, connection);
    this.#isSet = true;
  }
}

/** The organization as the session of an entity manager, from which the driver sets it in each transaction. */
export const sessionOf = (organizationId: string): { variables: Record<string, string> } => ({
  variables: { [SETTING]: organizationId },
});

/** The organization of such a session. */
export function organizationIn(session: { variables?: Record<string, unknown> } | undefined): string | undefined {
  const organizationId = session?.variables?.[SETTING];
  return typeof organizationId === "string" ? organizationId : undefined;
}
