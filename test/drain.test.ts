// How the process ends: which signal it gets, what it has in flight, and how long it takes.
import { EventEmitter } from "node:events";
import { connect } from "node:http2";
import { createConnection } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import * as grpc from "@grpc/grpc-js";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { EntityService } from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { createEntityClient } from "../clients/typescript/index.ts";
import { createOrm, dropWaiting, forOrganization } from "../src/db/orm.ts";
import { endWithin, heedSignals } from "../src/signals.ts";
import { whilePortIsTaken } from "../src/transport/taken-port.ts";
import { startServiceProcess, temporaryFolder } from "./cli-process.ts";
import { envelope } from "./frames.ts";
import { databaseEnvironment, startService, type TestService } from "./harness.ts";
import { KEY, startServer } from "./transport-harness.ts";

const GET = "/entity.v1.EntityService/GetEntity";
const EMPTY = envelope(new Uint8Array());

describe("signals", () => {
  const isPending = async (promise: Promise<unknown>) =>
    (await Promise.race([promise, sleep(20, "pending")])) === "pending";

  test("npm passes on the Ctrl-C that the terminal has given already: two within a second are one", async () => {
    const source = new EventEmitter();
    const { stop, force } = heedSignals(["SIGTERM", "SIGINT"], source);
    expect(await isPending(stop)).toBe(true);
    source.emit("SIGINT", "SIGINT");
    source.emit("SIGINT", "SIGINT");
    expect(await stop).toBe("SIGINT");
    expect(await isPending(force)).toBe(true);
    source.emit("SIGINT", "SIGINT");
    expect(await force).toBe("SIGINT");
  });

  test("a second one, more than a second later, ends at once", async () => {
    const source = new EventEmitter();
    const { force } = heedSignals(["SIGTERM"], source);
    source.emit("SIGTERM", "SIGTERM");
    await sleep(1_050);
    expect(await isPending(force)).toBe(true);
    source.emit("SIGTERM", "SIGTERM");
    expect(await force).toBe("SIGTERM");
  });

  test("SIGHUP ends nothing", async () => {
    const source = new EventEmitter();
    const { stop } = heedSignals(["SIGTERM"], source);
    expect(source.listenerCount("SIGHUP")).toBe(1);
    source.emit("SIGHUP", "SIGHUP");
    expect(await isPending(stop)).toBe(true);
  });

  test("an end that does not come is not waited for", async () => {
    const never = new Promise<never>(() => {});
    expect(await endWithin(async () => {}, { timeoutMs: 1_000, force: never })).toBeUndefined();
    expect(await endWithin(() => never, { timeoutMs: 20, force: never })).toMatch(/not ended within 20 ms/);
    expect(await endWithin(() => never, { timeoutMs: 5_000, force: Promise.resolve("SIGINT") })).toBe("SIGINT");
  });
});

