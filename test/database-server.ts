// One PostgreSQL for the whole run: the embedded one, or that of TEST_DATABASE_URL (an owner's URL). A migrated
// template gives every test file a separate database within milliseconds.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import type { TestProject } from "vitest/node";
import { newSigningKey } from "../src/audit/signing-key.ts";
import { migrate } from "../src/db/orm.ts";
import { startEmbeddedPostgres } from "../src/postgres/embedded.ts";

declare module "vitest" {
  export interface ProvidedContext {
    databaseServer: DatabaseServer;
  }
}

/** The address of the server. `user` and `password` are the owner's. */
export interface DatabaseServer {
  host: string;
  port: number;
  user: string;
  password: string;
  template: string;
  /** With the audit signing key of all services of the run. */
  keyFile: string;
}

/** The password of the run-time role where the server asks for one. */
export const RUNTIME_PASSWORD = "entity-service-test";

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const template = `template_${process.pid}_${Date.now()}`;
  const url = process.env.TEST_DATABASE_URL;
  const folder = url === undefined ? await mkdtemp(join(tmpdir(), "entity-service-test-")) : undefined;
  const embedded =
    folder === undefined
      ? undefined
      : await startEmbeddedPostgres({ directory: folder, settings: { fsync: "off", max_connections: "300" } });
  const address =
    embedded === undefined
      ? fromUrl(url as string)
      : { host: embedded.socketDir, port: embedded.port, user: embedded.ownerUser, password: "" };

  const client = new pg.Client({ ...address, database: "postgres" });
  await client.connect();
  if (embedded !== undefined) {
    // Before any DDL: makes sure that this is the server that was just started.
    const { rows } = await client.query("show data_directory");
    if (rows[0].data_directory !== embedded.dataDirectory) throw new Error("not the server of this run");
  }
  await client.query(`create database ${template}`);
  await migrate({ ...address, database: template });
  await client.query(`alter role entity_service login password '${RUNTIME_PASSWORD}'`);
  const keys = await mkdtemp(join(tmpdir(), "audit-key-"));
  const keyFile = join(keys, "key.pem");
  await writeFile(keyFile, newSigningKey(), { mode: 0o600 });
  project.provide("databaseServer", { ...address, template, keyFile });

  return async () => {
    await client.query(`drop database if exists ${template} with (force)`);
    await client.end();
    await embedded?.stop();
    await rm(keys, { recursive: true, force: true });
    if (folder !== undefined) await rm(folder, { recursive: true, force: true });
  };
}

function fromUrl(text: string) {
  const url = new URL(text);
  return {
    host: decodeURIComponent(url.searchParams.get("host") ?? url.hostname),
    port: Number(url.port || 5432),
    user: decodeURIComponent(url.username),
    password: decodeURIComponent(url.password),
  };
}
