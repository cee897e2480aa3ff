// Requests that are legal and complete in one moment, and large or asking for much: each costs some milliseconds, and all of
// them must not cost them in one turn of the event loop.
import { type ClientHttp2Session, connect } from "node:http2";
import { setTimeout as sleep } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import { create, toBinary, toJsonString } from "@bufbuild/protobuf";
import {
  BatchGetEntitiesRequestSchema,
  CreateEntityRequestSchema,
  GetEntityRequestSchema,
  ListEntitiesRequestSchema,
  ListEntityEventsRequestSchema,
} from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { envelope } from "../frames.ts";
import type { Case } from "./attacker.ts";
import { DENSE, LARGE } from "./ground.ts";

interface AtOnce {
  method: string;
  type: "application/grpc" | "application/grpc-web+proto" | "application/json" | "application/proto";
  message: Buffer;
  isGzip?: boolean;
}

/** Sends all but the last byte of each request on a connection of its own, and then the last bytes. */
async function atOnce(
  one: Case,
  connections: number,
  { method, type, message, isGzip = false }: AtOnce,
): Promise<void> {
  const packed = isGzip ? gzipSync(message) : message;
  const isGrpc = type.startsWith("application/grpc");
  const body = isGrpc ? envelope(packed, isGzip ? 1 : 0) : packed;
  const sessions: ClientHttp2Session[] = [];
  const streams = Array.from({ length: connections }, () => {
    const session = connect(`http://127.0.0.1:${one.port}`);
    session.on("error", () => {});
    sessions.push(session);
    const stream = session.request({
      ":method": "POST",
      ":path": `/entity.v1.EntityService/${method}`,
      "content-type": type,
      te: "trailers",
      authorization: `Bearer ${one.party.keys.all}`,
      ...(isGzip && { [isGrpc ? "grpc-encoding" : "content-encoding"]: "gzip" }),
    });
    stream.on("error", () => {});
    stream.resume();
    stream.write(body.subarray(0, -1));
    return stream;
  });
  await sleep(2_000);
  for (const stream of streams) stream.end(body.subarray(-1));
  one.sent(connections);
  await sleep(4_000);
  for (const session of sessions) session.destroy();
}

const numbers = Array.from({ length: 45_000 }, (_, i) => i % 10);
/** Of more values than an entity may have: refused when all of it is decoded. */
const large = create(CreateEntityRequestSchema, { entity: { attributes: { numbers } } });
const largeBytes = Buffer.from(toBinary(CreateEntityRequestSchema, large));
const largeText = Buffer.from(toJsonString(CreateEntityRequestSchema, large));
const CREATE = "CreateEntity";

const batchOf = (lookups: number, name: (i: number) => string) =>
  create(BatchGetEntitiesRequestSchema, {
    lookups: Array.from({ length: lookups }, (_, i) => ({ by: { case: "externalId" as const, value: name(i) } })),
  });
/** As many as a batch answers, of 36,000 values each, and more that are refused for want of room. */
const batch = batchOf(100, (i) => `dense-${i % DENSE}`);
const batchBytes = Buffer.from(toBinary(BatchGetEntitiesRequestSchema, batch));
const batchText = Buffer.from(toJsonString(BatchGetEntitiesRequestSchema, batch));
const missing = batchOf(1_000, (i) => (i % 2 === 0 ? `none-${i}` : `big-${i % LARGE}`));
const missingBytes = Buffer.from(toBinary(BatchGetEntitiesRequestSchema, missing));
const BATCH = "BatchGetEntities";
const page = create(ListEntitiesRequestSchema, { pageSize: 1_000 });
const pageBytes = Buffer.from(toBinary(ListEntitiesRequestSchema, page));
const pageText = Buffer.from(toJsonString(ListEntitiesRequestSchema, page));
const history = create(ListEntityEventsRequestSchema, { pageSize: 1_000 });
const historyBytes = Buffer.from(toBinary(ListEntityEventsRequestSchema, history));

export const atOnceCases: Record<string, (one: Case) => Promise<void>> = {
  "large requests complete at once": (one) =>
    atOnce(one, 60, { method: CREATE, type: "application/grpc", message: largeBytes }),
  "large JSON complete at once": (one) =>
    atOnce(one, 60, { method: CREATE, type: "application/json", message: largeText }),
  "large compressed requests complete at once": (one) =>
    atOnce(one, 60, { method: CREATE, type: "application/grpc", message: largeBytes, isGzip: true }),
  "large answers at once": (one) => {
    const lookup = { by: { case: "externalId" as const, value: "big-0" } };
    const message = toBinary(GetEntityRequestSchema, create(GetEntityRequestSchema, { lookup }));
    return atOnce(one, 100, { method: "GetEntity", type: "application/grpc", message: Buffer.from(message) });
  },
  "large batches at once": (one) => atOnce(one, 12, { method: BATCH, type: "application/grpc", message: batchBytes }),
  "large batches at once on the Web": (one) =>
    atOnce(one, 12, { method: BATCH, type: "application/grpc-web+proto", message: batchBytes }),
  "large batches at once without gRPC": (one) =>
    atOnce(one, 12, { method: BATCH, type: "application/proto", message: batchBytes }),
  "large batches at once in JSON": (one) =>
    atOnce(one, 12, { method: BATCH, type: "application/json", message: batchText }),
  "large pages at once": (one) =>
    atOnce(one, 12, { method: "ListEntities", type: "application/grpc", message: pageBytes }),
  "large pages at once in JSON": (one) =>
    atOnce(one, 12, { method: "ListEntities", type: "application/json", message: pageText }),
  "large pages of events at once": (one) =>
    atOnce(one, 12, { method: "ListEntityEvents", type: "application/grpc", message: historyBytes }),
  "batches of what is not there": (one) =>
    atOnce(one, 12, { method: BATCH, type: "application/grpc", message: missingBytes }),
};