describe("a process", { timeout: 120_000 }, () => {
  let database: TestService;
  beforeAll(async () => {
    database = await startService();
  }, 120_000);
  afterAll(() => database[Symbol.asyncDispose]());

  const onDatabase = (env: Record<string, string>) => {
    return {
      ...databaseEnvironment(database),
      BOOTSTRAP_API_KEY: database.organization.apiKey,
      LAME_DUCK_MS: "0",
      STATEMENT_TIMEOUT_MS: "60000",
      LOCK_TIMEOUT_MS: "60000",
      DEFAULT_TIMEOUT_MS: "60000",
      ...env,
    };
  };

  /** Calls that wait for a lock that is held until the end of the test. */
  async function heldCall(env: Record<string, string>) {
    const folder = await temporaryFolder();
    onTestFinished(() => folder[Symbol.asyncDispose]());
    const service = await startServiceProcess(folder.path, onDatabase(env));
    const locker = new pg.Client(database.database);
    await locker.connect();
    onTestFinished(() => locker.end());
    await locker.query("begin; lock table entity in access exclusive mode");
    const client = createEntityClient({ ...service, retries: false });
    const call = client.entities.listEntities({}).catch((error: unknown) => error);
    const waiting = () =>
      database.sql("select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'");
    await expect.poll(waiting, { timeout: 30_000 }).not.toEqual([]);
    return { service, call };
  }

  test.each(["1", "2"])(
    "with %s workers and calls that never end, ends by force in time, and says so",
    async (workers) => {
      const { service, call } = await heldCall({ DRAIN_TIMEOUT_MS: "3000", WORKERS: workers });
      const start = performance.now();
      process.kill(service.pid, "SIGTERM");
      const { code } = await service.ended;
      expect(code).toBe(workers === "1" ? 3 : 0);
      expect(performance.now() - start).toBeGreaterThan(2_000);
      const forced = service.lines().filter(({ msg }) => msg === "ended by force");
      expect(forced.length).toBeGreaterThan(0);
      expect(forced[0]).toMatchObject({
        level: "error",
        reason: expect.stringMatching(/^not ended within (3000|2500) ms$/),
        open: expect.any(Object),
      });
      await call;
    },
  );

  test("a third signal ends it at once", async () => {
    const { service, call } = await heldCall({ DRAIN_TIMEOUT_MS: "60000" });
    for (let i = 0; i < 3; i += 1) {
      process.kill(service.pid, "SIGINT");
      await sleep(50);
    }
    const { code } = await service.ended;
    expect(code).toBe(3);
    expect(service.lines().at(-1)).toMatchObject({ msg: "ended by force", reason: "SIGINT", open: { calls: 1 } });
    await call;
  });

  test("in its lame-duck time it says NOT_SERVING and serves as before, new connections and HTTP/1.1 too", async () => {
    const folder = await temporaryFolder();
    onTestFinished(() => folder[Symbol.asyncDispose]());
    const service = await startServiceProcess(folder.path, onDatabase({ LAME_DUCK_MS: "4000" }));
    const post = async (rpc: string, body: string) => {
      const headers = { "content-type": "application/json", authorization: `Bearer ${service.apiKey}` };
      return (await fetch(`${service.baseUrl}/${rpc}`, { method: "POST", headers, body })).json();
    };
    const health = () => post("grpc.health.v1.Health/Check", "{}");
    expect(await health()).toMatchObject({ status: "SERVING" });
    process.kill(service.pid, "SIGTERM");
    await expect.poll(health).toMatchObject({ status: "NOT_SERVING" });
    for (let i = 0; i < 5; i++) {
      // A separate client has a separate connection.
      await createEntityClient({ ...service, retries: false }).entities.listEntities({ pageSize: 1 });
      const refused = await post("entity.v1.EntityService/GetEntity", '{"lookup":{"externalId":"nobody"}}');
      expect(refused).toMatchObject({ code: "not_found" });
    }
    expect(service.lines().some(({ msg }) => msg === "stopped")).toBe(false);
    expect((await service.ended).code).toBe(0);
  });

  test("what waits for a connection of the pool is refused when asked to", async () => {
    const orm = createOrm(database.database, { poolSize: 2, statementTimeoutMs: 5_000, lockTimeoutMs: 2_000 });
    onTestFinished(() => orm.close(true));
    const em = forOrganization(orm, database.organization.id);
    const busy = Array.from({ length: 6 }, () =>
      em
        .fork()
        .execute("select pg_sleep(1)")
        .then(
          () => "done",
          () => "refused",
        ),
    );
    await sleep(300);
    expect(await dropWaiting(orm)).toBeGreaterThanOrEqual(3);
    expect((await Promise.all(busy)).filter((how) => how === "refused").length).toBeGreaterThanOrEqual(3);
  });
});

