// What many tests begin with and check: a person, the events of an entity, callers that start together.
import { randomUUID } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { ConnectError } from "@connectrpc/connect";
import {
  type Entity,
  type EntityClient,
  type EntityEvent,
  type EntitySchema,
  EntityType,
  ErrorInfoSchema,
} from "../clients/typescript/index.ts";

/** A value that no other test uses. */
export const unique = (prefix: string) => `${prefix}-${randomUUID()}`;

/** Creates a person; `reason` where the status needs one. */
export async function newPerson(
  client: EntityClient,
  fields: MessageInitShape<typeof EntitySchema> = {},
  reason = "",
): Promise<Entity> {
  const { entity } = await client.entities.createEntity({
    entity: { type: EntityType.PERSON, name: "Ana Souza", countryCode: "BR", ...fields },
    reason,
  });
  if (entity === undefined) throw new Error("no entity in the answer");
  return entity;
}

export const byId = (entity: { id: string }) => ({ by: { case: "entityId" as const, value: entity.id } });
export const byExternalId = (value: string) => ({ by: { case: "externalId" as const, value } });
export const byTaxId = (value: string) => ({ by: { case: "taxId" as const, value } });

/** All events of an entity, oldest first. */
export async function eventsOf(client: EntityClient, entity: { id: string }): Promise<EntityEvent[]> {
  const { events } = await client.entities.listEntityEvents({ lookup: byId(entity), pageSize: 1000 });
  return events.toReversed();
}

/** The newest event of an entity. */
export async function lastEventOf(client: EntityClient, entity: { id: string }): Promise<EntityEvent> {
  const [event] = (await client.entities.listEntityEvents({ lookup: byId(entity), pageSize: 1 })).events;
  if (event === undefined) throw new Error("the entity has no event");
  return event;
}

/** The entity as it is now. */
export async function current(client: EntityClient, entity: { id: string }): Promise<Entity> {
  const { entity: found } = await client.entities.getEntity({ lookup: byId(entity) });
  if (found === undefined) throw new Error("no entity in the answer");
  return found;
}

/** What a write answered as a read in the past answers it: without how the external ids are used, which no event tells. */
export const asThen = (entity: Entity): Entity => ({
  ...entity,
  externalIds: entity.externalIds.map(({ trackedSince: _, ...id }) => ({ ...id, lastResolvedOn: "" })),
});

/** How one of many calls ended: its answer, or the reason of its refusal. */
export type Ending<T> = { answer: T; reason?: undefined } | { answer?: undefined; reason: string };

/** Starts `count` calls at once and waits for all. */
export async function together<T>(count: number, call: (index: number) => Promise<T>): Promise<Ending<T>[]> {
  return Promise.all(
    Array.from({ length: count }, async (_, index): Promise<Ending<T>> => {
      try {
        return { answer: await call(index) };
      } catch (error) {
        if (!(error instanceof ConnectError)) throw error;
        return { reason: error.findDetails(ErrorInfoSchema)[0]?.reason ?? `no reason: ${error.message}` };
      }
    }),
  );
}

/** How often each ending happened; "OK" for an answer. */
export function tally(endings: readonly Ending<unknown>[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { reason } of endings) counts[reason ?? "OK"] = (counts[reason ?? "OK"] ?? 0) + 1;
  return counts;
}
