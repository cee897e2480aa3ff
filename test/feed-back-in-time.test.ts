// A real PostgreSQL that goes back in time: it crashes and gives ids of rolled-back transactions out again, its files
// are restored, a copy of it is started while it runs on. No watcher misses anything without an error:
// docs/positions.md. The former reader, whose positions were raw snapshots, runs beside it, and misses events.
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, describe, expect, it } from "vitest";
import { type EntityClient, errorInfo } from "../clients/typescript/index.ts";
import { createOrm, type Orm } from "../src/db/orm.ts";
import { readHead } from "../src/log/head.ts";
import { createPages, type LogPages } from "../src/log/pages.ts";
import { decodePosition } from "../src/log/position.ts";
import { parseSnapshot } from "../src/log/snapshot.ts";
import { organizationLog } from "../src/log/source.ts";
import { type Cluster, newCluster, ORGANIZATION, rollBack, standbyMissing } from "./clusters.ts";
import { byId, current, newPerson } from "./given.ts";
import { watching } from "./watchers.ts";

const listed = async (client: EntityClient) => (await client.entities.listEntities({ pageSize: 1 })).watchPosition;

async function rename(client: EntityClient, entity: { id: string }, times: number, name = "Name"): Promise<void> {
  for (let i = 0; i < times; i++) {
    await client.entities.updateEntity({ lookup: byId(entity), entity: { name: `${name} ${i} ${Date.now()}` } });
  }
}

/** The versions that a watch from the position receives, or the reason of its refusal. */
async function versionsFrom(client: EntityClient, position: string): Promise<number[] | string | undefined> {
  await using watch = watching(client, { position });
  try {
    await watch.started();
  } catch (error) {
    return errorInfo(error)?.reason ?? String(error);
  }
  return watch.events().map(({ entityVersion }) => Number(entityVersion));
}

/** The former rule: the head is a raw snapshot, and a position is valid if the head is above it, in any start. */
function planted(orm: Orm, cluster: Cluster): LogPages {
  return createPages(orm, (given, key) => {
    const log = organizationLog(given, key);
    const raw = async () => {
      const [row] = await cluster.sql("select pg_current_snapshot()::text as snapshot");
      return parseSnapshot(row?.snapshot);
    };
    return {
      ...log,
      head: async () => ({ ...(await log.head()), snapshot: await raw() }),
      ended: async () => ({ number: (await log.head()).epoch.number, reached: await raw() }),
    };
  });
}

const versions = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

const lent: AsyncDisposable[] = [];
afterAll(async () => {
  for (const one of lent.toReversed()) await one[Symbol.asyncDispose]();
});

/** A cluster with a service and an entity of version 1. */
async function given() {
  const cluster = await newCluster();
  lent.push(cluster);
  let service = await cluster.serve();
  const entity = await newPerson(service.client);
  return {
    cluster,
    entity,
    service: () => service,
    /** Serves on another start, or another cluster, after the former one has ended. */
    async again(on = cluster) {
      service = await on.serve();
      return service.client;
    },
    async end() {
      await service[Symbol.asyncDispose]();
    },
  };
}

describe("a crash", () => {
  it("that gives the ids of rolled-back transactions out again costs no watcher an event, and no position", {
    timeout: 180_000,
  }, async () => {
    const { cluster, entity, service } = await given();
    const { client, orm } = service();
    // As a caller does: after a long outage of the database it watches again from its last position.
    const streams = [watching(client)];
    const steady = () => streams.flatMap((one) => one.events());
    const begin = (await streams[0]?.started()) ?? "";
    const follow = async (version: number) => {
      for (const until = performance.now() + 30_000; performance.now() < until; await sleep(20)) {
        if (steady().some(({ entityVersion }) => Number(entityVersion) === version)) return;
        const last = streams.at(-1);
        const ended = await Promise.race([last?.ended, sleep(1, "going" as const)]);
        if (ended === "going") continue;
        expect(errorInfo(ended)?.reason).toBe("DATABASE_UNAVAILABLE");
        streams.push(
          watching(client, { position: streams.findLast((one) => one.messages.length > 0)?.position() ?? "" }),
        );
      }
      throw new Error(`late: version ${version}`);
    };
    const persistently = (work: () => Promise<unknown>) =>
      expect.poll(() => work().then(() => "done"), { timeout: 20_000 }).toBe("done");
    const nextXid = async () =>
      BigInt((await cluster.sql("select pg_snapshot_xmax(pg_current_snapshot())::text as xmax"))[0]?.xmax);
    const old = planted(orm, cluster);
    let version = 1;
    let missed = 0;
    // Whether the server's WAL writer runs in between is chance.
    for (let round = 0; round < 8 && missed === 0; round++) {
      await rename(client, entity, 3);
      version += 3;
      // The service records a second later how far the log is committed, and flushes it: all that is rolled back is above.
      await sleep(1_300);
      await cluster.sql(rollBack(60));
      const end = await nextXid();
      const [position, before] = [await listed(client), await old.head(ORGANIZATION)];
      await cluster.crash();
      await cluster.start();
      await persistently(() => rename(client, entity, 1));
      const isAgain = (await nextXid()) < end;
      await cluster.sql(rollBack(100));
      for (let i = 0; i < 2; i++) await persistently(() => rename(client, entity, 1));
      const expected = Array.from({ length: version + 2 }, (_, i) => i + 2);
      const behind = expected.slice(version - 1);
      version += 3;
      await follow(version);
      expect(await versionsFrom(client, position)).toEqual(behind);
      expect(await versionsFrom(client, begin)).toEqual(expected);
      expect(steady().map(({ entityVersion }) => Number(entityVersion))).toEqual(expected);
      const page = await old.read(ORGANIZATION, before);
      if (isAgain) missed += behind.length - page.size;
    }
    for (const stream of streams) await stream.stop();
    expect(missed, "planted: raw snapshots lose what has the ids of others").toBeGreaterThan(0);
    await service()[Symbol.asyncDispose]();
  });
});

