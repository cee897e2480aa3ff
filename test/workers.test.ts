// WORKERS=n: the command line as a process with workers, which are identified by their log lines.
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { chmod, readFile, realpath } from "node:fs/promises";
import { createServer, get } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from "vitest";
import {
  Health,
  HealthCheckResponse_ServingStatus as Status,
} from "../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import { createEntityClient, type EntityClient, EntityType } from "../clients/typescript/index.ts";
import { freePort } from "../scripts/service-process.ts";
import {
  childrenOf,
  type LogLine,
  type ServiceProcess,
  startCli,
  startServiceProcess,
  temporaryFolder,
} from "./cli-process.ts";
import { byExternalId, byId, eventsOf, newPerson, tally, together, unique } from "./given.ts";
import { captureHeaders, databaseEnvironment, refusal, startService, type TestService } from "./harness.ts";

const CALLERS = 64;
/** Enough for a busy machine; nothing here measures speed. */
const WAIT = { timeout: 60_000, interval: 20 };
vi.setConfig({ testTimeout: 180_000 });
/** Rows are held here as long as the test needs them. */
const PATIENCE = { LOCK_TIMEOUT_MS: "30000", STATEMENT_TIMEOUT_MS: "30000", DEFAULT_TIMEOUT_MS: "60000" };

let database: TestService;
let folder: Awaited<ReturnType<typeof temporaryFolder>>;
beforeAll(async () => {
  database = await startService();
  folder = await temporaryFolder();
});
afterAll(async () => {
  await database[Symbol.asyncDispose]();
  await folder[Symbol.asyncDispose]();
});

/** The environment of a service on the database of the tests. */
function onDatabase(env: Record<string, string> = {}): Record<string, string> {
  return {
    ...databaseEnvironment(database),
    BOOTSTRAP_API_KEY: database.organization.apiKey,
    DATA_DIR: folder.path,
    ...PATIENCE,
    ...env,
  };
}

/** A folder that the user of the embedded PostgreSQL may enter; it is removed after the processes in it. */
async function dataFolder(): Promise<{ path: string }> {
  const data = await temporaryFolder();
  onTestFinished(() => data[Symbol.asyncDispose]());
  await chmod(data.path, 0o755);
  return data;
}

/** A service for one test; it ends with the test, however the test goes. */
async function serve(...options: Parameters<typeof startServiceProcess>): Promise<ServiceProcess> {
  const service = await startServiceProcess(...options);
  onTestFinished(() => service[Symbol.asyncDispose]());
  return service;
}

/** The command `serve`, which may end by itself; else it is ended with the test. */
function startServe(env: Record<string, string>) {
  const child = startCli(["serve"], { env: { PORT: "0", ...env } });
  onTestFinished(async () => {
    child.kill();
    await child.ended;
  });
  return child;
}

/** A caller on a separate connection, and the worker that serves it. */
interface Connection {
  client: EntityClient;
  worker: number;
}

/** Opens connections; all of them are counted before the first one is used again. */
async function connections(service: ServiceProcess, count: number): Promise<Connection[]> {
  const opened = await Promise.all(
    Array.from({ length: count }, async () => {
      const headers = captureHeaders();
      const client = createEntityClient({ retries: false, ...service, interceptors: [headers.interceptor] });
      await client.entities.listEntities({ pageSize: 1 });
      return { client, requestId: headers.last.get("x-request-id") };
    }),
  );
  const workerOf = (requestId: string | null) => callsOf(service).find((line) => line.requestId === requestId)?.worker;
  await vi.waitUntil(() => opened.every(({ requestId }) => workerOf(requestId)), WAIT);
  return opened.map(({ client, requestId }) => ({ client, worker: workerOf(requestId) as number }));
}

const callsOf = (service: ServiceProcess) => service.lines().filter(({ msg }) => msg === "call");
const linesOf = (service: ServiceProcess, msg: string) => service.lines().filter((line) => line.msg === msg);
const workersIn = (lines: LogLine[]) => [...new Set(lines.map(({ worker }) => worker))].sort();

/** A zombie counts as ended: not every container has a process 1 that reaps them. */
function isAlive(pid: number): boolean {
  try {
    return !execFileSync("ps", ["-o", "stat=", "-p", String(pid)], { encoding: "utf8" }).startsWith("Z");
  } catch {
    return false;
  }
}

