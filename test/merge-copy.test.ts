// Rules 93 to 95: a watcher keeps a copy whose external ids are unique, as a table with a unique index has them. It applies
// events in the order in which they come, through merges and their undoing, from any position, over two processes.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { JsonObject } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, beforeEach, expect, it } from "vitest";
import {
  Designation,
  type Entity,
  type EntityClient,
  type EntityEvent,
  EntityStatusSchema,
  EventType,
  EventTypeSchema,
  errorInfo,
} from "../clients/typescript/index.ts";
import { byExternalId, byId, newPerson, unique } from "./given.ts";
import { startService, type TestOrganization, type TestService } from "./harness.ts";
import { type Random, randomOf } from "./hostile/random.ts";
import { type OtherServer, startOther } from "./wall-harness.ts";
import { beginning, watching } from "./watchers.ts";

const SEED = process.env.TEST_SEED ?? String(Date.now() % 2 ** 31);
const ENTITIES = 12;
const CALLERS = 6;
const STEPS = 50;
const WATCHERS = 4;
const REASON = "the same person, seen by two systems";

let service: TestService;
let other: OtherServer;
let organization: TestOrganization;
beforeAll(async () => {
  process.stdout.write(`TEST_SEED=${SEED}\n`);
  service = await startService();
  other = await startOther(service);
});
// A second attempt finds nothing of the first.
beforeEach(async () => {
  organization = await service.newOrganization();
});
afterAll(async () => {
  await other[Symbol.asyncDispose]();
  await service[Symbol.asyncDispose]();
});

interface Values {
  externalIds: { externalId: string; type: string; primary: boolean }[];
  [field: string]: unknown;
}

/** What a copy has of an entity. */
interface Row {
  values: Values;
  /** The time of the last event that is in it. */
  at: bigint;
}

const microsOf = ({ seconds, nanos } = {} as Timestamp) => seconds * 1_000_000n + BigInt(nanos / 1000);
const nameOf = ({ type, entityId, entityVersion }: EntityEvent) =>
  `${EventTypeSchema.value[type]?.localName} of ${entityId}, version ${entityVersion},`;

/** The fields of the test in the words of events, without the times of external ids. */
function fromList({ externalId, name, taxId, status, attributes, externalIds }: Entity): Values {
  const word = EntityStatusSchema.value[status]?.localName.toLowerCase();
  return {
    ...{ externalId: externalId === "" ? undefined : externalId, name, taxId, status: word, attributes },
    externalIds: externalIds.map(({ externalId: id, type, designation }) => ({
      ...{ externalId: id, type, primary: designation === Designation.PRIMARY },
    })),
  };
}

const FIELDS = ["externalId", "name", "taxId", "status", "attributes", "mergedInto"];

/** The values after an event. */
function withEvent(before: Values, { updatedFields, newValues }: EntityEvent): Values {
  const values = { ...before };
  for (const name of updatedFields) {
    const value = newValues?.[name] ?? undefined;
    if (FIELDS.includes(name)) values[name] = value;
    if (name !== "externalIds") continue;
    values.externalIds = ((value ?? []) as JsonObject[]).map((one) => ({
      ...{ externalId: one.externalId as string, type: (one.type ?? "") as string },
      primary: one.designation === "primary",
    }));
  }
  return values;
}

/** A table of entities, and the unique index of their external ids. */
class Copy {
  readonly rows = new Map<string, Row>();
  readonly owners = new Map<string, string>();
  /** External ids that an event gave to one entity while a later row, of the list, has them. */
  later = 0;

  knows = ({ entityId, recordedAt }: EntityEvent) => (this.rows.get(entityId)?.at ?? -1n) >= microsOf(recordedAt);

  /** Throws where an external id is another entity's, unless that has a later event of the list already. */
  put(id: string, values: Values, at: bigint, what: string): void {
    for (const { externalId } of this.rows.get(id)?.values.externalIds ?? []) {
      if (this.owners.get(externalId) === id) this.owners.delete(externalId);
    }
    for (const { externalId } of values.externalIds) {
      const owner = this.owners.get(externalId);
      if (owner === undefined) this.owners.set(externalId, id);
      else if ((this.rows.get(owner)?.at ?? 0n) > at) this.later++;
      else throw new Error(`${what} takes ${externalId}, which is still ${owner}'s`);
    }
    this.rows.set(id, { values, at });
  }

  /** The entities that are not merged into another one. */
  listed(): unknown[] {
    return [...this.rows]
      .filter(([, { values }]) => values.mergedInto === undefined)
      .map(
        ([
          id,
          {
            values: { mergedInto: _, ...values },
          },
        ]) => ({ id, ...values }),
      )
      .sort((a, b) => (a.id < b.id ? -1 : 1));
  }
}

