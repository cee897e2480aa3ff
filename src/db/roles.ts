// The roles of the database: what the service runs as, who may become it, and who may not log in to do so.
import type { EntityManager } from "@mikro-orm/postgresql";
import pg from "pg";
import { DatabaseStartError } from "./probe.ts";

/** The role that every run-time statement runs as: it owns nothing and cannot bypass row level security. */
export const RUNTIME_ROLE = "entity_service";

/** The two functions that read the log of all organizations, for those who publish it. */
const PUBLISHING =
  "read_log(int, xid8, xid8, xid8[], xid8[], int), log_times(int, xid8, xid8, xid8[], xid8[], uuid, int, int)";

/** Lets a login become the run-time role. Since PostgreSQL 16 a membership may lack the right to SET it, as the one of the role's creator does. */
export async function letBecomeRuntimeRole(client: pg.Client, user: string): Promise<void> {
  const { rows } = await client.query(
    `select current_setting('server_version_num')::int >= 160000 as has_options,
            pg_has_role($1, $2, case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end) as may_become
     from pg_roles where rolname = $1`,
    [user, RUNTIME_ROLE],
  );
  if (rows[0]?.may_become !== false) return;
  const grant = `grant ${RUNTIME_ROLE} to ${pg.escapeIdentifier(user)}${rows[0].has_options ? " with set true, inherit false" : ""}`;
  await client.query(grant).catch((cause: unknown) => {
    throw new DatabaseStartError(
      `the user ${user} may not become ${RUNTIME_ROLE}: as the administrator of PostgreSQL run: ${grant};`,
      { cause },
    );
  });
}

/** Lets the run-time role read the log of all organizations at once: only where it is published. */
export async function letPublish(client: pg.Client): Promise<void> {
  const { rows } = await client.query(`select ${MAY_PUBLISH} as may`);
  if (rows[0].may) return;
  // The functions belong to entity_directory, which has no member except while this runs.
  await client.query(
    `begin; grant entity_directory to current_user; grant execute on function ${PUBLISHING} to ${RUNTIME_ROLE}; revoke entity_directory from current_user; commit`,
  );
}

const MAY_PUBLISH = `has_function_privilege('${RUNTIME_ROLE}', 'read_log(int, xid8, xid8, xid8[], xid8[], int)', 'execute')`;

/** Throws where the log is to be published and the run-time role may not read it. */
export async function assertMayPublish(em: EntityManager): Promise<void> {
  const [row] = await em.execute<{ may: boolean }[]>(`select ${MAY_PUBLISH} as may`);
  if (row?.may === true) return;
  throw new DatabaseStartError(
    `NATS_URL is set, and ${RUNTIME_ROLE} may not read the log of all organizations: set MIGRATION_DATABASE_URL to the owner of the tables, who grants it at the start`,
  );
}

/** What a failed migration means where the owner lacks rights; undefined for any other failure. */
export function rolesMissing(owner: string): string {
  const name = pg.escapeIdentifier(owner);
  return (
    `the user ${owner} has not the rights to bring the database up to date: give it CREATEROLE, or as the administrator of PostgreSQL make the roles for it: ` +
    ["entity_service", "entity_directory", "entity_backup", "entity_roles"]
      .map((role) => `create role ${role} nologin;`)
      .join(" ") +
    ` grant entity_service, entity_directory, entity_backup to entity_roles with admin option; grant entity_roles to ${name}; (those that are there already stay as they are); and the database must be ${name}'s: alter database ... owner to ${name};`
  );
}

/** What a login could do after RESET ROLE. */
const LOGIN = `
  with roles as (
    select oid, rolname, rolsuper, rolbypassrls from pg_roles where pg_has_role(session_user, oid, 'member'))
  select session_user as login,
    (select rolsuper from pg_roles where rolname = session_user) as superuser,
    (select min(rolname::text) from roles where rolsuper or rolbypassrls
       or rolname in ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')) as bypass,
    (select min(rolname::text) from roles where rolname in ('entity_directory', 'entity_backup')) as reads_all,
    exists (select from roles where oid = coalesce(
      (select c.relowner from pg_class c where c.relnamespace = 'public'::regnamespace and c.relname = 'entity'),
      (select d.datdba from pg_database d where d.datname = current_database()))) as owns`;

interface Login {
  login: string;
  superuser: boolean;
  bypass: string | null;
  reads_all: string | null;
  owns: boolean;
}

/**
 * Throws when the login of DATABASE_URL could leave the wall by RESET ROLE. The owner of the tables passes: forced row
 * level security holds for it too, and it may log in to alter them whatever the service does.
 */
export async function assertSafeLogin(client: pg.Client): Promise<void> {
  const { rows } = await client.query(LOGIN);
  refuseUnsafe(rows[0]);
}

function refuseUnsafe({ login, superuser, bypass, reads_all, owns }: Login): void {
  const reason =
    (superuser && "is a superuser") ||
    (bypass !== null && `is or can become ${bypass}, which row level security does not hold`) ||
    (reads_all !== null && !owns && `is a member of ${reads_all}, which sees all organizations`);
  if (!reason) return;
  throw new DatabaseStartError(
    `DATABASE_URL connects as ${login}, which ${reason}: one RESET ROLE would leave the wall between organizations. As the administrator of PostgreSQL make a login of its own: create role entity_login login password '...'; then set DATABASE_URL to entity_login, and MIGRATION_DATABASE_URL to the URL that DATABASE_URL is now`,
  );
}

/**
 * Throws when the run-time role, or the login behind it, could see or change what it must not, or when commits would not
 * be durable.
 */
export async function assertSafeRole(em: EntityManager): Promise<void> {
  const [row] = await em.execute<{ unsafe: boolean; commit: string }[]>(
    `select r.rolsuper or r.rolbypassrls or exists (
         select from pg_class c where c.relowner = r.oid and c.relnamespace = 'public'::regnamespace) as unsafe,
       current_setting('synchronous_commit') as commit
     from pg_roles r where r.rolname = current_user`,
  );
  if (row === undefined || row.unsafe) {
    throw new Error(`the run-time role must not own tables nor bypass row level security: connect as ${RUNTIME_ROLE}`);
  }
  const [login] = await em.execute<Login[]>(LOGIN);
  refuseUnsafe(login as Login);
  if (row.commit === "off") throw new Error("synchronous_commit is off: acknowledged writes could be lost");
}
