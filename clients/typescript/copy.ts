// A copy of the entities, made once and kept: an export of one moment, then the watch from there.
import { ConnectError } from "@connectrpc/connect";
import type { ServiceClient } from "./calls.ts";
import { isReason } from "./errors.ts";
import type { EntityEvent } from "./gen/entity/v1/entity_event_pb.ts";
import type { Entity, EntityType } from "./gen/entity/v1/entity_pb.ts";
import type {
  EntityService,
  ExportEntitiesResponse,
  WatchEntitiesResponse,
} from "./gen/entity/v1/entity_service_pb.ts";
import { lookup } from "./lookup.ts";
import { withoutAnswer } from "./lost.ts";
import { comeAgain, passes, watch } from "./watch.ts";

/** What happened to an entity. */
export interface EntityChange {
  event: EntityEvent;
  /**
   * The entity as it is by now, deleted or not, which may be later than the event. Undefined where it is no longer one of its
   * own: it was merged into another entity, whose change comes too.
   */
  entity: Entity | undefined;
}

/** Where a copy is kept. Neither function is called before the other has ended. */
export interface CopyStore {
  /** The position that was stored last; undefined or empty where there is no copy yet. */
  load(): Promise<string | undefined>;
  /**
   * Replaces the whole copy by the entities that come, some at a time, deleted ones too, and stores the position: in one
   * transaction, if it can. Called for the first copy, and when the position has expired.
   */
  replace(entities: AsyncIterable<Entity[]>, position: string): Promise<void>;
  /** Writes or removes what has changed, in this order, and stores the position: in one transaction, if it can. */
  apply(changes: EntityChange[], position: string): Promise<void>;
}

export interface CopyOptions {
  store: CopyStore;
  /** Only entities of this type. */
  type?: EntityType;
  /** Ends it. */
  signal?: AbortSignal;
  /** Told why it begins anew, or goes on: for logs and metrics. */
  onReconnect?: (error: ConnectError) => void;
}

type Entities = ServiceClient<typeof EntityService>;

/** Changes that are applied at once, at most. */
const BATCH = 200;

export async function keepCopy(entities: Entities, copyOptions: CopyOptions): Promise<void> {
  const over = new AbortController();
  const signals = [over.signal, ...(copyOptions.signal === undefined ? [] : [copyOptions.signal])];
  try {
    await keepUntil(AbortSignal.any(signals), entities, copyOptions);
  } finally {
    // Where the store has thrown, its export or its watch would go on.
    over.abort();
  }
}

async function keepUntil(signal: AbortSignal, entities: Entities, copyOptions: CopyOptions): Promise<void> {
  const { store, type, onReconnect } = copyOptions;
  const options = { signal };
  let position = (await store.load()) ?? "";
  /** How often it has begun anew since anything was applied. */
  let renewals = 0;
  while (!signal.aborted) {
    try {
      position ||= await replaceAll();
      const filters = { position, ...(type && { entityTypes: [type] }), ...(onReconnect && { onReconnect }) };
      for await (const messages of batches(watch(entities, { ...filters, ...options }), BATCH)) {
        position = messages.at(-1)?.position ?? position;
        await store.apply(await changesOf(messages), position);
        renewals = 0;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (!isReason(error, "POSITION_EXPIRED")) throw error;
      onReconnect?.(error as ConnectError);
      position = "";
      // The first time at once; but copies that expire as soon as they are made are not made as fast as the service can.
      if (renewals > 0) await comeAgain(error, renewals, signal);
      renewals++;
    }
  }

  /** Returns the position of the new copy. */
  async function replaceAll(): Promise<string> {
    const messages = exported();
    const { value: start } = await messages.next();
    let isWhole = false;
    async function* pages() {
      for await (const { entities: some } of messages) if (some.length > 0) yield some;
      isWhole = true;
    }
    await store.replace(pages(), start?.position ?? "");
    if (!isWhole) throw new Error("the store has not read all entities of the copy");
    return start?.position ?? "";
  }

  /** An export, which goes on from its last message when it is cut off. */
  async function* exported(): AsyncGenerator<ExportEntitiesResponse, undefined> {
    const request = { position: "", after: "", showDeleted: true, ...(type && { type }) };
    for (let [done, failures] = [0, 0]; done < 1; ) {
      try {
        for await (const message of entities.exportEntities(request, options)) {
          failures = 0;
          if (request.position === "" || message.entities.length > 0) yield message;
          [request.position, request.after, done] = [message.position, message.after, message.done];
        }
      } catch (error) {
        await unlessFinal(error, failures++);
      }
    }
    return undefined;
  }

  async function changesOf(messages: WatchEntitiesResponse[]): Promise<EntityChange[]> {
    const events = messages.flatMap(({ event }) => event ?? []);
    const found = await read([...new Set(events.map(({ entityId }) => entityId))]);
    return events.map((event) => ({ event, entity: found.get(event.entityId) }));
  }

  async function read(ids: string[]): Promise<Map<string, Entity>> {
    const found = new Map<string, Entity>();
    let rest = ids;
    for (let failures = 0; rest.length > 0; ) {
      const lookups = rest.map(lookup.id);
      try {
        const { results } = await entities.batchGetEntities({ lookups }, options);
        const asked = rest;
        rest = [];
        for (const [index, { result, redirectedFrom }] of results.entries()) {
          const id = asked[index] as string;
          if (result.case === "entity" && redirectedFrom === "") found.set(id, result.value);
          // It had no room in this answer.
          else if (result.case === "error" && isReason(result.value, "MESSAGE_TOO_LARGE")) rest.push(id);
        }
      } catch (error) {
        await unlessFinal(error, failures++);
      }
    }
    return found;
  }

  /** Waits for what passes: a copy is kept however long the service is away. */
  async function unlessFinal(thrown: unknown, failures: number): Promise<void> {
    const error = withoutAnswer(thrown);
    if (signal.aborted || !(error instanceof ConnectError && passes(error))) throw error;
    onReconnect?.(error);
    await comeAgain(error, failures, signal);
  }
}

/** What has arrived, together: while one batch is worked on, the next one gathers. */
async function* batches<T>(source: AsyncIterable<T>, size: number): AsyncGenerator<T[]> {
  const items = source[Symbol.asyncIterator]();
  // It may fail while a batch is worked on and nobody waits for it, or after nobody wants it any more.
  const ask = () => {
    const asked = items.next();
    asked.catch(() => {});
    return asked;
  };
  let next = ask();
  try {
    for (;;) {
      const first = await next;
      if (first.done) return;
      const batch = [first.value];
      next = ask();
      while (batch.length < size) {
        const more = await Promise.race([
          next,
          new Promise<undefined>((resolve) => setTimeout(() => resolve(undefined), 0)),
        ]);
        if (more === undefined || more.done) break;
        batch.push(more.value);
        next = ask();
      }
      yield batch;
    }
  } finally {
    // How it ends is of no matter any more.
    items.return?.().catch(() => {});
  }
}