/** Applies what has not been applied; an entity that the list did not show, since it was merged then, is read as of the event. */
async function apply(copy: Copy, client: EntityClient, event: EntityEvent): Promise<void> {
  if (copy.knows(event)) return;
  const { entityId, entityVersion, recordedAt } = event;
  const before = copy.rows.get(entityId)?.values;
  if (before === undefined && entityVersion > 1n) {
    if (event.type !== EventType.UNMERGED) return;
    const { entity, redirectedFrom } = await client.entities.getEntity({
      ...{ lookup: byId({ id: entityId }), readTime: recordedAt },
    });
    expect([entity?.etag, redirectedFrom]).toEqual([event.id, ""]);
    copy.put(entityId, fromList(entity as Entity), microsOf(recordedAt), nameOf(event));
    return;
  }
  copy.put(entityId, withEvent(before ?? { externalIds: [] }, event), microsOf(recordedAt), nameOf(event));
}

/** A few at a time; with a pause between the pages, later ones show what the position of the first does not know. */
async function listAll(client: EntityClient, pauseMs = 0): Promise<{ entities: Entity[]; watchPosition: string }> {
  const entities: Entity[] = [];
  let [pageToken, watchPosition] = ["", ""];
  do {
    const page = await client.entities.listEntities({ pageSize: 3, pageToken, showDeleted: true });
    entities.push(...page.entities);
    ({ nextPageToken: pageToken, watchPosition } = page);
    if (pauseMs > 0) await sleep(pauseMs);
  } while (pageToken !== "");
  return { entities, watchPosition };
}

async function merge({ entities }: EntityClient, primary: Entity, secondary: Entity): Promise<string> {
  const request = { primary: byId(primary), secondary: byId(secondary), reason: REASON };
  return (await entities.mergeEntities(request)).mergeId;
}

/** Merges, undoes, edits, and takes external ids from one entity to another, until it has done its steps. */
async function change(caller: number, people: readonly Entity[], merges: Set<string>): Promise<Map<string, number>> {
  const random = randomOf(`${SEED} ${caller}`);
  const client = processes()[caller % 2] as EntityClient;
  const { entities } = client;
  const done = new Map<string, number>();
  const own: string[] = [];
  const steps: Record<string, () => Promise<unknown>> = {
    async merge() {
      const [primary, secondary] = [random.pick(people), random.pick(people)];
      const { entity } = await entities.getEntity({ lookup: byId(secondary) });
      merges.add(await merge(client, primary, entity as Entity));
    },
    async unmerge() {
      // Mostly the last one, which no later one is built upon.
      const last = random.chance(0.7) ? [...merges].at(-1) : undefined;
      const mergeId = last ?? random.pick([...merges, randomUUID()]);
      await entities.unmergeEntities({ mergeId, reason: "two after all" });
      merges.delete(mergeId);
    },
    update: () =>
      entities.updateEntity({
        lookup: byId(random.pick(people)),
        entity: { attributes: { [`k${random.int(0, 3)}`]: random.int(0, 9) } },
      }),
    async attach() {
      const externalId = unique(`c${caller}`);
      await entities.changeExternalId({
        ...{ lookup: byId(random.pick(people)), newExternalId: externalId, keepPreviousAsAlias: true, reason: REASON },
      });
      own.push(externalId);
    },
    // From whoever has it to another one.
    async move() {
      const externalId = own.shift();
      if (externalId === undefined) return;
      own.push(externalId);
      await entities.releaseExternalId({ lookup: byExternalId(externalId), externalId, reason: REASON, force: true });
      await entities.addExternalIds({ lookup: byId(random.pick(people)), externalIds: [{ externalId }] });
    },
  };
  const names = ["merge", "merge", "merge", "unmerge", "unmerge", "update", "attach", "move"];
  for (let step = 0; step < STEPS; step++) {
    const name = step < 3 ? "attach" : random.pick(names);
    try {
      await steps[name]?.();
      done.set(name, (done.get(name) ?? 0) + 1);
    } catch (error) {
      const reason = errorInfo(error)?.reason ?? "";
      // An id that was released, and whose move was refused, is nobody's; the primary is not released.
      if (!["MERGE_NOT_ALLOWED", "NOT_FOUND", "VALIDATION_ERROR", "WRITE_CONFLICT"].includes(reason)) throw error;
    }
  }
  return done;
}