/** Holds the row of an entity, so that a write to it is in flight until the row is released. */
async function hold(at: pg.ClientConfig, entity: { id: string }) {
  const holder = new pg.Client(at);
  // A server that a failed test stops ends the connection.
  holder.on("error", () => {});
  await holder.connect();
  await holder.query("begin");
  await holder.query("select from entity where id = $1 for no key update", [entity.id]);
  return {
    /** Resolves when `count` connections wait for a lock. */
    async waiting(count: number) {
      const waiting = async () => {
        // The first call clears the snapshot: within a transaction the view would not change.
        const { rows } = await holder.query(
          "select pg_stat_clear_snapshot(), count(*)::int from pg_locks where not granted",
        );
        return rows[0].count as number;
      };
      await expect.poll(waiting, WAIT).toBeGreaterThanOrEqual(count);
    },
    query: async (sql: string) => (await holder.query(sql)).rows as Record<string, unknown>[],
    [Symbol.asyncDispose]: () => holder.end(),
  };
}

/** The number of successful calls of a method in GET /metrics, over a separate connection. */
async function countOf(service: { port: number }, method: string): Promise<number> {
  const text = await new Promise<string>((resolve, reject) => {
    get({ port: service.port, path: "/metrics", agent: false }, async (response) => {
      expect(response.statusCode).toBe(200);
      resolve((await response.setEncoding("utf8").toArray()).join(""));
    }).on("error", reject);
  });
  const name = `entity_service_rpc_duration_seconds_count{method="entity.v1.EntityService/${method}",code="OK"}`;
  return Number(
    text
      .split("\n")
      .find((line) => line.startsWith(name))
      ?.slice(name.length) ?? 0,
  );
}