describe("the drain", () => {
  test("HTTP/1.1 calls whose bytes have arrived are answered, and told that the connection closes", async () => {
    const own = await startServer();
    const sockets = Array.from({ length: 16 }, () => createConnection(own.port, "127.0.0.1"));
    const received = sockets.map(() => "");
    for (const [i, socket] of sockets.entries()) {
      socket.on("error", () => {});
      socket.on("data", (chunk) => {
        received[i] += chunk.toString("latin1");
      });
    }
    const call = `POST ${GET} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ${KEY}\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}`;
    for (const socket of sockets) socket.write(call);
    await expect.poll(() => received.every((text) => text.includes("answer"))).toBe(true);
    received.fill("");
    // In the turn in which the drain begins: the bytes have reached the sockets and are not read yet.
    for (const socket of sockets) socket.write(call);
    const closed = sockets.map((socket) => new Promise((resolve) => socket.once("close", resolve)));
    await own.drain(5_000);
    await Promise.all(closed);
    for (const text of received) {
      expect(text).toMatch(/^HTTP\/1\.1 200 /);
      expect(text).toMatch(/^connection: close\r$/im);
      expect(text).toContain("answer");
    }
  });

  test.each(["application/grpc", "application/connect+proto", "application/grpc-web+proto"])(
    "a watcher that does not read delays it by nothing: %s",
    async (type) => {
      const own = await startServer({
        endless: [EntityService.method.watchEntities],
        handlers: {
          async *watchEntities() {
            for (;;) yield { event: { id: "x".repeat(60_000) } };
          },
        },
      });
      const session = connect(own.url, { settings: { initialWindowSize: 0 } });
      session.on("error", () => {});
      const head = {
        ":method": "POST",
        ":path": "/entity.v1.EntityService/WatchEntities",
        authorization: `Bearer ${KEY}`,
      };
      const stream = session.request({ ...head, "content-type": type });
      stream.on("error", () => {});
      stream.end(EMPTY);
      stream.pause();
      await expect.poll(() => own.lookups.length).toBe(1);
      await sleep(100);
      own.shutdown.abort();
      const start = performance.now();
      await own.drain(20_000);
      expect(performance.now() - start).toBeLessThan(15_000);
      expect(own.lines.join("")).not.toContain("the time to drain is over");
      session.destroy();
    },
  );

  test("grpc-js loses no call to connections that are retired under load", async () => {
    await using own = await startServer({ listener: { maxConnectionAgeMs: 300 } });
    await using far = await slowProxy(own.port, 30);
    for (const port of [own.port, far.port]) {
      const failed: unknown[] = [];
      let ok = 0;
      const until = performance.now() + 3_000;
      const Client = grpc.makeGenericClientConstructor({}, "any");
      await Promise.all(
        Array.from({ length: 16 }, async () => {
          const options = { "grpc.use_local_subchannel_pool": 1 };
          const client = new Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), options);
          const metadata = new grpc.Metadata();
          metadata.set("authorization", `Bearer ${KEY}`);
          while (performance.now() < until) {
            await new Promise<void>((resolve) => {
              const same = (bytes: Buffer) => bytes;
              client.makeUnaryRequest(GET, same, same, Buffer.alloc(0), metadata, (error) => {
                if (error === null) ok += 1;
                else failed.push(`${error.code} ${error.details}`);
                resolve();
              });
            });
          }
          client.close();
        }),
      );
      expect(failed).toEqual([]);
      expect(ok).toBeGreaterThan(16);
    }
    expect(own.lines.filter((line) => line.includes("goaway_sent")).length).toBeGreaterThan(0);
  });
});

/** Passes bytes in both directions, each after the delay. */
async function slowProxy(target: number, delayMs: number): Promise<AsyncDisposable & { port: number }> {
  const { createServer } = await import("node:net");
  const server = createServer((near) => {
    const far = createConnection(target, "127.0.0.1");
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      from.on("error", () => {});
      from.on("data", (chunk) => setTimeout(() => to.writable && to.write(chunk), delayMs));
      from.on("end", () => setTimeout(() => to.end(), delayMs));
      from.on("close", () => setTimeout(() => to.destroy(), delayMs));
    }
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  return {
    port: (server.address() as { port: number }).port,
    async [Symbol.asyncDispose]() {
      server.close();
    },
  };
}

test("a port that is in use is tried again for a while, and said so", async () => {
  const lines: unknown[] = [];
  const log = { warn: (...line: unknown[]) => lines.push(line) } as never;
  let tries = 0;
  const taken = Object.assign(new Error(), { code: "EADDRINUSE" });
  const port = await whilePortIsTaken(log, 1, async () => {
    tries += 1;
    if (tries < 3) throw taken;
    return 1;
  });
  expect([port, tries, lines.length]).toEqual([1, 3, 1]);
  await expect(whilePortIsTaken(log, 1, () => Promise.reject(new Error("other")))).rejects.toThrow("other");
});
