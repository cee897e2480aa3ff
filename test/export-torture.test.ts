// Exports beside writers, merges and deletions: each is the state at its position, which the events tell by themselves, and
// a watch from there makes it the state of the end. TORTURE_SECONDS=60 is a long run.
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, it } from "vitest";
import {
  type Entity,
  type EntityClient,
  EntityStatus,
  EntityStatusSchema,
  EntityType,
} from "../clients/typescript/index.ts";
import { decodePosition } from "../src/log/position.ts";
import { sees } from "../src/log/snapshot.ts";
import { byId, newPerson } from "./given.ts";
import { startService, type TestService } from "./harness.ts";
import { watching } from "./watchers.ts";

const SECONDS = Number(process.env.TORTURE_SECONDS ?? 6);
const ENTITIES = 1_800;
const WRITERS = 12;
const EXPORTERS = 4;
const REASON = { reason: "because of a test" };
const { ACTIVE, BLOCKED } = EntityStatus;

let service: TestService;
let client: EntityClient;
const ids: string[] = [];
beforeAll(async () => {
  service = await startService();
  ({ client } = service);
  const rows = async function* () {
    for (let i = 0; i < ENTITIES; i++)
      yield {
        entity: { externalId: `x-${i}`, type: EntityType.PERSON, name: `n ${i}`, countryCode: "AR", status: ACTIVE },
      };
  };
  for await (const { results } of client.entities.importEntities(rows()))
    ids.push(...results.map(({ entityId }) => entityId));
}, 60_000);
afterAll(() => service[Symbol.asyncDispose]());

const below = (max: number) => Math.floor(Math.random() * max);
const any = () => byId({ id: ids[below(ids.length)] ?? "" });

async function writeUntil(isOver: () => boolean, merges: string[]): Promise<void> {
  const { entities } = client;
  const writes: (() => Promise<unknown>)[] = [
    () => entities.updateEntity({ lookup: any(), entity: { name: `n ${below(1e9)}` } }),
    () => entities.updateEntity({ lookup: any(), entity: { status: BLOCKED }, ...REASON }),
    () => entities.updateEntity({ lookup: any(), entity: { status: ACTIVE }, ...REASON }),
    () => entities.deleteEntity({ lookup: any(), ...REASON }),
    () => entities.undeleteEntity({ lookup: any(), ...REASON }),
    () => entities.addExternalIds({ lookup: any(), externalIds: [{ externalId: `alias-${below(1e9)}` }] }),
    async () => void ids.push((await newPerson(client, { name: "made" })).id),
    async () => {
      const { mergeId } = await entities.mergeEntities({ primary: any(), secondary: any(), ...REASON });
      merges.push(mergeId);
    },
    async () => {
      const mergeId = merges.splice(below(merges.length), 1)[0];
      if (mergeId !== undefined) await entities.unmergeEntities({ mergeId, ...REASON });
    },
  ];
  // What is deleted, merged or held is refused.
  while (!isOver()) await writes[below(writes.length)]?.().catch(() => {});
}

interface Export {
  query: { statuses: EntityStatus[]; showDeleted: boolean };
  position: string;
  entities: Entity[];
}

/** Reads an export slowly, and over several streams. */
async function exportSlowly(query: Export["query"]): Promise<Export & { streams: number }> {
  const entities: Entity[] = [];
  let [position, after, done, streams] = ["", "", 0, 0];
  while (done !== 1) {
    streams++;
    for await (const message of client.entities.exportEntities({ ...query, position, after })) {
      expect(position === "" || position === message.position).toBe(true);
      ({ position, after, done } = message);
      entities.push(...message.entities);
      await sleep(below(150));
      if (Math.random() < 0.25) break;
    }
  }
  return { query, position, entities, streams };
}

interface State {
  etag: string;
  values: Record<string, unknown>;
}

