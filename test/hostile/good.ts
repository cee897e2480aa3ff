// The good client: grpc-js as others use it, a few calls a second in a fixed rhythm, a watch that must get every change of
// its own. A process of its own; its calls go to the parent as they end.
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import grpc from "@grpc/grpc-js";
import { StatusSchema } from "../../clients/typescript/gen/google/rpc/status_pb.ts";
import {
  HealthCheckRequestSchema,
  HealthCheckResponse_ServingStatus,
  HealthCheckResponseSchema,
} from "../../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import {
  GetEntityRequestSchema,
  GetEntityResponseSchema,
  ListEntitiesRequestSchema,
  ListEntitiesResponseSchema,
  MergeEntitiesRequestSchema,
  MergeEntitiesResponseSchema,
  UnmergeEntitiesRequestSchema,
  UnmergeEntitiesResponseSchema,
  UpdateEntityRequestSchema,
  UpdateEntityResponseSchema,
  WatchEntitiesRequestSchema,
  type WatchEntitiesResponse,
  WatchEntitiesResponseSchema,
} from "../../clients/typescript/index.ts";
import { type Ground, SPARE } from "./ground.ts";

export interface GoodCall {
  what: string;
  /** When it was due. */
  at: number;
  /** From then until the answer, repetitions included. */
  ms: number;
  /** Times it was refused with a delay, and asked again. */
  retries: number;
  error?: string;
}

export interface GoodReport {
  calls: GoodCall[];
  /** Updates that were acknowledged and have not come to the watch within WATCH_LIMIT_MS; and what came twice. */
  missing: number;
  twice: number;
  watches: string[];
  /** The longest delay of this process itself. */
  lateMs: number;
}

const PER_SECOND = 50;
const WATCH_LIMIT_MS = 10_000;
const MAX_RETRIES = 8;
const DEADLINE_MS = 10_000;

if (process.send !== undefined) process.once("message", (ground) => void run(ground as Ground));

