// How long the largest messages of the worst shapes hold the event loop, and what they take: as the library alone decodes
// them, and as the service does, with its checks before. npm run bench:messages [-- maxValues]
import { type DescMessage, type DescMethod, fromBinary, fromJsonString } from "@bufbuild/protobuf";
import { RecordTransactionsRequestSchema } from "../clients/typescript/gen/entity/v1/activity_service_pb.ts";
import {
  BatchGetEntitiesRequestSchema,
  CreateEntityRequestSchema,
  GetEntityRequestSchema,
  ListEntitiesRequestSchema,
} from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { jsonDecoder } from "../src/transport/decode-json.ts";
import { messageIn } from "../src/transport/grpc-request.ts";
import { median } from "./report.ts";

const MIB = 1024 * 1024;
/** The first are slow: what they run is compiled meanwhile. */
const ROUNDS = 15;
const N = Number(process.argv[2] ?? 0);

const varint = (value: number): number[] => (value < 128 ? [value] : [(value & 127) | 128, ...varint(value >>> 7)]);
const field = (number: number, body: Buffer) =>
  Buffer.concat([Buffer.from([...varint(number * 8 + 2), ...varint(body.length)]), body]);
const times = (part: Buffer, bytes: number, units: number) => {
  const count = Math.min(Math.floor(bytes / part.length), N === 0 ? Number.POSITIVE_INFINITY : Math.ceil(N / units));
  return Buffer.alloc(count * part.length, part);
};
const hex = (text: string) => Buffer.from(text.replaceAll(" ", ""), "hex");
const inAttributes = (struct: Buffer) => field(1, field(15, struct));
const entries = (value: Buffer, bytes: number, units: number) => {
  const parts: Buffer[] = [];
  for (let size = 0, i = 0; size < bytes && (N === 0 || i * units < N); i++) {
    const part = field(1, Buffer.concat([field(1, Buffer.from(i.toString(36))), field(2, value)]));
    parts.push(part);
    size += part.length;
  }
  return Buffer.concat(parts);
};
const nested = (levels: number) => {
  let value = hex("0800");
  for (let i = 0; i < levels; i++) value = field(6, field(1, value));
  return value;
};

/** [what, request, bytes of the largest, message]. */
const BINARY: [string, DescMessage, number, (bytes: number) => Buffer][] = [
  ["empty transactions", RecordTransactionsRequestSchema, 4 * MIB, (n) => times(hex("0a00"), n, 1)],
  [
    "transactions with empty parties",
    RecordTransactionsRequestSchema,
    4 * MIB,
    (n) => times(hex("0a04 3200 3a00"), n, 3),
  ],
  ["transactions with empty details", RecordTransactionsRequestSchema, 4 * MIB, (n) => times(hex("0a02 5200"), n, 2)],
  ["empty lookups", BatchGetEntitiesRequestSchema, 4 * MIB, (n) => times(hex("0a00"), n, 1)],
  ["packed statuses", ListEntitiesRequestSchema, MIB, (n) => field(2, times(hex("63"), n, 1))],
  ["unpacked statuses", ListEntitiesRequestSchema, MIB, (n) => times(hex("1063"), n, 1)],
  ["empty country codes", ListEntitiesRequestSchema, MIB, (n) => times(hex("1a00"), n, 1)],
  ["empty mask paths", GetEntityRequestSchema, MIB, (n) => field(2, times(hex("0a00"), n, 1))],
  ["one lookup, again and again", GetEntityRequestSchema, MIB, (n) => times(hex("0a020a00"), n, 2)],
  ["unknown fields", GetEntityRequestSchema, MIB, (n) => times(hex("fa7f00"), n, 1)],
  [
    "an entity with 60,000 numbers",
    CreateEntityRequestSchema,
    MIB,
    () => {
      const numbers = entries(field(6, Buffer.alloc(30_000 * 11, hex("0a09 11 000000000000f03f"))), 1, 1);
      return field(1, Buffer.concat([field(15, numbers), field(16, numbers)]));
    },
  ],
  [
    "a list of nulls",
    CreateEntityRequestSchema,
    MIB,
    (n) => inAttributes(entries(field(6, times(hex("0a02 0800"), n, 2)), 1, 1)),
  ],
  [
    "a list of empty lists",
    CreateEntityRequestSchema,
    MIB,
    (n) => inAttributes(entries(field(6, times(hex("0a02 3200"), n, 2)), 1, 1)),
  ],
  [
    "a list of empty objects",
    CreateEntityRequestSchema,
    MIB,
    (n) => inAttributes(entries(field(6, times(hex("0a02 2a00"), n, 2)), 1, 1)),
  ],
  ["a map of very many keys", CreateEntityRequestSchema, MIB, (n) => inAttributes(entries(hex("0800"), n, 4))],
  ["lists, 40 levels deep", CreateEntityRequestSchema, MIB, (n) => inAttributes(entries(nested(40), n, 84))],
  [
    "details of nulls",
    RecordTransactionsRequestSchema,
    4 * MIB,
    (n) => field(1, field(10, entries(field(6, times(hex("0a02 0800"), n, 2)), 1, 1))),
  ],
];

const list = (item: string, bytes: number) =>
  `[${Array(Math.min(Math.floor(bytes / (item.length + 1)), N === 0 ? Number.POSITIVE_INFINITY : N))
    .fill(item)
    .join()}]`;