/** Every process that serves the organization. */
const processes = () => [organization.client, other.client(organization.apiKey)];

/** Watches on from where it stopped, or from a while before, in streams of some length and of either process. */
async function follow(copy: Copy, from: string, random: Random, isDone: () => boolean): Promise<number> {
  const positions = [from];
  for (let streams = 1; ; streams++) {
    const client = random.pick(processes());
    const position = random.chance(0.6) ? (positions.at(-1) as string) : random.pick(positions.slice(-30));
    const length = random.int(1, 80);
    const isLast = isDone();
    await using watch = watching(client, { position });
    // Its first checkpoint says that all has come that was committed before the call.
    const isWhole = () => watch.messages.some(({ event }) => event === undefined);
    await watch.until(() => isWhole() || (!isLast && watch.events().length >= length), 20_000);
    for (const { event, position: behind } of watch.messages.slice()) {
      if (event !== undefined) await apply(copy, client, event);
      positions.push(behind);
    }
    if (isLast) return streams;
  }
}

/** What ListEntities answers once nothing changes, and the owner of each external id. */
async function expected() {
  const { entities } = await listAll(organization.client);
  return {
    listed: entities.map((entity) => ({ id: entity.id, ...fromList(entity) })),
    owners: new Map(
      entities.flatMap(({ id, externalIds }) => externalIds.map(({ externalId }) => [externalId, id] as const)),
    ),
  };
}

it(`rules 93, 94: unique external ids hold at every event, and the copy ends as ListEntities has it (TEST_SEED=${SEED})`, async () => {
  const start = await beginning(service, organization.client);
  const people: Entity[] = [];
  for (let i = 0; i < ENTITIES; i++)
    people.push(
      await newPerson(organization.client, { externalId: unique(`p${i}`), taxId: unique("T"), attributes: { i } }),
    );
  const merges = new Set<string>();
  let isDone = false;
  const changing = async () => {
    const done = await Promise.all(Array.from({ length: CALLERS }, (_, caller) => change(caller, people, merges)));
    // In one of a hundred runs all have been undone by then.
    const [primary, secondary] = people as [Entity, Entity];
    const isMerged = (await listAll(organization.client)).entities.length < ENTITIES;
    if (!isMerged) await merge(organization.client, primary, secondary);
    return done;
  };
  const ended = changing().finally(() => {
    isDone = true;
  });
  const copies = Array.from({ length: WATCHERS }, () => new Copy());
  const following = copies.map((copy, i) => follow(copy, start, randomOf(`${SEED} watch ${i}`), () => isDone));
  // Others begin later, with the list: some of what it shows is later than its position.
  const begun = Array.from({ length: WATCHERS }, async (_, i) => {
    const random = randomOf(`${SEED} list ${i}`);
    const copy = new Copy();
    while (merges.size < 3 + 2 * i && !isDone) await listAll(organization.client);
    const { entities, watchPosition } = await listAll(random.pick(processes()), 100);
    for (const entity of entities.toSorted((a, b) => Number(microsOf(b.updatedAt) - microsOf(a.updatedAt))))
      copy.put(entity.id, fromList(entity), microsOf(entity.updatedAt), "the list");
    const shown = copy.rows.size;
    const streams = await follow(copy, watchPosition, random, () => isDone);
    return { copy, shown, streams };
  });
  const done = (await ended).map((each) => Object.fromEntries(each));
  const streams = await Promise.all(following);
  const listing = await Promise.all(begun);

  const { listed, owners } = await expected();
  for (const copy of [...copies, ...listing.map(({ copy }) => copy)]) {
    expect(copy.listed()).toEqual(listed);
    expect(new Map([...copy.owners].sort())).toEqual(new Map([...owners].sort()));
  }
  for (const copy of copies) {
    expect(copy.later).toBe(0);
    expect(copy.rows.size).toBe(ENTITIES);
  }
  const sum = (name: string) => done.reduce((total, each) => total + (each[name] ?? 0), 0);
  const counts = Object.fromEntries(["merge", "unmerge", "update", "attach", "move"].map((name) => [name, sum(name)]));
  process.stdout.write(
    `${JSON.stringify(counts)}; streams ${streams}; lists of ${listing.map(({ shown }) => shown)} entities, ` +
      `${listing.map((one) => one.copy.later)} ids of theirs were later\n`,
  );
  for (const [name, count] of Object.entries(counts)) expect(count, name).toBeGreaterThan(10);
  expect(listed.length).toBeLessThan(ENTITIES);
  expect(Math.min(...streams)).toBeGreaterThan(3);
}, 120_000);
