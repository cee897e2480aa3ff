// Rules 115 and 119 among writers: whatever is answered for a moment stays the answer, however close to it the moment was
// asked for. Two services on one database, 64 writers, rounds of reads; when the writers have stopped, every moment of the
// round is read again. READS=10000 is the full run (npm run test:as-it-was); the ordinary run reads less.
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createEntityClient, type Entity, type EntityClient, errorInfo } from "../clients/typescript/index.ts";
import { byExternalId, byId, newPerson, unique } from "./given.ts";
import { startService, type TestService } from "./harness.ts";
import { type OtherServer, startOther } from "./wall-harness.ts";

const READS = Number(process.env.READS ?? 500);
/** Few enough that the writes of a round, which the second reading takes back, are few too. */
const READS_OF_ROUND = 250;
const WRITERS = 64;
const READERS = 16;
/** How far before the clock a moment is, at most: most are within the time that a write takes. */
const BACK_MICROS = 20_000;
const FULL_RUN_MS = 600_000;

let service: TestService;
let other: OtherServer;
/** Of both services. */
let clients: EntityClient[];
beforeAll(async () => {
  const config = { poolSize: 20, lockTimeoutMs: 20_000, statementTimeoutMs: 20_000, defaultTimeoutMs: 60_000 };
  service = await startService({ config });
  other = await startOther(service, { config });
  clients = Array.from({ length: 8 }, (_, i) =>
    createEntityClient({
      retries: false,
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
const madeAt = ({ updatedAt }: Entity) => microsOf(updatedAt as Timestamp);
const random = (below: number) => Math.floor(Math.random() * below);

type Lookup = ReturnType<typeof byId> | ReturnType<typeof byExternalId>;

/** What was answered for a moment: the entity, or the reason of a refusal. */
interface Read {
  lookup: Lookup;
  at: bigint;
  answer: Entity | string;
}

async function read(which: number, lookup: Lookup, at: bigint): Promise<Read> {
  try {
    const { entity } = await client(which).entities.getEntity({ lookup, readTime: timeOf(at) });
    return { lookup, at, answer: entity as Entity };
  } catch (error) {
    return { lookup, at, answer: errorInfo(error)?.reason ?? String(error) };
  }
}

/** Reads moments of the last milliseconds while 64 write; and again what is answered otherwise when they have stopped. */
async function round(write: (writer: number) => Promise<void>, lookup: () => Lookup): Promise<Read[]> {
  let isOver = false;
  const reads: Read[] = [];
  const writing = Array.from({ length: WRITERS }, async (_, i) => {
    while (!isOver) await write(i);
  });
  const reading = Array.from({ length: READERS }, async (_, i) => {
    while (reads.length < READS_OF_ROUND) {
      // The clocks are one: the database is on this machine.
      reads.push(await read(i, lookup(), BigInt(Date.now() * 1000 - random(BACK_MICROS))));
    }
  });
  try {
    await Promise.all(reading);
  } finally {
    isOver = true;
    await Promise.all(writing);
  }
  const left = [...reads];
  const checking = Array.from({ length: READERS }, async (_, i) => {
    for (let one = left.pop(); one !== undefined; one = left.pop()) {
      // By the other service.
      expect(await read(i + 1, one.lookup, one.at)).toEqual(one);
    }
  });
  await Promise.all(checking);
  return reads;
}

/** Rounds until there are enough reads, and enough of every kind: how many a round has depends on the machine. */
async function rounds(one: () => Promise<Read[]>, isEnough: (reads: Read[]) => boolean): Promise<Read[]> {
  const reads: Read[] = [];
  while (reads.length < READS || !isEnough(reads)) reads.push(...(await one()));
  return reads;
}

describe(`${READS} reads of moments that are hardly over`, () => {
  it(
    "rule 115: of an entity to which 64 write: each is what the last write of then answered, and stays that",
    async () => {
      let count = 0;
      const versions = new Set<string>();
      const hasVersions = () => versions.size > READS / 10;
      const reads = await rounds(async () => {
        const entity = await newPerson(service.client, { externalId: unique("x") });
        const answers = [entity];
        const write = async (i: number) => {
          const name = `Ana ${++count}`;
          const { entity: after } = await client(i).entities.updateEntity({ lookup: byId(entity), entity: { name } });
          answers.push(after as Entity);
        };
        const found = await round(write, () => byId(entity));
        answers.sort((a, b) => Number(madeAt(a) - madeAt(b)));
        for (const { at, answer } of found) {
          expect(answer).toEqual(answers.findLast((one) => madeAt(one) <= at) ?? "NOT_FOUND");
          if (typeof answer !== "string") versions.add(answer.etag);
        }
        return found;
      }, hasVersions);
      process.stdout.write(`${reads.length} reads of ${versions.size} versions, beside ${count} writes\n`);
    },
    FULL_RUN_MS,
  );

  it(
    "rule 119: of external ids that 64 take and free: whoever had one then, or nobody, stays who had it",
    async () => {
      const outcomes = new Map<string, number>();
      const nobodyIn = (all: Read[]) => all.filter(({ answer }) => answer === "NOT_FOUND").length;
      const foundIn = (all: Read[]) => all.filter(({ answer }) => typeof answer !== "string").length;
      const hasBoth = (all: Read[]) => Math.min(foundIn(all), nobodyIn(all)) > READS / 20;
      const reads = await rounds(async () => {
        const ids = Array.from({ length: 6 }, () => unique("id"));
        const owners = await Promise.all(
          Array.from({ length: 12 }, () => newPerson(service.client, { externalId: unique("own") })),
        );
        const anyId = () => ids[random(ids.length)] as string;
        const write = async (i: number) => {
          const { id } = owners[random(owners.length)] as Entity;
          // Another one frees the id.
          const newExternalId = random(2) === 0 ? anyId() : unique("own");
          const call = client(i).entities.changeExternalId({
            lookup: byId({ id }),
            newExternalId,
            reason: "migration",
          });
          const outcome = await call.then(() => "OK").catch((error) => errorInfo(error)?.reason ?? String(error));
          outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
        };
        return round(write, () => byExternalId(anyId()));
      }, hasBoth);
      const [found, nobody] = [foundIn(reads), nobodyIn(reads)];
      const told = JSON.stringify(Object.fromEntries(outcomes));
      process.stdout.write(`${found} reads of an entity, ${nobody} of nobody, beside writes ${told}\n`);
      expect(found + nobody).toBe(reads.length);
    },
    FULL_RUN_MS,
  );
});