describe("three workers", () => {
  let service: ServiceProcess;
  let open: Connection[];
  beforeAll(async () => {
    service = await startServiceProcess(folder.path, onDatabase({ WORKERS: "3", PORT: "0" }));
    open = await connections(service, 12);
  });
  afterAll(() => service?.[Symbol.asyncDispose]());
  const client = (i: number) => (open[i % open.length] as Connection).client;

  it("say once that they serve, on one port, and share the connections", async () => {
    expect(linesOf(service, "serving")).toEqual([
      { level: "info", time: expect.any(String), host: "127.0.0.1", port: service.port, workers: 3, msg: "serving" },
    ]);
    expect(workersIn(callsOf(service))).toEqual([1, 2, 3]);
    expect(new Set(open.map(({ worker }) => worker)).size).toBe(3);
  });

  it("of 64 updates with one etag one is done and 63 are ETAG_MISMATCH", async () => {
    const person = await newPerson(client(0));
    const before = callsOf(service).length;
    let endings: ReturnType<typeof together>;
    {
      await using holder = await hold(database.database, person);
      endings = together(CALLERS, (i) =>
        client(i).entities.updateEntity({ lookup: byId(person), entity: { name: `Caller ${i}` }, etag: person.etag }),
      );
      // With several workers each has one transaction under way on one entity.
      await holder.waiting(2);
    }
    expect(tally(await endings)).toEqual({ OK: 1, ETAG_MISMATCH: 63 });
    expect(await eventsOf(client(0), person)).toHaveLength(2);
    await expect.poll(() => workersIn(callsOf(service).slice(before)), WAIT).toEqual([1, 2, 3]);
  });

  it("of 64 creations with one external id one wins and 63 are DUPLICATE_EXTERNAL_ID", async () => {
    const externalId = unique("x");
    const endings = await together(CALLERS, (i) => newPerson(client(i), { externalId }));
    expect(tally(endings)).toEqual({ OK: 1, DUPLICATE_EXTERNAL_ID: 63 });
  });

  it("64 sends of one request have one effect and one answer", async () => {
    const externalId = unique("x");
    const entity = { type: EntityType.PERSON, name: "Ana", countryCode: "BR", externalId };
    const requestId = randomUUID();
    const endings = await together(CALLERS, (i) => client(i).entities.createEntity({ entity, requestId }));
    expect(tally(endings)).toEqual({ OK: CALLERS });
    expect(new Set(endings.map(({ answer }) => answer?.entity?.etag)).size).toBe(1);
    expect(await eventsOf(client(0), endings[0]?.answer?.entity ?? { id: "" })).toHaveLength(1);
  });

  it("a key that is revoked at one is refused by all within 5 s", async () => {
    const made = await client(0).organizations.createApiKey({ displayName: "short", scopes: ["entities:read"] });
    const callers = await connections({ ...service, apiKey: made.secret }, 6);
    const callAll = () => together(6, (i) => (callers[i] as Connection).client.entities.listEntities({ pageSize: 1 }));
    expect(new Set(callers.map(({ worker }) => worker)).size).toBe(3);
    expect(tally(await callAll())).toEqual({ OK: 6 });
    await client(0).organizations.revokeApiKey({ apiKeyId: made.apiKey?.id ?? "" });
    await sleep(5_000);
    expect(tally(await callAll())).toEqual({ UNAUTHENTICATED: 6 });
  });

  /** Reads an entity over all connections, and waits until the metrics have counted it. */
  async function readCounted(): Promise<number> {
    const person = await newPerson(client(0));
    const before = await countOf(service, "GetEntity");
    await together(open.length, (i) => client(i).entities.getEntity({ lookup: byId(person) }));
    await expect.poll(() => countOf(service, "GetEntity"), WAIT).toBe(before + open.length);
    return before + open.length;
  }

  it("answer the metrics of all, whichever is asked", async () => {
    const person = await newPerson(client(0));
    const before = await countOf(service, "GetEntity");
    await together(48, (i) => client(i).entities.getEntity({ lookup: byId(person) }));
    for (let i = 0; i < 6; i++) await expect.poll(() => countOf(service, "GetEntity"), WAIT).toBe(before + 48);
  });

  it("go on when one is killed, which is replaced; its counts stay in the metrics", async () => {
    const counted = await readCounted();
    const [pid] = childrenOf(service.pid) as [number];
    process.kill(pid, "SIGKILL");
    const ended = () => linesOf(service, "a worker ended").find((line) => line.pid === pid);
    await expect.poll(ended, WAIT).toMatchObject({ level: "warn", signal: "SIGKILL" });
    const lost = ended()?.number as number;
    // On their existing connections.
    const others = open.filter(({ worker }) => worker !== lost);
    const lookup = byExternalId(unique("nobody"));
    const call = (i: number) => refusal((others[i] as Connection).client.entities.getEntity({ lookup }));
    for (const { reason } of await Promise.all(others.map((_, i) => call(i)))) expect(reason).toBe("NOT_FOUND");

    const hasConnections = async () => (await connections(service, 3)).some(({ worker }) => worker === lost);
    await expect.poll(hasConnections, WAIT).toBe(true);
    expect(childrenOf(service.pid)).toHaveLength(3);
    expect(childrenOf(service.pid)).not.toContain(pid);
    expect(await countOf(service, "GetEntity")).toBe(counted);
  });

  it("leave no caller waiting whose connection was for one that is killed", async () => {
    open = await connections(service, 12);
    const counted = await readCounted();
    const [pid] = childrenOf(service.pid) as [number];
    process.kill(pid, "SIGSTOP");
    const calls = together(6, () =>
      createEntityClient({ ...service, retries: false }).entities.listEntities({ pageSize: 1 }),
    );
    const settled = () => Promise.race([calls.then(() => true), sleep(500, false)]);
    // All workers are asked: the others answer.
    expect(await settled()).toBe(false);
    // For the worker that does not answer, the metrics use its last report.
    expect(await countOf(service, "GetEntity")).toBe(counted);
    process.kill(pid, "SIGKILL");
    await expect.poll(settled, WAIT).toBe(true);
    expect(tally(await calls)).toMatchObject({ OK: 5 });
    await expect.poll(() => childrenOf(service.pid).length, WAIT).toBe(3);
  });

  it("are back on the same port when all are killed at once", async () => {
    const killed = childrenOf(service.pid);
    for (const pid of killed) process.kill(pid, "SIGKILL");
    const isBack = async () => (await connections(service, 1).catch(() => [])).length;
    await expect.poll(isBack, WAIT).toBe(1);
    await expect.poll(() => childrenOf(service.pid).length, WAIT).toBe(3);
    expect(childrenOf(service.pid).filter((pid) => killed.includes(pid))).toEqual([]);
  });
});

