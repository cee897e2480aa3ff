// The entities of a run, and the stream that imports them.
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { connect } from "node:http2";
import { fileURLToPath } from "node:url";
import { create, fromBinary, fromJson, toBinary } from "@bufbuild/protobuf";
import {
  EntityService,
  type ImportEntitiesRequest,
  ImportEntitiesRequestSchema,
} from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { externalIdOf } from "./requests.ts";

const FILE = fileURLToPath(new URL("../../shared/data/ofac-entities.ndjson", import.meta.url));
const GENERATED = 8_000;
const SEED = 20_261_120;
const PREFIX_BYTES = 5;

export interface Rows {
  /** Where they are from. */
  source: string;
  /** Entity `index` and entity `index + distinct` differ in their external ids alone. */
  distinct: number;
  /** The row of an import. */
  at(index: number): ImportEntitiesRequest;
}

/** Real entities where the list of them is there, repeated under other external ids; else made ones of about their size. */
export function openRows(): Rows {
  const real = existsSync(FILE);
  const entities = real
    ? readFileSync(FILE, "utf8")
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line))
    : Array.from({ length: GENERATED }, (_, index) => madeEntity(index));
  const messages = entities.map((entity) => fromJson(ImportEntitiesRequestSchema, { entity }));
  return {
    source: real ? "ofac-entities.ndjson" : "generated",
    distinct: messages.length,
    at(index) {
      const { entity } = messages[index % messages.length] as ImportEntitiesRequest;
      if (entity === undefined) throw new Error("a row has no entity");
      return create(ImportEntitiesRequestSchema, { entity: { ...entity, externalId: externalIdOf(index) } });
    },
  };
}

const WORDS = [
  "NORTE",
  "DEL",
  "COMERCIAL",
  "TRADING",
  "HOLDING",
  "MARITIME",
  "GROUP",
  "DELTA",
  "ANDINA",
  "GENERAL",
  "SHIPPING",
];

function madeEntity(index: number) {
  const random = randomOf(SEED + index);
  const words = (count: number) =>
    Array.from({ length: count }, () => WORDS[Math.floor(random() * WORDS.length)]).join(" ");
  const address = {
    street: `${words(2)} ${Math.floor(random() * 999)}`,
    city: words(1),
    country: "PA",
    postal_code: "0801",
  };
  const common = {
    name: words(3),
    attributes: { program: ["SDGT"], remarks: words(Math.floor(random() * 30)) },
    ...(random() < 0.13 ? { tax_id: `30-${Math.floor(1e7 + random() * 8e7)}-0` } : {}),
  };
  if (random() < 0.44) {
    const company = { legal_name: common.name, trading_names: [words(2)], address };
    return { ...common, type: "ENTITY_TYPE_COMPANY", country_code: "PA", entity_data: { company } };
  }
  const person = { first_name: words(1), last_name: words(2), date_of_birth: "1970-01-31", address };
  return { ...common, type: "ENTITY_TYPE_PERSON", country_code: "ZZ", nationality: "PA", entity_data: { person } };
}

/** Mulberry32: the same numbers from 0 to 1 for the same seed. */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Imports `count` rows, those of `from` and onwards, in one call of ImportEntities. Answers rows per second; throws unless every one is created. */
export async function importRows(port: number, apiKey: string, rows: Rows, count: number, from = 0): Promise<number> {
  // Encoded before the clock starts: the work of the caller is not what is measured.
  const frames = Array.from({ length: count }, (_, index) => {
    const bytes = toBinary(ImportEntitiesRequestSchema, rows.at(from + index));
    const frame = Buffer.alloc(PREFIX_BYTES + bytes.length);
    frame.writeUInt32BE(bytes.length, 1);
    frame.set(bytes, PREFIX_BYTES);
    return frame;
  });
  const method = EntityService.method.importEntities;
  const session = connect(`http://127.0.0.1:${port}`);
  await once(session, "connect");
  const start = performance.now();
  const stream = session.request({
    ":method": "POST",
    ":path": `/${method.parent.typeName}/${method.name}`,
    "content-type": "application/grpc",
    te: "trailers",
    authorization: `Bearer ${apiKey}`,
  });
  const ended = Promise.withResolvers<string>();
  let buffered: Buffer = Buffer.alloc(0);
  let created = 0n;
  stream.on("data", (chunk: Buffer) => {
    buffered = Buffer.concat([buffered, chunk]);
    while (buffered.length >= PREFIX_BYTES && buffered.length >= PREFIX_BYTES + buffered.readUInt32BE(1)) {
      const end = PREFIX_BYTES + buffered.readUInt32BE(1);
      created = fromBinary(method.output, buffered.subarray(PREFIX_BYTES, end)).progress?.created ?? created;
      buffered = buffered.subarray(end);
    }
  });
  stream.on("trailers", (trailers) => ended.resolve(String(trailers["grpc-status"])));
  stream.on("response", (headers) => {
    if (headers["grpc-status"] !== undefined) ended.resolve(String(headers["grpc-status"]));
  });
  stream.on("error", ended.reject);
  for (const frame of frames) if (!stream.write(frame)) await Promise.race([once(stream, "drain"), ended.promise]);
  stream.end();
  const status = await ended.promise;
  const seconds = (performance.now() - start) / 1000;
  session.destroy();
  if (status !== "0" || created !== BigInt(count)) {
    throw new Error(`the import ended with grpc-status ${status} and ${created} of ${count} rows created`);
  }
  return count / seconds;
}