/** What the events that the position has make of the entities, forward from their creation. */
async function folded(position: string): Promise<Map<string, State>> {
  const { from } = decodePosition(service.organization.id, position);
  const events = await service.sql(
    "select entity_id, id, xid::text, new_values from entity_event order by entity_id, entity_version",
  );
  const states = new Map<string, State>();
  for (const { entity_id, id, xid, new_values } of events) {
    if (!sees(from, BigInt(xid))) continue;
    states.set(entity_id, { etag: id, values: { ...states.get(entity_id)?.values, ...new_values } });
  }
  return states;
}

/** As events have it. */
const nameOf = (status: EntityStatus) => EntityStatusSchema.value[status]?.localName.toLowerCase();

const shown = ({ id, etag, name, status, externalIds, deletedAt }: Entity) => ({
  ...{ id, etag, name, status: nameOf(status) },
  ...{ externalIds: externalIds.map(({ externalId }) => externalId), deleted: deletedAt !== undefined },
});

const expectedOf = (states: ReadonlyMap<string, State>, { statuses, showDeleted }: Export["query"]) =>
  [...states]
    .map(([id, { etag, values }]) => ({ id, etag, values, deleted: values.deletedAt != null }))
    .filter(({ values, deleted }) => values.mergedInto == null && (showDeleted || !deleted))
    .filter(({ values }) => statuses.length === 0 || statuses.some((one) => nameOf(one) === values.status))
    .map(({ id, etag, values, deleted }) => ({
      ...{ id, etag, name: values.name, status: values.status, deleted },
      externalIds: ((values.externalIds ?? []) as { externalId: string }[]).map(({ externalId }) => externalId),
    }))
    .sort((a, b) => (a.id < b.id ? -1 : 1));

it(`rule 153: ${WRITERS} writers and ${EXPORTERS} slow readers: every export is the state at its position, and a watch completes it`, async () => {
  const end = performance.now() + SECONDS * 1_000;
  const merges: string[] = [];
  const exports: (Export & { streams: number })[] = [];
  const queries = [
    { statuses: [], showDeleted: true },
    { statuses: [], showDeleted: false },
    { statuses: [BLOCKED], showDeleted: false },
  ];
  // On a machine on which one takes as long as all may: until there are some that began beside writes.
  const isOver = () => performance.now() > end && exports.length > EXPORTERS;
  const exporter = async () => {
    for (let i = below(3); !isOver(); i++) exports.push(await exportSlowly(queries[i % 3] as Export["query"]));
  };
  await Promise.all([
    ...Array.from({ length: WRITERS }, () => writeUntil(isOver, merges)),
    ...Array.from({ length: EXPORTERS }, exporter),
  ]);
  const [{ count }] = (await service.sql("select count(*)::int as count from entity_event")) as [{ count: number }];
  process.stdout.write(
    `${exports.length} exports over ${exports.reduce((sum, { streams }) => sum + streams, 0)} streams beside ${count - ENTITIES} events\n`,
  );
  expect(exports.length).toBeGreaterThan(EXPORTERS);
  expect(count - ENTITIES).toBeGreaterThan(50 * SECONDS);

  const states = new Map<string, Map<string, State>>();
  for (const { position, query, entities } of exports) {
    const at = states.get(position) ?? (await folded(position));
    states.set(position, at);
    expect(entities.map(shown)).toEqual(expectedOf(at, query));
  }

  const last = await exportSlowly({ statuses: [], showDeleted: true });
  for (const { position, entities } of exports.filter(({ query }) => query.showDeleted).slice(0, 5)) {
    const copy = new Map(entities.map(({ id, etag }) => [id, etag]));
    await using watch = watching(client, { position });
    await watch.started();
    for (const { entityId, id, newValues = {} } of watch.events()) {
      // docs/merging.md: who is merged leaves the copy, who is parted comes back.
      if (newValues.mergedInto != null) copy.delete(entityId);
      else copy.set(entityId, id);
    }
    expect([...copy].sort()).toEqual(last.entities.map(({ id, etag }) => [id, etag]).sort());
  }
}, 300_000);