async function run({ port, good }: Ground): Promise<void> {
  const client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), {
    "grpc.enable_retries": 0,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 500,
  });
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${good.keys.all}`);
  let calls: GoodCall[] = [];
  let twice = 0;
  let watches: string[] = [];
  let lateMs = 0;

  const ask = (method: string, request: Uint8Array): Promise<Buffer> =>
    new Promise((resolve, reject) => {
      client.makeUnaryRequest(
        `/${method}`,
        (bytes: Buffer) => bytes,
        (bytes: Buffer) => bytes,
        Buffer.from(request),
        metadata,
        { deadline: Date.now() + DEADLINE_MS },
        (error, answer) => (error === null ? resolve(answer as Buffer) : reject(error)),
      );
    });
  /** The delay that the error asks for; undefined: it is not to be sent again. */
  const delayOf = (error: grpc.ServiceError): number | undefined => {
    const [details] = error.metadata?.get("grpc-status-details-bin") ?? [];
    if (error.code !== grpc.status.UNAVAILABLE || details === undefined) return undefined;
    const retry = fromBinary(StatusSchema, details as Buffer).details.find(({ typeUrl }) =>
      typeUrl.endsWith("RetryInfo"),
    );
    return retry === undefined ? undefined : 100;
  };
  const timed = async (what: string, request: () => Promise<Buffer>, check: (answer: Buffer) => string | undefined) => {
    const one: GoodCall = { what, at: Date.now(), ms: 0, retries: 0 };
    const began = performance.now();
    for (;;) {
      try {
        const problem = check(await request());
        if (problem !== undefined) one.error = problem;
      } catch (error) {
        const delay = delayOf(error as grpc.ServiceError);
        if (delay !== undefined && one.retries < MAX_RETRIES) {
          one.retries += 1;
          await new Promise((resolve) => setTimeout(resolve, delay));
          continue;
        }
        const { code, details } = error as grpc.ServiceError;
        // Without the parts that differ between messages.
        one.error =
          `${grpc.status[code] ?? code}: ${details.replace(/(?<=Deadline exceeded|Error:|error:).*/, "")}`.slice(
            0,
            120,
          );
      }
      break;
    }
    one.ms = performance.now() - began;
    calls.push(one);
  };

  // --- The watch ----------------------------------------------------------------------------------

  /** Acknowledged updates that have not come yet: since when, by entity and version. */
  const awaited = new Map<string, number>();
  const seen = new Set<string>();
  const missed = new Set<string>();
  let position = "";
  let watching = false;
  const watch = () => {
    const stream = client.makeServerStreamRequest(
      "/entity.v1.EntityService/WatchEntities",
      (bytes: Buffer) => bytes,
      (bytes: Buffer) => fromBinary(WatchEntitiesResponseSchema, bytes),
      Buffer.from(toBinary(WatchEntitiesRequestSchema, create(WatchEntitiesRequestSchema, { position }))),
      metadata,
    );
    stream.on("data", (message: WatchEntitiesResponse) => {
      position = message.position;
      watching = true;
      if (message.event === undefined) return;
      const { entityId, entityVersion, newValues } = message.event;
      const version = `${entityId} ${entityVersion}`;
      if (seen.has(version)) twice += 1;
      seen.add(version);
      const id = `${entityId} ${JSON.stringify(newValues?.attributes)}`;
      if (!awaited.delete(id)) early.add(id);
      missed.delete(id);
    });
    stream.on("error", (error: grpc.ServiceError) => {
      watches.push(`${grpc.status[error.code]}: ${error.details}`.slice(0, 120));
      setTimeout(watch, 200);
    });
    stream.on("end", () => {});
  };
  /** Events that came before the answer to their update. */
  const early = new Set<string>();
  watch();
  while (!watching) await new Promise((resolve) => setTimeout(resolve, 20));

  // --- The calls ----------------------------------------------------------------------------------

  let count = 0;
  const get = () => {
    const externalId = `small-${count % 20}`;
    const request = toBinary(
      GetEntityRequestSchema,
      create(GetEntityRequestSchema, { lookup: { by: { case: "externalId", value: externalId } } }),
    );
    return timed(
      "get",
      () => ask("entity.v1.EntityService/GetEntity", request),
      (answer) =>
        fromBinary(GetEntityResponseSchema, answer).entity?.externalId === externalId ? undefined : "another entity",
    );
  };
  const update = () => {
    const mine = count;
    const attributes = { n: mine };
    const request = toBinary(
      UpdateEntityRequestSchema,
      create(UpdateEntityRequestSchema, {
        lookup: { by: { case: "externalId", value: `small-${20 + (count % 20)}` } },
        entity: { attributes },
        requestId: crypto.randomUUID(),
      }),
    );
    return timed(
      "update",
      () => ask("entity.v1.EntityService/UpdateEntity", request),
      (answer) => {
        const { entity } = fromBinary(UpdateEntityResponseSchema, answer);
        if ((entity?.attributes as { n?: number } | undefined)?.n !== mine) return "the update is not in its answer";
        const id = `${entity?.id} ${JSON.stringify(attributes)}`;
        if (!early.delete(id)) awaited.set(id, Date.now());
        return undefined;
      },
    );
  };
  const list = () =>
    timed(
      "list",
      () =>
        ask(
          "entity.v1.EntityService/ListEntities",
          toBinary(ListEntitiesRequestSchema, create(ListEntitiesRequestSchema, { pageSize: 20 })),
        ),
      (answer) => (fromBinary(ListEntitiesResponseSchema, answer).entities.length === 20 ? undefined : "another page"),
    );
  /** Two are merged, and parted again, by one call at a time. */
  let mergeId = "";
  let isMerging = false;
  const [into, from] = [SPARE - 2, SPARE - 1].map((i) => ({
    by: { case: "externalId" as const, value: `spare-${i}` },
  }));
  const merge = async () => {
    if (isMerging) return get();
    isMerging = true;
    const common = { reason: "the same person", requestId: crypto.randomUUID() };
    const isParting = mergeId !== "";
    if (isParting) {
      const request = toBinary(
        UnmergeEntitiesRequestSchema,
        create(UnmergeEntitiesRequestSchema, { ...common, mergeId }),
      );
      await timed(
        "unmerge",
        () => ask("entity.v1.EntityService/UnmergeEntities", request),
        (answer) => {
          mergeId = "";
          const { entity, secondary } = fromBinary(UnmergeEntitiesResponseSchema, answer);
          const isParted = entity?.externalIds.length === 1 && secondary?.externalIds.length === 1;
          return isParted && secondary?.mergedInto === "" ? undefined : "they are not two";
        },
      );
    } else {
      const request = toBinary(
        MergeEntitiesRequestSchema,
        create(MergeEntitiesRequestSchema, { ...common, primary: into, secondary: from }),
      );
      await timed(
        "merge",
        () => ask("entity.v1.EntityService/MergeEntities", request),
        (answer) => {
          const { entity, secondary, mergeId: id } = fromBinary(MergeEntitiesResponseSchema, answer);
          mergeId = id;
          const isOne = entity?.externalIds.length === 2 && secondary?.mergedInto === entity.id;
          return isOne ? undefined : "they are not one";
        },
      );
    }
    isMerging = false;
  };
  const health = () =>
    timed(
      "health",
      () => ask("grpc.health.v1.Health/Check", toBinary(HealthCheckRequestSchema, create(HealthCheckRequestSchema))),
      (answer) =>
        fromBinary(HealthCheckResponseSchema, answer).status === HealthCheckResponse_ServingStatus.SERVING
          ? undefined
          : "NOT_SERVING",
    );
  const mix = [get, update, get, health, get, update, merge, list, get, health];
  const began = performance.now();
  setInterval(() => {
    const due = Math.floor(((performance.now() - began) / 1000) * PER_SECOND);
    lateMs = Math.max(lateMs, (due - count - 1) * (1000 / PER_SECOND));
    while (count < due) void (mix[count++ % mix.length] as () => Promise<void>)();
  }, 1000 / PER_SECOND);
  setInterval(() => {
    const now = Date.now();
    for (const [id, since] of awaited) {
      if (now - since < WATCH_LIMIT_MS) continue;
      awaited.delete(id);
      missed.add(id);
    }
    process.send?.({ calls, missing: missed.size, twice, watches, lateMs } satisfies GoodReport);
    calls = [];
    watches = [];
    lateMs = 0;
    twice = 0;
  }, 200);
  process.once("disconnect", () => process.exit(0));
}
