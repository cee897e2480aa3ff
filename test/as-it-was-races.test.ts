// Rule 115 among writers: whatever is answered for a moment stays the answer, however close to it the moment was asked for.
// READS=10000 is the full run (npm run test:as-it-was); the ordinary run reads less.
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createEntityClient, type Entity, type EntityClient, errorInfo } from "../clients/typescript/index.ts";
import { type byExternalId, byId, newPerson, unique } from "./given.ts";
import { startService, type TestService } from "./harness.ts";
import { type OtherServer, startOther } from "./wall-harness.ts";

const READS = Number(process.env.READS ?? 1_000);
const WRITERS = 64;
const READERS = 8;
/** How far before the clock a moment is, at most: most are within the time that a write takes. */
const BACK_MICROS = 20_000;

let service: TestService;
let other: OtherServer;
/** Of both processes. */
let clients: EntityClient[];
beforeAll(async () => {
  const config = { poolSize: 20, lockTimeoutMs: 20_000, statementTimeoutMs: 20_000, defaultTimeoutMs: 60_000 };
  service = await startService({ config });
  other = await startOther(service, { config });
  clients = Array.from({ length: 8 }, (_, i) =>
    createEntityClient({
      baseUrl: i % 2 === 0 ? service.baseUrl : other.baseUrl,
      apiKey: service.organization.apiKey,
      defaultTimeoutMs: 60_000,
    }),
  );
});
afterAll(async () => {
  await other[Symbol.asyncDispose]();
  await service[Symbol.asyncDispose]();
});

const client = (i: number) => clients[i % clients.length] as EntityClient;
const timeOf = (micros: bigint) => ({ seconds: micros / 1_000_000n, nanos: Number(micros % 1_000_000n) * 1000 });
const microsOf = ({ seconds, nanos }: Timestamp) => seconds * 1_000_000n + BigInt(nanos / 1000);
const random = (below: number) => Math.floor(Math.random() * below);

/** What was answered for a moment; the reason of its refusal. */
interface Read {
  lookup: ReturnType<typeof byId> | ReturnType<typeof byExternalId>;
  at: bigint;
  answer: Entity | string;
}

async function read(which: number, lookup: Read["lookup"], at: bigint): Promise<Read> {
  try {
    const { entity } = await client(which).entities.getEntity({ lookup, readTime: timeOf(at) });
    return { lookup, at, answer: entity as Entity };
  } catch (error) {
    return { lookup, at, answer: errorInfo(error)?.reason ?? String(error) };
  }
}

/** Reads moments of the last milliseconds until there are enough of them, while `writer` runs 64 times over. */
async function readAmongWriters(writer: (i: number) => Promise<void>, lookup: () => Read["lookup"]): Promise<Read[]> {
  let isOver = false;
  const reads: Read[] = [];
  const writing = Array.from({ length: WRITERS }, async (_, i) => {
    while (!isOver) await writer(i);
  });
  const reading = Array.from({ length: READERS }, async (_, i) => {
    // The clocks are one: the database is on this machine.
    while (reads.length < READS) reads.push(await read(i, lookup(), BigInt(Date.now() * 1000 - random(BACK_MICROS))));
  });
  try {
    await Promise.all(reading);
  } finally {
    isOver = true;
    await Promise.all(writing);
  }
  return reads;
}

/** Those that are answered in another way now. */
async function changed(reads: readonly Read[]): Promise<{ at: bigint; was: unknown; is: unknown }[]> {
  const found: { at: bigint; was: unknown; is: unknown }[] = [];
  const left = [...reads];
  const checking = Array.from({ length: READERS }, async (_, i) => {
    for (let one = left.pop(); one !== undefined; one = left.pop()) {
      const { answer } = await read(i + 1, one.lookup, one.at);
      if (!equal(answer, one.answer)) found.push({ at: one.at, was: versionOf(one.answer), is: versionOf(answer) });
    }
  });
  await Promise.all(checking);
  return found;
}

const equal = (a: unknown, b: unknown) => {
  try {
    expect(a).toEqual(b);
    return true;
  } catch {
    return false;
  }
};
const versionOf = (answer: Entity | string) =>
  typeof answer === "string" ? answer : `${answer.id} ${answer.etag} of ${microsOf(answer.updatedAt as Timestamp)}`;

describe(`${READS} reads of moments that are hardly over`, () => {
  it("rule 115: of an entity to which 64 write: each is what the last write of then answered, and stays that", async () => {
    const entity = await newPerson(service.client, { externalId: unique("x") });
    const answers = new Map<bigint, Entity>([[microsOf(entity.updatedAt as Timestamp), entity]]);
    let count = 0;
    const write = async (i: number) => {
      const name = `Ana ${++count}`;
      const { entity: after } = await client(i).entities.updateEntity({ lookup: byId(entity), entity: { name } });
      answers.set(microsOf(after?.updatedAt as Timestamp), after as Entity);
    };
    const from = performance.now();
    const reads = await readAmongWriters(write, () => byId(entity));
    const times = [...answers.keys()].sort((a, b) => Number(a - b));
    expect(times.length).toBe(count + 1);
    for (const { at, answer } of reads) {
      const time = times.findLast((one) => one <= at);
      expect(answer).toEqual(time === undefined ? "NOT_FOUND" : answers.get(time));
    }
    expect(await changed(reads)).toEqual([]);
    // The moments were close to the writes: of most versions there is a read, and not all reads are of one.
    expect(new Set(reads.map(({ answer }) => versionOf(answer))).size).toBeGreaterThan(50);
    process.stdout.write(
      `${count} writes beside ${reads.length} reads in ${Math.round(performance.now() - from)} ms\n`,
    );
  }, 300_000);
});
