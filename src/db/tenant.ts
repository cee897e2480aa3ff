// The organization of a transaction, with which row level security compares every row: the one place that knows the
// statement. What it sets ends with the transaction.

const SETTING = "app.organization_id";
const STATEMENT = `select set_config('${SETTING}', $1, true)`;

/**
 * The same, for the hot paths. Left to itself PostgreSQL would plan their statements anew each time, for the arrays that
 * it sees, which takes longer than their lookups do.
 */
const GENERIC_PLANS = "set_config('plan_cache_mode', 'force_generic_plan', true)";
const WITH_GENERIC_PLANS = `${STATEMENT}, ${GENERIC_PLANS}`;

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

/** Generic plans alone, for a statement that sets its organizations itself. */
export const setPlans = <R>(send: (text: string, values: readonly unknown[]) => R): R =>
  send(`select ${GENERIC_PLANS}`, []);

/** The same, and the longest that a statement may take and wait for a lock, for a transaction of several organizations. */
export const setPlansAndLimits = <R>(
  send: (text: string, values: readonly unknown[]) => R,
  { statementMs, lockMs }: { statementMs: number; lockMs: number },
): R =>
  send(`select ${GENERIC_PLANS}, set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true)`, [
    String(statementMs),
    String(lockMs),
  ]);

/**
 * Whether organizations may share a statement that reads, or a transaction. Not on Citus: there a transaction stays with
 * one organization, and only SET LOCAL reaches the workers.
 */
export const ORGANIZATIONS_MEET = true;

/**
 * SQL that sets the organization to the text of an expression, and answers it as `id`, once for each row of what stands
 * before it. A lookup behind it that is `lateral` and compares with this id depends on its answer: it cannot run before
 * it, whatever the planner thinks best; and sees that organization alone.
 */
export const settingOf = (organizationId: string): string =>
  `(select set_config('${SETTING}', ${organizationId}, true)::uuid as id offset 0)`;

/** The organization as the session of an entity manager, from which the driver sets it in each transaction. */
export const sessionOf = (organizationId: string): { variables: Record<string, string> } => ({
  variables: { [SETTING]: organizationId },
});

/** The organization of such a session. */
export function organizationIn(session: { variables?: Record<string, unknown> } | undefined): string | undefined {
  const organizationId = session?.variables?.[SETTING];
  return typeof organizationId === "string" ? organizationId : undefined;
}
