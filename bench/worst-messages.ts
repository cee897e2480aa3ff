// How long the largest messages of the worst shapes hold the event loop, and what they take: decoding alone, and the
// check of how many values they hold before it. Run: node --expose-gc bench/worst-messages.ts [maxValues]
import { type DescMessage, fromBinary, fromJsonString } from "@bufbuild/protobuf";
import { RecordTransactionsRequestSchema } from "../clients/typescript/gen/entity/v1/activity_service_pb.ts";
import {
  BatchGetEntitiesRequestSchema,
  CreateEntityRequestSchema,
  GetEntityRequestSchema,
  ListEntitiesRequestSchema,
} from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";

const MIB = 1024 * 1024;
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
  ["escaped text", CreateEntityRequestSchema, MIB, (n) => `{"entity":{"name":"${"\\u0041".repeat(n / 6)}"}}`],
];

function measure(what: string, bytes: number, decode: () => unknown): void {
  globalThis.gc?.();
  const before = process.memoryUsage();
  const began = performance.now();
  let outcome: unknown;
  try {
    outcome = decode();
  } catch (error) {
    outcome = error;
  }
  const ms = performance.now() - began;
  const after = process.memoryUsage();
  const mb = (after.heapUsed + after.external - before.heapUsed - before.external) / 1e6;
  const ending = outcome instanceof Error ? outcome.message.slice(0, 60) : "decoded";
  process.stdout.write(
    `${what.padEnd(48)} ${String(bytes).padStart(8)} B ${ms.toFixed(1).padStart(8)} ms ${mb.toFixed(0).padStart(5)} MB  ${ending}\n`,
  );
}

for (const [what, desc, max, make] of BINARY) {
  const bytes = make(max - 64);
  for (let i = 0; i < 2; i++) fromBinary(desc, make(4096), { readUnknownFields: false });
  measure(`binary: ${what}`, bytes.length, () => fromBinary(desc, bytes, { readUnknownFields: false }));
}
for (const [what, desc, max, make] of JSONS) {
  const text = make(max - 64);
  measure(`JSON: ${what}`, text.length, () => fromJsonString(desc, text, { ignoreUnknownFields: false }));
}