it("METRICS_PORT is shared like PORT: health, and the metrics of all", async () => {
  const port = await freePort();
  const service = await serve(folder.path, onDatabase({ WORKERS: "2", METRICS_PORT: String(port) }));
  const [one, two] = (await connections(service, 2)) as [Connection, Connection];
  expect(one.worker).not.toBe(two.worker);
  const before = await countOf({ port }, "ListEntities");
  for (const { client } of [one, two]) await client.entities.listEntities({ pageSize: 1 });
  for (let i = 0; i < 4; i++) await expect.poll(() => countOf({ port }, "ListEntities"), WAIT).toBe(before + 2);
  expect((await fetch(`http://127.0.0.1:${port}/health`)).status).toBe(200);
});

it("nobody is told SERVING before the last worker listens", async () => {
  const port = await freePort();
  const child = startServe(onDatabase({ WORKERS: "2", PORT: String(port) }));
  let log = "";
  child.stdout?.on("data", (text: string) => (log += text));
  await expect.poll(() => childrenOf(child.pid as number).length, { ...WAIT, interval: 1 }).toBe(2);
  const [late] = childrenOf(child.pid as number) as [number];
  process.kill(late, "SIGSTOP");
  const health = createClient(Health, createGrpcTransport({ baseUrl: `http://127.0.0.1:${port}` }));
  const status = async () => {
    const answer = await health.check({}).catch(() => undefined);
    return answer?.status;
  };
  await expect.poll(status, WAIT).toBe(Status.NOT_SERVING);
  await sleep(500);
  expect(await status()).toBe(Status.NOT_SERVING);
  expect(log).not.toContain('"serving"');
  process.kill(late, "SIGCONT");
  await expect.poll(() => log, WAIT).toContain('"serving"');
  expect(await status()).toBe(Status.SERVING);
  child.kill("SIGTERM");
  expect((await child.ended).code).toBe(0);
});

describe("the end", () => {
  /** Two workers on a separate database, and a write in flight in one of them. */
  async function withCallInFlight(path: string, detached = false) {
    const service = await serve(path, { WORKERS: "2", POOL_SIZE: "60", ...PATIENCE }, { detached });
    const [first] = (await connections(service, 2)) as [Connection];
    const person = await newPerson(first.client, { externalId: "kept" });
    // As the owner of the tables, over the socket of the embedded server.
    const socket = { host: await realpath(join(path, "postgres")), port: 5432, database: "entity_service" };
    const holder = await hold({ ...socket, user: "entity_owner" }, person);
    onTestFinished(() => holder[Symbol.asyncDispose]());
    const call = first.client.entities.updateEntity({ lookup: byId(person), entity: { name: "In Flight" } });
    await holder.waiting(1);
    return {
      service,
      holder,
      call,
      /** Both workers, and PostgreSQL. */
      processes: childrenOf(service.pid),
    };
  }

  it.each([
    { signal: "SIGTERM", to: "the primary" },
    { signal: "SIGTERM", to: "the whole group, as a supervisor may send it" },
    { signal: "SIGINT", to: "the whole group, as Ctrl-C is" },
  ] as const)("$signal to $to: the call in flight is answered, exit code 0, nothing left", async ({ signal, to }) => {
    const data = await dataFolder();
    const { service, holder, call, processes } = await withCallInFlight(data.path, to !== "the primary");
    expect(processes).toHaveLength(3);
    // There is room for the pools of both.
    const [{ max_connections }] = (await holder.query("show max_connections")) as [{ max_connections: string }];
    expect(Number(max_connections)).toBeGreaterThanOrEqual(2 * 60);

    process.kill(to === "the primary" ? service.pid : -service.pid, signal);
    await expect.poll(() => workersIn(linesOf(service, "draining")), WAIT).toEqual([1, 2, undefined]);
    // The worker without a call may end; the one with a call and the database stay.
    await expect.poll(() => processes.filter(isAlive).length, WAIT).toBe(2);
    await sleep(500);
    expect(processes.filter(isAlive)).toHaveLength(2);
    await holder[Symbol.asyncDispose]();
    expect((await call).entity?.name).toBe("In Flight");
    expect(await service.ended).toMatchObject({ code: 0, stderr: "" });
    expect(linesOf(service, "draining")).toHaveLength(3);
    expect(linesOf(service, "a worker ended")).toEqual([]);
    expect(processes.filter(isAlive)).toEqual([]);
  });

  it("kill -9 of the primary: the workers end what is in flight and go; the next start has the data", async () => {
    const data = await dataFolder();
    const { service, holder, call, processes } = await withCallInFlight(data.path);
    process.kill(service.pid, "SIGKILL");
    await expect
      .poll(
        () =>
          linesOf(service, "draining")
            .map(({ worker, reason }) => `${worker}: ${reason}`)
            .sort(),
        WAIT,
      )
      .toEqual(["1: the primary process is gone", "2: the primary process is gone"]);
    await holder[Symbol.asyncDispose]();
    expect((await call).entity?.name).toBe("In Flight");
    await service.ended;
    const server = Number((await readFile(join(data.path, "postgres/postmaster.pid"), "utf8")).split("\n")[0]);
    await expect.poll(() => processes.filter(isAlive), WAIT).toEqual([server]);

    const next = await serve(data.path, { WORKERS: "2" });
    const [{ client }] = (await connections(next, 1)) as [Connection];
    expect((await client.entities.getEntity({ lookup: byExternalId("kept") })).entity?.name).toBe("In Flight");
    expect(isAlive(server)).toBe(false);
  });

  it("does not wait for ever for a worker that hangs", async () => {
    const service = await serve(folder.path, onDatabase({ WORKERS: "2", DRAIN_TIMEOUT_MS: "2000", LAME_DUCK_MS: "0" }));
    const processes = childrenOf(service.pid);
    process.kill(processes[0] as number, "SIGSTOP");
    process.kill(service.pid, "SIGTERM");
    expect((await service.ended).code).toBe(0);
    expect(linesOf(service, "a worker did not end in time: killed")).toMatchObject([{ pid: processes[0] }]);
    expect(processes.filter(isAlive)).toEqual([]);
  });

  it("of the embedded PostgreSQL is that of all, with the reason", async () => {
    const data = await dataFolder();
    const service = await serve(data.path, { WORKERS: "2" });
    const processes = childrenOf(service.pid);
    process.kill(
      Number((await readFile(join(data.path, "postgres/postmaster.pid"), "utf8")).split("\n")[0]),
      "SIGKILL",
    );
    const { code, stderr } = await service.ended;
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: "entity-service: the embedded PostgreSQL ended: see postgres.log in DATA_DIR\n",
    });
    expect(processes.filter(isAlive)).toEqual([]);
  });
});