describe("files that are put back (called C1)", () => {
  it("what came after the copy is POSITION_EXPIRED, however many updates follow, and what came before goes on", {
    timeout: 240_000,
  }, async () => {
    const { cluster, entity, service, again, end } = await given();
    const before = await listed(service().client);
    await end();
    await cluster.stop();
    const files = await cluster.copy();
    await cluster.start();
    let client = await again();
    const between = await listed(client);
    await rename(client, entity, 30);
    const after = await listed(client);
    for (const updates of [0, 5, 30, 430]) {
      await end();
      await cluster.stop();
      await cluster.putBack(files);
      await cluster.start();
      client = await again();
      expect((await current(client, entity)).name).toBe("Ana Souza");
      await rename(client, entity, updates);
      expect(await versionsFrom(client, after), `${updates}`).toBe("POSITION_EXPIRED");
      expect(await versionsFrom(client, between), "of a start that the copy does not know").toBe("POSITION_EXPIRED");
      expect(await versionsFrom(client, before)).toEqual(versions(2, updates + 1));
    }
    const page = await planted(service().orm, cluster).read(ORGANIZATION, decodePosition(ORGANIZATION, after));
    expect(page.size, "planted: most are skipped in silence").toBeLessThan(420);
    await end();
  });
});

describe.each(["backup", undefined] as const)("a copy of a running cluster (%s)", (as) => {
  it("knows what came before it, and nothing of what came after, whichever of the two goes on", {
    timeout: 120_000,
  }, async () => {
    const { cluster, entity, service, again, end } = await given();
    const before = await listed(service().client);
    await rename(service().client, entity, 3);
    await cluster.sql("checkpoint");
    const files = await cluster.copy(as);
    await rename(service().client, entity, 30);
    const after = await listed(service().client);
    const fork = await cluster.startCopy(files);
    await using copied = await fork.serve();
    const forked = await listed(copied.client);
    await rename(copied.client, entity, 60);
    expect(await versionsFrom(copied.client, after)).toBe("POSITION_EXPIRED");
    expect(await versionsFrom(copied.client, before)).toEqual(versions(2, 64));
    expect(await versionsFrom(copied.client, forked)).toEqual(versions(5, 64));
    await rename(service().client, entity, 1);
    expect(await versionsFrom(service().client, after)).toEqual([35]);
    expect(await versionsFrom(service().client, before)).toEqual(versions(2, 35));
    expect(await versionsFrom(service().client, forked), "of the other one").toBe("POSITION_EXPIRED");
    // And an ordinary restart costs nothing.
    await end();
    await cluster.stop();
    await cluster.start();
    const client = await again();
    await rename(client, entity, 1);
    expect(await versionsFrom(client, after)).toEqual([35, 36]);
    expect(await versionsFrom(client, forked)).toBe("POSITION_EXPIRED");
    await end();
  });
});

const missing = standbyMissing();
it.runIf(process.env.CI || missing === undefined)("a standby can be started here", () =>
  expect(missing).toBeUndefined(),
);
describe.skipIf(missing !== undefined)("a standby that takes over", () => {
  it.each([
    { what: "has all", lost: 0 },
    { what: "lacks what was committed last", lost: 5 },
  ])(
    "and $what: what it is known to have goes on, the rest is POSITION_EXPIRED",
    { timeout: 120_000 },
    async ({ lost }) => {
      const { cluster, entity, service, end } = await given();
      const standby = await cluster.startStandby();
      const { client } = service();
      const before = await listed(client);
      await rename(client, entity, 3);
      await sleep(1_100);
      // The next reader of the end of the log records it as committed.
      const known = await listed(client);
      await sleep(300);
      await standby.caughtUp();
      const orm = createOrm(standby.address(), { poolSize: 1, statementTimeoutMs: 5_000, lockTimeoutMs: 1_000 });
      await expect(readHead(orm, ORGANIZATION), "no positions from a standby").rejects.toMatchObject({
        reason: "DATABASE_UNAVAILABLE",
      });
      await orm.close(true);
      await standby.cutOff();
      await rename(client, entity, lost);
      const last = await listed(client);
      await end();
      await cluster.stop();
      await standby.promote();
      await using other = await standby.serve();
      // The ids of what was lost are given out again, and many more.
      await rename(other.client, entity, 30);
      expect(await versionsFrom(other.client, before)).toEqual(versions(2, 34));
      expect(await versionsFrom(other.client, known)).toEqual(versions(5, 34));
      expect(await versionsFrom(other.client, last)).toEqual(lost === 0 ? versions(5, 34) : "POSITION_EXPIRED");
    },
  );
});
