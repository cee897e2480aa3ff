// Watchers that survive everything: each remembers its position, and continues from it on any process, whatever ended
// its stream. If the position has expired it lists again, as the README says.
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { type EntityEvent, EntityType, EventType, errorInfo } from "../../clients/typescript/index.ts";
import { microseconds, type World } from "./callers.ts";
import type { Organization } from "./organization.ts";
import type { Service } from "./service.ts";

export interface SentEvent {
  id: string;
  entityId: string;
  version: number;
  requestId: string;
}

export interface Filter {
  name: string;
  types?: EventType[];
  entityTypes?: EntityType[];
  entityId?: string;
  /** Reads slowly, every few seconds, while faults happen. */
  isSlow?: boolean;
}

export interface Watcher {
  organization: Organization;
  filter: Filter;
  /** What came in each stream. */
  streams: SentEvent[][];
  /** What each list showed: up to which time of each entity, and when it was read. The first list is that of the start. */
  lists: { shown: Map<string, bigint>; at: bigint }[];
  /** No longer slow. */
  hurry(): void;
  /** Times at which it was told to list again. */
  told: number[];
  stop(): Promise<void>;
}

/** A stream may end with these. */
const ENDS = new Set(["DATABASE_UNAVAILABLE", "WATCH_TOO_SLOW", "POSITION_EXPIRED", "OVERLOADED", "DEADLINE_EXCEEDED"]);
const SLACK_MS = 1_000;
/** The deadline of each call but the watch. */
const LIST_MS = 8_000;
/** Slower than events come: waiting messages fill its buffers. */
const SLOW_EVENTS = 10;
const SLOW_MS = 4_000;

export const FILTERS: readonly Filter[] = [
  { name: "all" },
  { name: "all, on the other process" },
  { name: "created and deleted", types: [EventType.CREATED, EventType.DELETED] },
  {
    name: "merged and parted",
    types: [EventType.MERGED, EventType.MERGE_RECEIVED, EventType.UNMERGED, EventType.MERGE_RETURNED],
  },
  { name: "companies", entityTypes: [EntityType.COMPANY] },
  { name: "all, read slowly", isSlow: true },
];

export function startWatcher(world: World, organization: Organization, filter: Filter, number: number): Watcher {
  const { services, checks, random } = world;
  const abort = new AbortController();
  const clients = new Map(services.map((service) => [service, organization.client(service.baseUrl)]));
  const hurry = new AbortController();
  const watcher: Watcher = {
    ...{ organization, filter, streams: [], lists: [], told: [], stop },
    hurry: () => hurry.abort(),
  };
  let position = "";

  /** Lists all, remembers the version of each entity, and the position behind the list. */
  async function list(service: Service): Promise<void> {
    const shown = new Map<string, bigint>();
    const { entities } = clients.get(service) as ReturnType<Organization["client"]>;
    let [pageToken, watchPosition] = ["", ""];
    do {
      const page = await entities.listEntities({ pageSize: 500, pageToken, showDeleted: true });
      for (const { id, updatedAt } of page.entities) shown.set(id, microseconds(updatedAt));
      ({ nextPageToken: pageToken, watchPosition } = page);
    } while (pageToken !== "");
    watcher.lists.push({ shown, at: BigInt(Date.now()) * 1_000n });
    position = watchPosition;
  }

  async function watch(service: Service): Promise<void> {
    const { entities } = clients.get(service) as ReturnType<Organization["client"]>;
    const stream: SentEvent[] = [];
    let taken = 0;
    watcher.streams.push(stream);
    const request = {
      position,
      types: filter.types ?? [],
      entityTypes: filter.entityTypes ?? [],
      ...(filter.entityId === undefined
        ? {}
        : { lookup: { by: { case: "entityId" as const, value: filter.entityId } } }),
    };
    for await (const message of entities.watchEntities(request, { signal: abort.signal })) {
      ({ position } = message);
      if (message.event !== undefined) stream.push(sent(message.event));
      if (filter.isSlow && !hurry.signal.aborted && ++taken % SLOW_EVENTS === 0) {
        await sleep(SLOW_MS, undefined, { signal: hurry.signal }).catch(() => {});
      }
    }
  }

  async function run(): Promise<void> {
    for (let turn = number; !abort.signal.aborted; turn++) {
      const service = services[turn % services.length] as Service;
      const began = performance.now();
      try {
        checks.typed.count();
        if (position === "") await list(service);
        await watch(service);
      } catch (error) {
        if (abort.signal.aborted) return;
        ended(error, service, began);
      }
      await sleep(50 + 200 * random());
    }
  }

  function ended(error: unknown, service: Service, began: number): void {
    const now = performance.now();
    const info = errorInfo(error);
    const name = `a watch (${filter.name}) on ${service.name}, during ${world.fault()}`;
    if (info === undefined) {
      const { code, rawMessage } = ConnectError.from(error);
      // A slow reader gets no reason behind what it has not read: after a while the service resets such a stream.
      if (filter.isSlow && /ENHANCE_YOUR_CALM/.test(rawMessage)) return;
      // It notices a closed connection long afterwards, once it has read what had come.
      const since = filter.isSlow ? began : now - SLACK_MS;
      const isDown = service.down.some(({ from, to }) => from <= now + SLACK_MS && to >= since);
      // The client's own clock, for the list: a watch has no deadline.
      if (now - began >= LIST_MS && code === Code.DeadlineExceeded) return;
      if (!isDown) checks.typed.fail(`${name} ended untyped: ${Code[code]} ${rawMessage}`);
      return;
    }
    if (!ENDS.has(info.reason))
      checks.typed.fail(`${name} ended with ${info.reason} ${JSON.stringify(info.metadata)}`, () =>
        service.logOf(info.metadata.request_id),
      );
    if (info.reason !== "POSITION_EXPIRED") return;
    watcher.told.push(now);
    position = "";
  }

  const running = run();
  async function stop(): Promise<void> {
    abort.abort();
    await running;
  }
  return watcher;
}

const sent = ({ id, entityId, entityVersion, requestId }: EntityEvent): SentEvent => ({
  ...{ id, entityId, requestId },
  version: Number(entityVersion),
});
