// What the tests of the walls share: calls with exact bytes, all that came back, every row of every table, a second
// service on the same database, and a proxy in front of the database.

import { once } from "node:events";
import { connect as http2Connect } from "node:http2";
import { createServer, connect as netConnect, type Socket } from "node:net";
import { create, type DescMethod, fromBinary, type Message, toBinary } from "@bufbuild/protobuf";
import { ConnectError } from "@connectrpc/connect";
import { findTrailerError } from "@connectrpc/connect/protocol-grpc";
import { inject } from "vitest";
import { createEntityClient, type EntityClient } from "../clients/typescript/index.ts";
import { freePort } from "../scripts/service-process.ts";
import { type Config, readConfig } from "../src/config.ts";
import { createOrm, migrate } from "../src/db/orm.ts";
import { createLogger, type Logger } from "../src/logger.ts";
import { startServer } from "../src/server.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { envelope } from "./frames.ts";
import { NO_DEADLINE, type TestService } from "./harness.ts";
import { type Answer, h2Call, type Refusal, refusalOf } from "./transport-harness.ts";

export type { Answer, Refusal };

/** The bytes of one message, or its plain form. */
export type Payload = Uint8Array | Record<string, unknown>;

export interface Wire extends AsyncDisposable {
  /** One gRPC call: each payload is a message. */
  call(method: DescMethod, payloads: Payload | Payload[], headers?: Record<string, string>): Promise<Answer>;
}

/** gRPC by hand over one HTTP/2 connection, with this API key. */
export function openWire(baseUrl: string, apiKey: string): Wire {
  const session = http2Connect(baseUrl);
  session.on("error", () => {});
  return {
    call(method, payloads, headers = {}) {
      const bodies = (Array.isArray(payloads) ? payloads : [payloads]).map((payload) =>
        envelope(bytesOf(method, payload)),
      );
      const head = {
        ":path": `/${method.parent.typeName}/${method.name}`,
        "content-type": "application/grpc",
        te: "trailers",
        authorization: `Bearer ${apiKey}`,
        ...headers,
      };
      return h2Call(session, head, Buffer.concat(bodies));
    },
    async [Symbol.asyncDispose]() {
      session.destroy();
    },
  };
}

export function bytesOf(method: DescMethod, payload: Payload): Uint8Array {
  return payload instanceof Uint8Array ? payload : toBinary(method.input, create(method.input, payload as never));
}

/** The messages of an answer. */
export function messagesOf<T = Message>(method: DescMethod, answer: Answer): T[] {
  const messages: T[] = [];
  for (let at = 0; at < answer.body.length; ) {
    const length = answer.body.readUInt32BE(at + 1);
    messages.push(fromBinary(method.output, answer.body.subarray(at + 5, at + 5 + length)) as T);
    at += 5 + length;
  }
  return messages;
}

/** How an answer ended: undefined for OK. */
export function refusalIn(answer: Answer): Refusal | undefined {
  const headers = new Headers();
  for (const [name, value] of Object.entries({ ...answer.headers, ...answer.trailers })) {
    if (!name.startsWith(":")) headers.set(name, String(value));
  }
  const error = findTrailerError(headers);
  return error === undefined ? undefined : refusalOf(error);
}

/** All that may distinguish two answers: without their dates and the ids of the calls. */
export function comparable(answer: Answer): unknown {
  const { date: _, "x-request-id": __, ...headers } = answer.headers;
  return {
    status: answer.status,
    headers: { ...headers },
    trailers: { ...answer.trailers },
    body: answer.body.toString("hex"),
  };
}

/** Every byte that the caller got; encoded parts also decoded. */
export function everythingIn(answer: Answer): string {
  const parts = [answer.body.toString("latin1"), answer.body.toString("utf8")];
  for (const [name, value] of Object.entries({ ...answer.headers, ...answer.trailers })) {
    const text = String(value);
    parts.push(`${name}: ${text}`);
    if (name.endsWith("-bin")) parts.push(Buffer.from(text, "base64").toString("latin1"));
    try {
      parts.push(decodeURIComponent(text));
    } catch {
      // Not percent-encoded.
    }
  }
  return parts.join("\n");
}

/** The same for an error that a client threw. */
export function everythingInError(error: unknown): string {
  const parts: string[] = [];
  for (let e: unknown = error; e instanceof Error; e = e.cause) {
    parts.push(e.message);
    if (!(e instanceof ConnectError)) continue;
    for (const [name, value] of e.metadata) {
      parts.push(`${name}: ${value}`);
      if (name.endsWith("-bin")) parts.push(Buffer.from(value, "base64").toString("latin1"));
    }
    for (const detail of e.details)
      if ("value" in detail && detail.value instanceof Uint8Array)
        parts.push(Buffer.from(detail.value).toString("latin1"));
  }
  return parts.join("\n");
}

type Sql = TestService["sql"];

/** The tables of schema public that belong to organizations. */
export async function tenantTables(sql: Sql): Promise<string[]> {
  const rows = await sql<{ table_name: string }>(
    `select c.table_name from information_schema.columns c join information_schema.tables t using (table_schema, table_name)
     where c.table_schema = 'public' and c.column_name = 'organization_id' and t.table_type = 'BASE TABLE' order by 1`,
  );
  return rows.map((row) => row.table_name);
}

/** Every row of every table, as text; only those of one organization if it is given. */
export async function dump(sql: Sql, organizationId?: string): Promise<Record<string, string[]>> {
  const tables: Record<string, string[]> = {};
  for (const table of await tenantTables(sql)) {
    const rows = await sql<{ row: string }>(
      `select to_jsonb(t)::text as row from "${table}" t where $1::uuid is null or t.organization_id = $1 order by 1`,
      [organizationId ?? null],
    );
    tables[table] = rows.map((row) => row.row);
  }
  return tables;
}