const keys = (bytes: number, step = 1) => {
  const count = Math.min(Math.floor(bytes / 12), N === 0 ? Number.POSITIVE_INFINITY : N);
  return `{${Array.from({ length: count }, (_, i) => `"${step === 1 ? "k" : ""}${i * step}":1`).join()}}`;
};
const JSONS: [string, DescMessage, number, (bytes: number) => string][] = [
  ["empty transactions", RecordTransactionsRequestSchema, 4 * MIB, (n) => `{"transactions":${list("{}", n)}}`],
  ["empty lookups", BatchGetEntitiesRequestSchema, 4 * MIB, (n) => `{"lookups":${list("{}", n)}}`],
  ["statuses", ListEntitiesRequestSchema, MIB, (n) => `{"statuses":${list("1", n)}}`],
  ["country codes", ListEntitiesRequestSchema, MIB, (n) => `{"countryCodes":${list('""', n)}}`],
  ["mask paths", GetEntityRequestSchema, MIB, (n) => `{"readMask":"${"a,".repeat(n / 2)}a"}`],
  ["one path of very many parts", GetEntityRequestSchema, MIB, (n) => `{"readMask":"${"aB".repeat(n / 2)}"}`],
  ["a list of nulls", CreateEntityRequestSchema, MIB, (n) => `{"entity":{"attributes":{"a":${list("null", n)}}}}`],
  ["a list of numbers", CreateEntityRequestSchema, MIB, (n) => `{"entity":{"attributes":{"a":${list("1", n)}}}}`],
  ["45,000 numbers", CreateEntityRequestSchema, MIB, () => `{"entity":{"attributes":{"a":${list("1", 90_000)}}}}`],
  [
    "a list of empty objects",
    CreateEntityRequestSchema,
    MIB,
    (n) => `{"entity":{"attributes":{"a":${list("{}", n)}}}}`,
  ],
  ["a map of very many keys", CreateEntityRequestSchema, MIB, (n) => `{"entity":{"attributes":${keys(n)}}}`],
  ["keys that are numbers", CreateEntityRequestSchema, MIB, (n) => `{"entity":{"attributes":${keys(n, 65536)}}}`],
  [
    "lists within lists",
    CreateEntityRequestSchema,
    MIB,
    (n) =>
      `{"entity":{"attributes":{"a":${"[".repeat(Math.min(N || n, n) / 2)}${"]".repeat(Math.min(N || n, n) / 2)}}}}`,
  ],
  ["a page size of very many digits", ListEntitiesRequestSchema, MIB, (n) => `{"pageSize":${"9".repeat(n)}}`],
  [
    "a page size of very many digits, as text",
    ListEntitiesRequestSchema,
    MIB,
    (n) => `{"pageSize":"${"9".repeat(n)}"}`,
  ],
  ["a time of very many digits", CreateEntityRequestSchema, MIB, (n) => `{"occurredAt":"${"9".repeat(n)}"}`],
  [
    "details of nulls",
    RecordTransactionsRequestSchema,
    4 * MIB,
    (n) => `{"transactions":[{"details":{"a":${list("null", n)}}}]}`,
  ],
  ["unknown fields", GetEntityRequestSchema, MIB, (n) => keys(n)],
  [
    "a key like the library's error",
    GetEntityRequestSchema,
    MIB,
    (n) => JSON.stringify({ ['duplicate object key "'.repeat(n / 24)]: 1 }),
  ],
  ["escaped text", CreateEntityRequestSchema, MIB, (n) => `{"entity":{"name":"${"\\u0041".repeat(n / 6)}"}}`],
];

function outcomeOf(decode: () => unknown): string {
  try {
    decode();
    return "decoded";
  } catch (error) {
    return error instanceof Error ? error.message.slice(0, 60) : String(error);
  }
}

/** Each way in turn, round by round: the median time. Memory is measured before, once. */
function measure(what: string, bytes: number, ways: Record<string, () => unknown>): void {
  const all = Object.entries(ways).map(([way, decode]) => {
    globalThis.gc?.();
    const before = process.memoryUsage();
    const ending = outcomeOf(decode);
    const after = process.memoryUsage();
    const mb = (after.heapUsed + after.external - before.heapUsed - before.external) / 1e6;
    return { way, decode, ending, mb, times: [] as number[] };
  });
  for (let round = 0; round < ROUNDS; round++) {
    for (const { decode, times } of all) {
      const began = performance.now();
      outcomeOf(decode);
      times.push(performance.now() - began);
    }
  }
  for (const { way, ending, mb, times } of all) {
    process.stdout.write(
      `${what.padEnd(48)} ${String(bytes).padStart(8)} B  ${way.padEnd(7)} ${median(times).toFixed(1).padStart(8)} ms ${mb.toFixed(0).padStart(5)} MB  ${ending}\n`,
    );
  }
}

const enveloped = (bytes: Buffer) => {
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([prefix, bytes]);
};

for (const [what, desc, max, make] of BINARY) {
  const bytes = make(max - 64);
  const body = enveloped(bytes);
  measure(`binary: ${what}`, bytes.length, {
    library: () => fromBinary(desc, bytes, { readUnknownFields: false }),
    served: () => messageIn(body, { input: desc, methodKind: "unary" } as DescMethod),
  });
}
for (const [what, desc, max, make] of JSONS) {
  const text = make(max - 64);
  const bytes = Buffer.from(text);
  const decode = jsonDecoder(desc, {});
  measure(`JSON: ${what}`, bytes.length, {
    library: () => fromJsonString(desc, text, { ignoreUnknownFields: false }),
    served: () => decode(bytes),
  });
}