describe("the start", () => {
  it("is given up when workers end before they serve, with the reason", async () => {
    const { code, stderr } = await startServe(
      onDatabase({ WORKERS: "2", TLS_CERT: "/nowhere/cert.pem", TLS_KEY: "/nowhere/key.pem" }),
    ).ended;
    expect(code).toBe(1);
    expect(stderr).toContain("/nowhere/cert.pem");
    expect(stderr).toMatch(/\nentity-service: 5 workers in a row ended before they could serve: see what they wrote\n/);
  });

  it("is refused on a port that is taken, as with one process", async () => {
    await using taken = createServer().listen(0, "127.0.0.1");
    await once(taken, "listening");
    const { port } = taken.address() as AddressInfo;
    const { code, stdout, stderr } = await startServe(onDatabase({ WORKERS: "2", PORT: String(port) })).ended;
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringMatching(/^entity-service: .*EADDRINUSE.*\n$/),
    });
    expect(stdout).not.toContain("a worker ended");
  });

  it.each([
    [{ WORKERS: "0" }, "WORKERS must be a whole number from 1 to 128"],
    [{ WORKERS: "129" }, "WORKERS must be a whole number from 1 to 128"],
    [{ WORKERS: "two" }, "WORKERS must be a whole number from 1 to 128"],
    [{ WORKERS: "128", POOL_SIZE: "200" }, "WORKERS times POOL_SIZE must be at most 2000"],
  ])("is refused with %o", async (env, text) => {
    const { code, stderr } = await startServe({ DATA_DIR: folder.path, ...env }).ended;
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining(text) });
  });

  it.each<Record<string, string>>([{}, { WORKERS: "1" }])("of one process is that of one process: %o", async (env) => {
    const service = await serve(folder.path, onDatabase(env));
    const client = createEntityClient({ ...service, retries: false });
    const person = await newPerson(client);
    const before = await countOf(service, "GetEntity");
    await client.entities.getEntity({ lookup: byId(person) });
    await expect.poll(() => countOf(service, "GetEntity"), WAIT).toBe(before + 1);
    expect(childrenOf(service.pid)).toEqual([]);
    expect(callsOf(service).length).toBeGreaterThan(0);
    expect(service.lines().filter((line) => "worker" in line || "workers" in line)).toEqual([]);
  });
});