/** How many rows each table has. */
export async function rowCounts(sql: Sql): Promise<Record<string, number>> {
  const tables = await tenantTables(sql);
  const [counts] = await sql<Record<string, string>>(
    `select ${tables.map((table) => `(select count(*) from "${table}") as "${table}"`).join(", ")}`,
  );
  return Object.fromEntries(Object.entries(counts ?? {}).map(([table, count]) => [table, Number(count)]));
}

/** Checkpoints of an organization, as if they had been made; nothing of what they say is true. */
export async function insertCheckpoints(
  sql: Sql,
  organizationId: string,
  { count, body }: { count: number; body: string },
): Promise<void> {
  await sql(
    `insert into audit_checkpoint (organization_id, number, epoch, from_position, to_position, count, total, first_at,
       last_at, root, previous_hash, created_at, body, leaves)
     select $1, n, 1, '1:1:', '1:1:', 1, n, 'epoch', 'epoch', '\\x00', '\\x00', 'epoch', $2, '\\x00' from generate_series(1, $3::int) n`,
    [organizationId, body, count],
  );
}

export interface OtherServer extends AsyncDisposable {
  baseUrl: string;
  client(apiKey: string): EntityClient;
  orm: ReturnType<typeof createOrm>;
}

/** Another service on the database of `service`, or at `address` in front of it. */
export async function startOther(
  service: TestService,
  options: { config?: Partial<Config>; log?: Logger; address?: { host: string; port: number } } = {},
): Promise<OtherServer> {
  const { host, port, database } = service.database;
  // As a start with NATS_URL does.
  if (options.config?.nats !== undefined) await migrate(service.database, { publishes: true });
  const config: Config = {
    ...readConfig({ UNARY_PATH: process.env.UNARY_PATH }),
    port: 0,
    bootstrapApiKey: undefined,
    drainTimeoutMs: 2_000,
    lameDuckMs: 0,
    poolSize: 5,
    webhookAllow: "127.0.0.1",
    // Most tests compare what is there before and after.
    auditCheckpointSeconds: undefined,
    ...options.config,
  };
  const orm = createOrm(
    { host, port, ...options.address, user: "entity_service", password: RUNTIME_PASSWORD, database },
    config,
  );
  try {
    const running = await startServer(config, options.log ?? createLogger("silent"), {
      database: { orm, lost: new Promise(() => {}), [Symbol.asyncDispose]: async () => {} },
    });
    const baseUrl = `http://127.0.0.1:${running.port}`;
    return {
      baseUrl,
      orm,
      client: (apiKey) => createEntityClient({ baseUrl, apiKey, ...NO_DEADLINE }),
      async [Symbol.asyncDispose]() {
        await running[Symbol.asyncDispose]();
        await orm.close(true);
      },
    };
  } catch (error) {
    await orm.close(true);
    throw error;
  }
}

export interface DatabaseProxy extends AsyncDisposable {
  host: string;
  port: number;
  /** Cuts the connection at the next COMMIT: before it reaches the database, or after its answer was made. */
  cutAtCommit(when: "before" | "after"): void;
  /** How many COMMITs were cut. */
  cuts(): number;
  /** Refuses new connections and cuts the open ones. */
  refuse(): Promise<void>;
  /** Forwards nothing in either direction; connections stay open. */
  freeze(frozen: boolean): void;
  /** The same for the open connections, for ever; new ones are served. */
  abandon(): void;
  accept(): Promise<void>;
}

/** A TCP port in front of PostgreSQL that fails on demand. */
export async function startProxy(): Promise<DatabaseProxy> {
  const server = inject("databaseServer");
  const sockets = new Set<Socket>();
  let cut: "before" | "after" | undefined;
  let cuts = 0;
  let frozen = false;
  let generation = 0;
  const held: (() => void)[] = [];
  const whenThawed = (work: () => void) => {
    if (frozen) held.push(work);
    else work();
  };
  const listener = createServer((client) => {
    const database = server.host.startsWith("/")
      ? netConnect(`${server.host}/.s.PGSQL.${server.port}`)
      : netConnect(server.port, server.host);
    const end = () => {
      client.destroy();
      database.destroy();
      sockets.delete(client);
      sockets.delete(database);
    };
    let cutOnAnswer = false;
    const born = generation;
    for (const socket of [client, database]) {
      sockets.add(socket);
      socket.on("error", end);
      socket.on("close", end);
    }
    client.on("data", (bytes) => {
      if (born < generation) return;
      if (cut !== undefined && bytes.includes("commit\0")) {
        const when = cut;
        cut = undefined;
        cuts++;
        if (when === "before") return end();
        cutOnAnswer = true;
      }
      whenThawed(() => database.write(bytes));
    });
    database.on("data", (bytes) => {
      if (born < generation) return;
      // Other statements may precede the COMMIT in the same packet; their answers come first.
      if (cutOnAnswer) return bytes.includes("COMMIT\0") ? end() : undefined;
      whenThawed(() => client.write(bytes));
    });
  });
  // One that nobody is given while the proxy refuses.
  const port = await freePort();
  listener.listen(port, "127.0.0.1");
  await once(listener, "listening");
  return {
    host: "127.0.0.1",
    port,
    cutAtCommit(when) {
      cut = when;
    },
    cuts: () => cuts,
    async refuse() {
      listener.close();
      for (const socket of sockets) socket.destroy();
      sockets.clear();
    },
    freeze(now) {
      frozen = now;
      if (!now) for (const work of held.splice(0)) work();
    },
    abandon() {
      generation++;
    },
    async accept() {
      listener.listen(port, "127.0.0.1");
      await once(listener, "listening");
    },
    async [Symbol.asyncDispose]() {
      listener.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}
