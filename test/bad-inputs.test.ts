// What an attacker or a careless program sends. The numbers are those of the list of bad inputs in the
// reliability research, 1 to 66 (from 67 on: wire.test.ts); reasons are the contract's. After each input
// every table is as it was, unless the case says that it stores, and the service answers.
import { createHash, randomUUID } from "node:crypto";
import {
  create,
  type DescField,
  type DescMessage,
  type DescMethod,
  fromBinary,
  type Message,
  toBinary,
} from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import pg from "pg";
import { pino } from "pino";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  EntityService,
  type GetEntityResponse,
  type ImportEntitiesResponse,
  type ListEntitiesResponse,
  type UpdateEntityResponse,
} from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { OrganizationService } from "../clients/typescript/gen/entity/v1/organization_service_pb.ts";
import type { Status } from "../clients/typescript/gen/google/rpc/status_pb.ts";
import {
  BadRequestSchema,
  Designation,
  type Entity,
  EntityStatus,
  EntityType,
  ErrorInfoSchema,
  WebhookEndpointState,
} from "../clients/typescript/index.ts";
import { captureHeaders, refusal, startService, type TestService } from "./harness.ts";
import { SERVICES } from "./services.ts";
import {
  type Answer,
  bytesOf,
  dump,
  everythingIn,
  messagesOf,
  openWire,
  type Payload,
  refusalIn,
  rowCounts,
  startOther,
  type Wire,
} from "./wall-harness.ts";

const METHODS = new Map(
  SERVICES.flatMap((service) => service.methods).map((method) => [method.name, method as DescMethod]),
);

let service: TestService;
let wire: Wire;
/** Another organization, with entities of the same names. */
let scratch: Wire;
const lines: string[] = [];
let main: Entity;
let other: Entity;
let mergeId: string;
let endpointId: string;
let riskMatrixId: string;
const riskMatrix = { displayName: "x", rules: [{ id: "one", displayName: "x", expression: "true", points: "1" }] };

const at = { seconds: 1_700_000_000n, nanos: 0 };
const person = (more: object = {}) => ({ type: EntityType.PERSON, name: "Ana", countryCode: "AR", ...more });
const byId = (value: string) => ({ by: { case: "entityId", value } });
const byExternal = (value: string) => ({ by: { case: "externalId", value } });
const byTax = (value: string) => ({ by: { case: "taxId", value } });
const reason = { reason: "because we must" };

beforeAll(async () => {
  const log = pino({ level: "trace" }, { write: (line: string) => void lines.push(line) });
  service = await startService({ log });
  wire = openWire(service.baseUrl, service.organization.apiKey);
  const { entities } = service.client;
  const make = async (more: object) => (await entities.createEntity({ entity: person(more) })).entity as Entity;
  main = await make({
    externalId: "e-1",
    taxId: "20-12345678-9",
    status: EntityStatus.ACTIVE,
    attributes: { kept: 1 },
  });
  other = await make({ externalId: "e-2" });
  await make({ externalId: "twin-1", taxId: "30-77777777-7" });
  await make({ externalId: "twin-2", taxId: "30.77777777.7" });
  const gone = await make({ externalId: "gone" });
  await entities.deleteEntity({ lookup: byId(gone.id) as never, ...reason });
  const [into, from] = [await make({}), await make({})];
  const merged = { primary: byId(into.id) as never, secondary: byId(from.id) as never, ...reason };
  ({ mergeId } = await entities.mergeEntities(merged));
  const { endpoint } = await service.client.webhooks.createWebhookEndpoint({
    endpoint: { url: "https://example.com/", displayName: "x", state: WebhookEndpointState.DISABLED },
  });
  endpointId = endpoint?.id ?? "";
  riskMatrixId = (await service.client.riskMatrices.createRiskMatrix({ matrix: riskMatrix })).matrix?.id ?? "";
  const neighbour = await service.newOrganization();
  scratch = openWire(service.baseUrl, neighbour.apiKey);
  for (const externalId of ["e-1", "e-2", "gone"])
    await neighbour.client.entities.createEntity({ entity: person({ externalId }) });
});
afterAll(async () => {
  await wire[Symbol.asyncDispose]();
  await scratch[Symbol.asyncDispose]();
  await service[Symbol.asyncDispose]();
});

let stores = false;
let before: Record<string, number>;
beforeEach(async () => {
  stores = false;
  before = await rowCounts(service.sql);
});
afterEach(async () => {
  const after = await rowCounts(service.sql);
  if (!stores) expect(after, "something was stored").toEqual(before);
  const { entity } = await service.client.entities.getEntity({ lookup: byExternal("e-1") as never });
  expect(entity?.id).toBe(main.id);
  expect(Object.keys(Object.prototype)).toEqual([]);
});

// --- Calls ----------------------------------------------------------------------------------------

interface Outcome {
  /** Undefined: OK. */
  reason: string | undefined;
  code?: number;
  message?: string;
  metadata?: Record<string, string>;
  fields: string[];
  answer: Answer;
}

/** One gRPC call; a row of an import that is refused counts as the refusal. */
async function call(rpc: string, payload: Payload, over: Wire = wire): Promise<Outcome> {
  const method = METHODS.get(rpc) as DescMethod;
  // A watch that is accepted ends by its deadline alone.
  const isWatch = rpc === "WatchEntities";
  const answer = await over.call(method, payload, isWatch ? { "grpc-timeout": "150m" } : {});
  const refused = refusalIn(answer);
  if (isWatch && refused?.reason === "DEADLINE_EXCEEDED") return { reason: undefined, fields: [], answer };
  if (refused !== undefined) return { ...refused, answer };
  if (rpc === "ImportEntities") {
    const [response] = messagesOf<ImportEntitiesResponse>(method, answer);
    const status = response?.results[0]?.error;
    if (status !== undefined) return { ...fromStatus(status), answer };
  }
  return { reason: undefined, fields: [], answer };
}

function fromStatus(status: Status) {
  const info = status.details.map((detail) => anyUnpack(detail, ErrorInfoSchema)).find(Boolean);
  const fields = status.details.flatMap(
    (detail) => anyUnpack(detail, BadRequestSchema)?.fieldViolations.map((v) => v.field) ?? [],
  );
  return { reason: info?.reason, code: status.code, message: status.message, metadata: info?.metadata ?? {}, fields };
}

/** One Connect call with this JSON text. */
async function json(
  rpc: string,
  body: string | Uint8Array,
): Promise<{ status: number; reason: string | undefined; fields: string[]; text: string }> {
  const method = METHODS.get(rpc) as DescMethod;
  const response = await fetch(`${service.baseUrl}/${method.parent.typeName}/${method.name}`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${service.organization.apiKey}` },
    body: body as never,
  });
  const text = await response.text();
  const details = ((JSON.parse(text) as { details?: { type: string; value: string }[] }).details ?? []).map((d) => ({
    type: d.type,
    bytes: Buffer.from(d.value, "base64"),
  }));
  const info = details.find((d) => d.type === "google.rpc.ErrorInfo");
  const bad = details.find((d) => d.type === "google.rpc.BadRequest");
  return {
    status: response.status,
    text,
    reason: info && fromBinary(ErrorInfoSchema, info.bytes).reason,
    fields: bad ? fromBinary(BadRequestSchema, bad.bytes).fieldViolations.map((v) => v.field) : [],
  };
}

/** Without a lookup these are about the organization. */
const OPTIONAL_LOOKUP = new Set([
  ...[
    "ListEntityEvents",
    "WatchEntities",
    "ListMerges",
    "SuggestDuplicates",
    "VerifyAuditTrail",
    "ListWebhookDeliveries",
  ],
]);

/** A valid request of each RPC. */
const BASE: Record<string, () => Record<string, unknown>> = {
  CreateEntity: () => ({ entity: person() }),
  GetEntity: () => ({ lookup: byExternal("e-1") }),
  BatchGetEntities: () => ({ lookups: [byExternal("e-1")] }),
  ListEntities: () => ({}),
  UpdateEntity: () => ({ lookup: byExternal("e-1"), entity: {} }),
  BatchUpdateEntities: () => ({ requests: [{ lookup: byExternal("e-1"), entity: {} }] }),
  ChangeExternalId: () => ({ lookup: byExternal("e-1"), newExternalId: "e-1", ...reason }),
  AssignExternalId: () => ({ lookup: byExternal("e-1"), externalId: "e-1" }),
  AddExternalIds: () => ({ lookup: byExternal("e-1"), externalIds: [{ externalId: "e-1" }] }),
  ReleaseExternalId: () => ({ lookup: byExternal("gone"), externalId: "gone", validateOnly: true, ...reason }),
  ListExternalIdHistory: () => ({ lookup: byExternal("e-1") }),
  SuggestDuplicates: () => ({ lookup: byExternal("e-1") }),
  RecheckTaxIds: () => ({}),
  DeleteEntity: () => ({ lookup: byExternal("gone"), ...reason }),
  UndeleteEntity: () => ({ lookup: byExternal("e-1"), ...reason }),
  MergeEntities: () => ({
    primary: byExternal("e-1"),
    secondary: byExternal("e-2"),
    validateOnly: true,
    ...reason,
  }),
  UnmergeEntities: () => ({ mergeId, validateOnly: true, ...reason }),
  ListMerges: () => ({}),
  MarkDistinct: () => ({ first: byExternal("e-1"), second: byExternal("e-2"), validateOnly: true, ...reason }),
  LiftDistinct: () => ({ first: byExternal("e-1"), second: byExternal("e-2"), ...reason }),
  ListDistinct: () => ({ lookup: byExternal("e-1") }),
  AnalyzeEntity: () => ({ lookup: byExternal("e-1"), riskMatrixId, validateOnly: true }),
  ListEvaluations: () => ({ lookup: byExternal("e-1") }),
  ListEntityEvents: () => ({}),
  WatchEntities: () => ({}),
  ExportEntities: () => ({}),
  ListAuditCheckpoints: () => ({}),
  VerifyAuditTrail: () => ({ lookup: byExternal("e-1") }),
  ImportEntities: () => ({ entity: person({ externalId: "e-2" }) }),
  RecordTransactions: () => ({
    transactions: [{ type: "t", amount: "1", currency: "ARS", transactedAt: at }],
    validateOnly: true,
  }),
  ListTransactions: () => ({ lookup: byExternal("e-1") }),
  RecordUserEvents: () => ({
    userEvents: [{ entityExternalId: "e-1", eventType: "t", occurredAt: at }],
    validateOnly: true,
  }),
  ListUserEvents: () => ({ lookup: byExternal("e-1") }),
  CreateOrganization: () => ({ organization: { displayName: "x" }, validateOnly: true }),
  GetOrganization: () => ({}),
  ListOrganizations: () => ({}),
  UpdateOrganization: () => ({ organization: {} }),
  CreateApiKey: () => ({ displayName: "x", scopes: ["admin"], validateOnly: true }),
  ListApiKeys: () => ({}),
  ListAdministrationEvents: () => ({}),
  RevokeApiKey: () => ({ apiKeyId: service.organization.apiKeyId, validateOnly: true }),
  CreateWebhookEndpoint: () => ({ endpoint: { url: "https://example.com/", displayName: "x" }, validateOnly: true }),
  CreateRiskMatrix: () => ({ matrix: riskMatrix, validateOnly: true }),
  GetRiskMatrix: () => ({ riskMatrixId }),
  ListRiskMatrices: () => ({}),
  UpdateRiskMatrix: () => ({ riskMatrixId, matrix: riskMatrix, validateOnly: true }),
  DeleteRiskMatrix: () => ({ riskMatrixId, validateOnly: true }),
  GetWebhookEndpoint: () => ({ endpointId }),
  ListWebhookEndpoints: () => ({}),
  UpdateWebhookEndpoint: () => ({ endpointId, endpoint: {} }),
  DeleteWebhookEndpoint: () => ({ endpointId, validateOnly: true }),
  RotateWebhookSecret: () => ({ endpointId, validateOnly: true }),
  ListWebhookDeliveries: () => ({}),
  ReplayWebhookDeliveries: () => ({ endpointId, from: at, to: { ...at, nanos: 1000 }, validateOnly: true }),
};

test("every RPC has a valid request here, which stores nothing", async () => {
  expect(Object.keys(BASE).sort()).toEqual([...METHODS.keys()].sort());
  for (const [rpc, base] of Object.entries(BASE)) {
    if (rpc === "CreateEntity") continue;
    expect((await call(rpc, base())).reason, rpc).toBeUndefined();
  }
});

// --- Bytes by hand --------------------------------------------------------------------------------

const varint = (value: number): Buffer => {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  do {
    bytes.push(Number(rest & 0x7fn) | (rest > 0x7fn ? 0x80 : 0));
    rest >>= 7n;
  } while (rest > 0n);
  return Buffer.from(bytes);
};
const tag = (number: number, type: number) => varint(number * 8 + type);
const bytes = (number: number, value: Uint8Array | string) => {
  const data = typeof value === "string" ? Buffer.from(value) : value;
  return Buffer.concat([tag(number, 2), varint(data.length), data]);
};
const integer = (number: number, value: number) => Buffer.concat([tag(number, 0), varint(value)]);
const double = (number: number, value: number) => {
  const data = Buffer.alloc(8);
  data.writeDoubleLE(value);
  return Buffer.concat([tag(number, 1), data]);
};
const structOf = (...entries: [key: string | Uint8Array, value: Uint8Array][]) =>
  Buffer.concat(entries.map(([key, value]) => bytes(1, Buffer.concat([bytes(1, key), bytes(2, value)]))));
const NULL = integer(1, 0);
const numberValue = (value: number) => double(2, value);
const stringValue = (value: string | Uint8Array) => bytes(3, value);
const nested = (levels: number): Buffer =>
  levels === 0 ? stringValue("x") : bytes(5, structOf(["k", nested(levels - 1)]));
const INVALID_UTF8 = Buffer.from([0x41, 0xc3, 0x28, 0xff]);
const CESU_SURROGATE = Buffer.from([0xed, 0xa0, 0x80]);

/** A field of a request that holds a value, at any depth. */
interface Leaf {
  path: string;
  kind: "string" | "struct" | "timestamp" | "mask" | "enum";
  field: DescField;
  /** The bytes of a request in which only this field is set. */
  request(value: Uint8Array): Buffer;
}

function* leavesOf(desc: DescMessage, path = "", wrap: (inner: Uint8Array) => Buffer = Buffer.from): Generator<Leaf> {
  for (const field of desc.fields) {
    const at = `${path === "" ? "" : `${path}.`}${field.name}${field.fieldKind === "list" ? "[0]" : ""}`;
    const length = (value: Uint8Array) => wrap(bytes(field.number, value));
    const name = field.message?.typeName;
    if (field.enum !== undefined)
      yield { path: at, kind: "enum", field, request: (value) => wrap(Buffer.concat([tag(field.number, 0), value])) };
    else if (field.scalar === 9) yield { path: at, kind: "string", field, request: length };
    else if (name === "google.protobuf.Struct") yield { path: at, kind: "struct", field, request: length };
    else if (name === "google.protobuf.Timestamp") yield { path: at, kind: "timestamp", field, request: length };
    else if (name === "google.protobuf.FieldMask")
      yield { path: `${at}.paths[0]`, kind: "mask", field, request: (value) => length(bytes(1, value)) };
    else if (field.message !== undefined) yield* leavesOf(field.message, at, length);
  }
}

const leaves = (rpc: string, ...kinds: Leaf["kind"][]) =>
  [...leavesOf((METHODS.get(rpc) as DescMethod).input)].filter((leaf) => kinds.includes(leaf.kind));
const everyRpc = (...kinds: Leaf["kind"][]) => [...METHODS.keys()].filter((rpc) => leaves(rpc, ...kinds).length > 0);

/** Every field of these kinds refuses each of the values, and the error names the field. */
async function everyPlaceRefuses(
  rpc: string,
  kinds: Leaf["kind"][],
  values: Record<string, Uint8Array>,
  where = true,
): Promise<void> {
  const wrong: string[] = [];
  for (const leaf of leaves(rpc, ...kinds)) {
    for (const [what, value] of Object.entries(values)) {
      const { reason, fields, message } = await call(rpc, leaf.request(value));
      const found = reason === "VALIDATION_ERROR" && (!where || fields.some((field) => field.startsWith(leaf.path)));
      if (!found) wrong.push(`${leaf.path}, ${what}: ${reason} ${fields} ${message}`);
    }
  }
  expect(wrong).toEqual([]);
}

describe("in every field of every request", () => {
  test.each(everyRpc("string", "mask"))("19, 23: %s: NUL, control characters, noncharacters", async (rpc) => {
    await everyPlaceRefuses(rpc, ["string", "mask"], {
      NUL: Buffer.from("a\0b"),
      C0: Buffer.from("a\x1bb"),
      DEL: Buffer.from("a\x7fb"),
      C1: Buffer.from("a\u0085b"),
      "U+FFFE": Buffer.from("a\ufffeb"),
      "U+FDD0": Buffer.from("a\ufdd0b"),
      "U+1FFFF": Buffer.from("a\u{1ffff}b"),
    });
  });

  test.each(everyRpc("string", "mask"))("20: %s: bytes that are no UTF-8, a surrogate among them", async (rpc) => {
    await everyPlaceRefuses(rpc, ["string", "mask"], { broken: INVALID_UTF8, surrogate: CESU_SURROGATE }, false);
  });

  test.each(everyRpc("string", "mask"))("9, 28: %s: longer than any limit", async (rpc) => {
    await everyPlaceRefuses(rpc, ["string", "mask"], {
      "4097 letters": Buffer.from("x".repeat(4097)),
      "64 KiB of combining marks": Buffer.from("\u0301".repeat(32_768)),
    });
  });

  test.each(everyRpc("struct"))("19, 20, 23, 34, 36, 38: %s: what a Struct must not hold", async (rpc) => {
    const deep = (value: Uint8Array) => structOf(["list", bytes(6, bytes(1, bytes(5, structOf(["k", value]))))]);
    await everyPlaceRefuses(rpc, ["struct"], {
      "NUL in a value": structOf(["k", stringValue("a\0b")]),
      "NUL in a key": structOf(["a\0b", NULL]),
      "NUL deep inside": deep(stringValue("a\0b")),
      "a noncharacter": structOf(["k", stringValue("\ufffe")]),
      NaN: structOf(["k", numberValue(Number.NaN)]),
      Infinity: structOf(["k", numberValue(Number.POSITIVE_INFINITY)]),
      "-Infinity deep inside": deep(numberValue(Number.NEGATIVE_INFINITY)),
      "2^53": structOf(["k", numberValue(2 ** 53)]),
      "1e300": structOf(["k", numberValue(1e300)]),
      "an empty key": structOf(["", NULL]),
      "a key with a dot": structOf(["a.b", NULL]),
      'a key with "': structOf(['a"b', NULL]),
      "a key of 129": structOf(["k".repeat(129), NULL]),
      "a string of 4097": structOf(["k", stringValue("x".repeat(4097))]),
    });
    await everyPlaceRefuses(
      rpc,
      ["struct"],
      { "broken key": structOf([INVALID_UTF8, NULL]), "broken value": structOf(["k", stringValue(INVALID_UTF8)]) },
      false,
    );
  });

  test.each(everyRpc("struct"))("31, 32: %s: a Struct too deep, too wide, too large", async (rpc) => {
    await everyPlaceRefuses(rpc, ["struct"], {
      "33 levels": structOf(["k", nested(32)]),
      "201 keys": structOf(...Array.from({ length: 201 }, (_, i): [string, Buffer] => [`k${i}`, NULL])),
      "201 keys inside": structOf([
        "k",
        bytes(5, structOf(...Array.from({ length: 201 }, (_, i): [string, Buffer] => [`k${i}`, NULL]))),
      ]),
      "64 KiB": structOf(
        ...Array.from({ length: 17 }, (_, i): [string, Buffer] => [`k${i}`, stringValue("x".repeat(4090))]),
      ),
    });
  });

  test.each(everyRpc("struct"))("30: %s: nested past the decoder's own limit", async (rpc) => {
    await everyPlaceRefuses(
      rpc,
      ["struct"],
      { "200 levels": structOf(["k", nested(200)]), "2000 levels": structOf(["k", nested(2000)]) },
      false,
    );
  });

  test.each(everyRpc("enum"))("43: %s: a number that is no value of the enum", async (rpc) => {
    await everyPlaceRefuses(rpc, ["enum"], { 99: varint(99), "-1": varint(-1), "2^31-1": varint(2 ** 31 - 1) });
  });

  test.each(everyRpc("timestamp"))("45: %s: times that are none", async (rpc) => {
    const time = (seconds: number, nanos: number) => Buffer.concat([integer(1, seconds), integer(2, nanos)]);
    await everyPlaceRefuses(rpc, ["timestamp"], {
      "nanos 1000000000": time(1, 1_000_000_000),
      "nanos -1": time(1, -1),
      "year 10000": time(253_402_300_800, 0),
      "year 0": time(-62_135_596_801, 0),
      "2^53": time(2 ** 53, 0),
    });
  });

  test.each(everyRpc("string", "mask"))(
    "18: %s: what is refused is not repeated, wherever it stood (rule 75)",
    async (rpc) => {
      // Longest first: most of the bytes are still understood.
      const base =
        rpc === "CreateEntity" ? { entity: { type: EntityType.PERSON, countryCode: "AR" } } : (BASE[rpc]?.() ?? {});
      const from = lines.length;
      let refused = 0;
      // An accepted request changes something, so it goes to an organization that no test reads.
      const isOperators = (METHODS.get(rpc) as DescMethod).parent.typeName === OrganizationService.typeName;
      const over = isOperators ? wire : scratch;
      for (const leaf of leaves(rpc, "string", "mask")) {
        for (const value of [
          "Zoraida Quintanilla 27-31415926-5",
          "Zoraida\0Quintanilla",
          "Zoraida Quintanilla ".repeat(300),
          "Zoraida\u202eQuintanilla",
        ]) {
          for (const head of [new Uint8Array(), bytesOf(METHODS.get(rpc) as DescMethod, base)]) {
            const { reason, answer } = await call(rpc, Buffer.concat([head, leaf.request(Buffer.from(value))]), over);
            if (reason === undefined) {
              stores = true;
              continue;
            }
            refused++;
            expect(everythingIn(answer), leaf.path).not.toMatch(/Zoraida|Quintanilla|31415926/);
          }
        }
      }
      expect(refused).toBeGreaterThan(2);
      expect(lines.slice(from).join("")).not.toMatch(/Zoraida|Quintanilla|31415926/);
    },
  );

  test.each([...METHODS.keys()])("42: %s: unknown fields are neither kept nor answered", async (rpc) => {
    const method = METHODS.get(rpc) as DescMethod;
    if (rpc === "CreateEntity") return;
    const marker = `UNKNOWN-${randomUUID()}`;
    const extra = Buffer.concat([bytes(1999, marker), integer(1998, 7)]);
    const { reason, answer } = await call(rpc, Buffer.concat([bytesOf(method, BASE[rpc]?.() ?? {}), extra]));
    expect(reason).toBeUndefined();
    expect(answer.body.includes(marker)).toBe(false);
    for (const message of messagesOf<Message>(method, answer)) expect(message.$unknown).toBeUndefined();
    expect(JSON.stringify(await dump(service.sql))).not.toContain(marker);
  });

  test.each(
    [...METHODS.values()]
      .filter(
        (method) =>
          method.input.fields.some((field) => field.name === "request_id") && method.name !== "ListEntityEvents",
      )
      .map((method) => method.name),
  )("55: %s: a request id that is no UUID", async (rpc) => {
    for (const requestId of [
      "x",
      "1",
      `${randomUUID()}0`,
      randomUUID().replaceAll("-", ""),
      `{${randomUUID()}}`,
      "' or true --",
      " ",
    ]) {
      expect(await call(rpc, { ...BASE[rpc]?.(), requestId })).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["request_id"],
      });
    }
  });

  test.each(
    [...METHODS.values()].flatMap((method) =>
      method.input.fields
        .filter((field) => field.message?.typeName === "entity.v1.EntityLookup" && field.fieldKind === "message")
        .map((field) => [method.name, field.name] as const),
    ),
  )("1, 2, 4, 5, 6, 8, 9, 15, 16: %s: %s", async (rpc, name) => {
    const look = (lookup: unknown) => call(rpc, { ...BASE[rpc]?.(), [name]: lookup });
    if (!OPTIONAL_LOOKUP.has(rpc))
      expect(await look(undefined)).toMatchObject({ reason: "INVALID_LOOKUP", fields: [name] });
    expect(await look({})).toMatchObject({ reason: "INVALID_LOOKUP", fields: [name] });
    for (const blank of ["", " ", "\t\n", "\u00a0\u3000"]) {
      for (const by of [byId, byExternal, byTax]) {
        const outcome = await look(by(blank));
        expect(outcome.reason, `${by(blank).by.case} ${JSON.stringify(blank)}`).toMatch(
          blank.includes("\t") && by === byTax ? /^(INVALID_LOOKUP|VALIDATION_ERROR)$/ : /^INVALID_LOOKUP$/,
        );
      }
    }
    const id = randomUUID();
    for (const bad of [
      "x",
      "123",
      "' or 1=1 --",
      `{${id}}`,
      id.replaceAll("-", ""),
      `urn:uuid:${id}`,
      `${id} `,
      `${id.slice(0, -1)}g`,
      "e-1",
    ]) {
      expect(await look(byId(bad)), bad).toMatchObject({
        ...{ reason: "VALIDATION_ERROR", fields: [`${name}.entity_id`] },
      });
    }
    for (const nobody of ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", id]) {
      expect(await look(byId(nobody)), nobody).toMatchObject({
        reason: "NOT_FOUND",
        metadata: { lookup: "entity_id" },
        message: "Entity not found",
      });
    }
    for (const long of ["x".repeat(256), "x".repeat(8192), "a\u200bb", "a\u202eb", "\ufeffx\u2060y", "a\nb"]) {
      expect(await look(byExternal(long)), long.slice(0, 5)).toMatchObject({ reason: "VALIDATION_ERROR" });
    }
    expect(await look(byExternal("'; drop table entity; --"))).toMatchObject({ reason: "NOT_FOUND" });
    expect(await look(byExternal(main.id)), "rule 6").toMatchObject({ reason: "NOT_FOUND" });
    for (const none of ["---", ".", "-"]) expect(await look(byTax(none))).toMatchObject({ reason: "INVALID_LOOKUP" });
    for (const foreign of ["20-12345678-\u0410", "\u00df1", "1\u0301", "x".repeat(65)]) {
      expect(await look(byTax(foreign)), foreign).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: [`${name}.tax_id`],
      });
    }
    expect(await look(byTax("2O-12345678-9")), "O for 0").toMatchObject({ reason: "NOT_FOUND" });
    const twins = await look(byTax("30 77777777 7"));
    expect(twins).toMatchObject({ reason: "AMBIGUOUS_TAX_ID_LOOKUP" });
    expect(twins.metadata?.candidates?.split(",")).toHaveLength(2);
    expect(`${twins.message}${JSON.stringify(twins.metadata)}`).not.toContain("77777777");
  });
});

describe("lookups and ids", () => {
  test("3: two keys: on the binary wire the last wins, in JSON INVALID_LOOKUP", async () => {
    const two = (...keys: Buffer[]) => bytes(1, Buffer.concat(keys));
    const nobody = randomUUID();
    const served = await call("GetEntity", two(bytes(1, nobody), bytes(2, "e-1")));
    expect(messagesOf<GetEntityResponse>(EntityService.method.getEntity, served.answer)[0]?.entity?.id).toBe(main.id);
    expect(await call("GetEntity", two(bytes(2, "e-1"), bytes(1, nobody)))).toMatchObject({
      reason: "NOT_FOUND",
      metadata: { lookup: "entity_id" },
    });
    // Also as two halves of the message, which the decoder joins.
    expect(await call("GetEntity", Buffer.concat([two(bytes(2, "e-1")), two(bytes(1, nobody))]))).toMatchObject({
      reason: "NOT_FOUND",
      metadata: { lookup: "entity_id" },
    });
    expect(await json("GetEntity", `{"lookup":{"entityId":"${nobody}","externalId":"e-1"}}`)).toMatchObject({
      status: 400,
      reason: "INVALID_LOOKUP",
    });
  });

  test("5: upper case is the same id, found and answered in lower case", async () => {
    const { answer } = await call("GetEntity", { lookup: byId(main.id.toUpperCase()) });
    expect(messagesOf<GetEntityResponse>(EntityService.method.getEntity, answer)[0]?.entity?.id).toBe(main.id);
  });

  test("8: blanks around an external id are taken off, everywhere; of blanks alone there is none", async () => {
    for (const [rpc, rest, field] of [
      ["ChangeExternalId", { newExternalId: "  " }, "new_external_id"],
      ["AssignExternalId", { externalId: "\u3000" }, "external_id"],
      ["AddExternalIds", { externalIds: [{ externalId: " " }] }, "external_ids[0].external_id"],
      ["CreateEntity", { entity: person({ externalId: "  " }) }, "entity.external_id"],
      ["ImportEntities", { entity: person({ externalId: "  " }) }, "entity.external_id"],
    ] as const) {
      expect(await call(rpc, { ...BASE[rpc]?.(), ...rest })).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: [field],
      });
    }
    expect(await call("CreateEntity", { entity: person({ externalId: "\u00a0e-1 " }) })).toMatchObject({
      reason: "DUPLICATE_EXTERNAL_ID",
    });
    expect((await call("GetEntity", { lookup: byExternal(" e-1\u3000") })).reason).toBeUndefined();
  });

  test("9: 256 code points, 8 KiB; 255 of them are fine, of four bytes each as well", async () => {
    for (const long of ["x".repeat(256), "\u{1f600}".repeat(256), "x".repeat(8192)]) {
      for (const [rpc, rest] of [
        ["CreateEntity", { entity: person({ externalId: long }) }],
        ["ChangeExternalId", { newExternalId: long }],
        ["AssignExternalId", { externalId: long }],
        ["AddExternalIds", { externalIds: [{ externalId: long }] }],
        ["ListEntities", { externalIds: [long] }],
        ["ImportEntities", { entity: person({ externalId: long }) }],
        [
          "RecordTransactions",
          { transactions: [{ externalId: long, type: "t", amount: "1", currency: "ARS", transactedAt: at }] },
        ],
        ["RecordUserEvents", { userEvents: [{ entityExternalId: long, eventType: "t", occurredAt: at }] }],
      ] as const) {
        expect(await call(rpc, { ...BASE[rpc]?.(), ...rest }), `${rpc} ${long.length}`).toMatchObject({
          reason: "VALIDATION_ERROR",
        });
      }
    }
    stores = true;
    const longest = "\u{1f600}".repeat(255);
    expect((await call("CreateEntity", { entity: person({ externalId: longest }) })).reason).toBeUndefined();
    expect((await call("GetEntity", { lookup: byExternal(longest) })).reason).toBeUndefined();
  });

  test("10: a change to itself is no change", async () => {
    const { changed, success, entity } = await service.client.entities.changeExternalId({
      lookup: byExternal("e-1") as never,
      newExternalId: " e-1 ",
      ...reason,
    });
    expect([changed, success, entity?.etag]).toEqual([false, true, main.etag]);
  });

  test("11: a name in use, and two who race for one", async () => {
    expect(
      await call("ChangeExternalId", { lookup: byExternal("e-1"), newExternalId: "e-2", ...reason }),
    ).toMatchObject({ reason: "DUPLICATE_EXTERNAL_ID", code: 6, fields: ["new_external_id"] });
    expect(
      await call("AddExternalIds", {
        lookup: byExternal("e-1"),
        externalIds: [{ externalId: "e-1" }, { externalId: "gone" }],
      }),
    ).toMatchObject({ reason: "DUPLICATE_EXTERNAL_ID", metadata: { index: "1" } });
    stores = true;
    for (let round = 0; round < 10; round++) {
      const made = await Promise.all([1, 2, 3].map(() => service.client.entities.createEntity({ entity: person() })));
      const race = await Promise.all(
        made.map(({ entity }) =>
          call("ChangeExternalId", { lookup: byId(entity?.id ?? ""), newExternalId: `race-${round}`, ...reason }),
        ),
      );
      expect(race.map((outcome) => outcome.reason ?? "OK").sort()).toEqual([
        "DUPLICATE_EXTERNAL_ID",
        "DUPLICATE_EXTERNAL_ID",
        "OK",
      ]);
    }
  });

  test("12: every write to a deleted entity", async () => {
    const lookup = byExternal("gone");
    for (const [rpc, rest] of [
      ["UpdateEntity", { entity: { name: "x" } }],
      ["UpdateEntity", { entity: { name: "x" }, allowMissing: true }],
      ["ChangeExternalId", { newExternalId: "new", ...reason }],
      ["AssignExternalId", { externalId: "new" }],
      ["AddExternalIds", { externalIds: [{ externalId: "new" }] }],
    ] as const) {
      expect(await call(rpc, { lookup, ...rest }), rpc).toMatchObject({
        reason: "ENTITY_DELETED",
        code: 9,
        metadata: { allowed: "UndeleteEntity" },
      });
    }
    expect(await call("ImportEntities", { entity: person({ externalId: "gone", name: "x" }) })).toMatchObject({
      reason: "ENTITY_DELETED",
    });
    expect(await call("CreateEntity", { entity: person({ externalId: "gone" }) })).toMatchObject({
      reason: "DUPLICATE_EXTERNAL_ID",
    });
    expect(
      await call("RecordUserEvents", { userEvents: [{ entityExternalId: "gone", eventType: "t", occurredAt: at }] }),
    ).toMatchObject({ reason: "ENTITY_DELETED" });
  });

  test.each([
    ["missing", ""],
    ["four letters among blanks", "   ab c  "],
    ["blanks alone", "\u3000\u00a0     "],
    ["4001", "x".repeat(4001)],
    ["four emoji", "\u{1f600}".repeat(4)],
  ])("13: a reason: %s", async (_, text) => {
    for (const rpc of ["ChangeExternalId", "DeleteEntity", "UndeleteEntity"]) {
      expect(await call(rpc, { ...BASE[rpc]?.(), reason: text }), rpc).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["reason"],
      });
      // Rule 13: before the lookup.
      expect(await call(rpc, { ...BASE[rpc]?.(), lookup: byId(randomUUID()), reason: text }), rpc).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["reason"],
      });
    }
    if (text.length > 4000)
      expect(await call("UpdateEntity", { ...BASE.UpdateEntity?.(), reason: text })).toMatchObject({
        reason: "VALIDATION_ERROR",
        metadata: { limit: "4000" },
      });
  });
});

describe("tax ids", () => {
  test.each(["20-12345678-9", "20123456789", "20 12345678 9", "20.12345678/9", "\uff12\uff10-12345678-9"])(
    "14, 16: %s finds the same entity",
    async (spelling) => {
      const { answer } = await call("GetEntity", { lookup: byTax(spelling) });
      expect(messagesOf<GetEntityResponse>(EntityService.method.getEntity, answer)[0]?.entity?.id).toBe(main.id);
      const listed = await call("ListEntities", { taxId: spelling });
      expect(
        messagesOf<ListEntitiesResponse>(EntityService.method.listEntities, listed.answer)[0]?.entities.map(
          (entity) => entity.id,
        ),
      ).toEqual([main.id]);
    },
  );

  test("15: of punctuation alone it counts as none when stored, and finds nobody", async () => {
    stores = true;
    const { entity } = await service.client.entities.createEntity({ entity: person({ taxId: "---" }) });
    expect(entity?.taxId).toBeUndefined();
    const listed = await call("ListEntities", { taxId: "---" });
    if (listed.reason === undefined)
      expect(messagesOf<ListEntitiesResponse>(EntityService.method.listEntities, listed.answer)[0]?.entities).toEqual(
        [],
      );
  });

  test("16: letters and digits that are not ASCII are refused, not guessed", async () => {
    for (const taxId of ["\u2776-1", "20-\u0410", "\u00df-1", "\u0131", "1\u20e3"]) {
      expect(await call("CreateEntity", { entity: person({ taxId }) }), taxId).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["entity.tax_id"],
      });
      expect(await call("UpdateEntity", { lookup: byExternal("e-1"), entity: { taxId } }), taxId).toMatchObject({
        reason: "VALIDATION_ERROR",
      });
      expect(await call("ListEntities", { taxId }), taxId).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["tax_id"],
      });
    }
  });

  test("17: nothing is written by a tax id of several", async () => {
    for (const rpc of ["UpdateEntity", "ChangeExternalId", "DeleteEntity", "AddExternalIds"]) {
      expect(
        await call(rpc, {
          ...BASE[rpc]?.(),
          lookup: byTax("30777777777"),
          entity: rpc === "UpdateEntity" ? { name: "x" } : undefined,
        }),
      ).toMatchObject({ reason: "AMBIGUOUS_TAX_ID_LOOKUP", code: 9 });
    }
  });
});

describe("text", () => {
  test.each(['"\\ud800"', '"\\udc00x"', '"a\\ud83d"', '"\\ude00\\ud83d"'])(
    "21, 22: a lone surrogate in JSON: %s",
    async (literal) => {
      const entity = (more: string) =>
        `{"entity":{"type":"ENTITY_TYPE_PERSON","countryCode":"AR","name":"Ana"${more}}}`;
      for (const body of [
        `{"entity":{"type":"ENTITY_TYPE_PERSON","countryCode":"AR","name":${literal}}}`,
        entity(`,"externalId":${literal}`),
        entity(`,"attributes":{"k":${literal}}`),
        entity(`,"attributes":{${literal}:1}`),
        entity(`,"metadata":{"a":[{"b":${literal}}]}`),
        entity(`,"entityData":{"person":{"additional":{"k":${literal}}}}`),
        entity(`,"entityData":{"person":{"address":{"additional":{${literal}:1}}}}`),
      ]) {
        expect(await json("CreateEntity", body), body).toMatchObject({ status: 400, reason: "VALIDATION_ERROR" });
      }
    },
  );

  test("24: a line end with a false log line: refused in a name, kept in a reason, one line of log a call", async () => {
    const fake = 'x\r\n{"level":"info","msg":"call","code":"OK","fake":true}';
    for (const [rpc, rest] of [
      ["CreateEntity", { entity: person({ name: fake }) }],
      ["CreateEntity", { entity: person({ externalId: fake }) }],
      ["CreateEntity", { entity: person({ name: "a\u2028b" }) }],
      ["UpdateOrganization", { organization: { displayName: fake } }],
      ["CreateApiKey", { displayName: fake }],
    ] as const) {
      expect(await call(rpc, { ...BASE[rpc]?.(), ...rest })).toMatchObject({ reason: "VALIDATION_ERROR" });
    }
    stores = true;
    const { answer } = await call("UpdateEntity", { lookup: byExternal("e-2"), entity: { name: "Eva" }, reason: fake });
    expect(refusalIn(answer)).toBeUndefined();
    for (const line of lines) expect(JSON.parse(line)).not.toHaveProperty("fake");
    expect(lines.join("")).not.toContain("fake");
  });

  test("25, 27, 29: ids that look alike are different ids: nothing is folded", async () => {
    stores = true;
    const alike = [
      "e\u0301",
      "\u00e9",
      "\u0430cme",
      "acme",
      "ACME",
      "\u0130",
      "i\u0307",
      "I",
      "\u0131",
      "stra\u00dfe",
      "STRASSE",
      "\uff21",
      "a b",
      "a  b",
      "\u212b",
      "\u00c5",
    ];
    for (const externalId of alike)
      expect((await call("CreateEntity", { entity: person({ externalId }) })).reason, externalId).toBeUndefined();
    for (const externalId of alike) {
      const { answer } = await call("GetEntity", { lookup: byExternal(externalId) });
      expect(messagesOf<GetEntityResponse>(EntityService.method.getEntity, answer)[0]?.entity?.externalId).toBe(
        externalId,
      );
    }
  });

  test.each(["\u200b", "\u2060", "\ufeffx\ufeff", "\u200d", "\u00ad", "\u202e", "\u2066", "\u061c"])(
    "26: invisible in an identifier: %j",
    async (mark) => {
      const externalId = `a${mark}b`;
      for (const [rpc, rest] of [
        ["CreateEntity", { entity: person({ externalId }) }],
        ["ChangeExternalId", { newExternalId: externalId }],
        ["AssignExternalId", { externalId }],
        ["AddExternalIds", { externalIds: [{ externalId }] }],
        ["ImportEntities", { entity: person({ externalId }) }],
        ["GetEntity", { lookup: byExternal(externalId) }],
      ] as const) {
        expect(await call(rpc, { ...BASE[rpc]?.(), ...rest }), rpc).toMatchObject({ reason: "VALIDATION_ERROR" });
      }
    },
  );

  test("26: in a name, overrides are refused and joiners stay", async () => {
    for (const mark of ["\u202a", "\u202e", "\u2066", "\u2069"])
      expect(await call("CreateEntity", { entity: person({ name: `a${mark}b` }) })).toMatchObject({
        reason: "VALIDATION_ERROR",
      });
    stores = true;
    const name = "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u{1f468}\u200d\u{1f469}\u200d\u{1f467}";
    expect((await service.client.entities.createEntity({ entity: person({ name }) })).entity?.name).toBe(name);
  });

  test("28: limits are counted in code points", async () => {
    const family = "\u{1f468}\u200d\u{1f469}\u200d\u{1f467}\u200d\u{1f466}";
    expect([...family]).toHaveLength(7);
    expect(await call("CreateEntity", { entity: person({ name: `${family.repeat(73)}xy` }) })).toMatchObject({
      reason: "VALIDATION_ERROR",
      metadata: { limit: "512" },
    });
    stores = true;
    const { entity } = await service.client.entities.createEntity({
      entity: person({ name: `${family.repeat(73)}x` }),
    });
    expect([...(entity?.name ?? "")]).toHaveLength(512);
  });
});

describe("structs and numbers", () => {
  const entity = (more: string) => `{"entity":{"type":"ENTITY_TYPE_PERSON","countryCode":"AR","name":"Ana"${more}}}`;

  test("30: JSON nested past the decoder's limit, and far past it", async () => {
    for (const [depth, reason] of [
      [110, "VALIDATION_ERROR"],
      [5_000, "VALIDATION_ERROR"],
      [100_000, "MESSAGE_TOO_LARGE"],
    ] as const) {
      const body = entity(`,"attributes":{"k":${"[".repeat(depth)}1${"]".repeat(depth)}}`);
      expect(await json("CreateEntity", body), String(depth)).toMatchObject({ reason });
    }
  });

  test("31: 32 levels are stored and come back", async () => {
    stores = true;
    let value: unknown = "x";
    for (let i = 0; i < 31; i++) value = { k: value };
    const { entity: made } = await service.client.entities.createEntity({
      entity: person({ attributes: { k: value } }) as never,
    });
    const { entity: read } = await service.client.entities.getEntity({ lookup: byId(made?.id ?? "") as never });
    expect(read?.attributes).toEqual({ k: value });
  });

  test("32: 200 000 keys are refused", async () => {
    const wide = Buffer.concat(Array.from({ length: 200_000 }, (_, i) => structOf([`k${i}`, NULL])));
    const transaction = Buffer.concat([bytes(3, "t"), bytes(5, "1"), bytes(6, "ARS"), bytes(10, wide)]);
    expect(await call("RecordTransactions", bytes(1, transaction))).toMatchObject({ reason: "MESSAGE_TOO_LARGE" });
    expect(await call("CreateEntity", bytes(1, bytes(15, wide)))).toMatchObject({
      reason: "MESSAGE_TOO_LARGE",
      code: 8,
    });
  });

  test("33, 35, rule 74: keys with a meaning elsewhere are keys like any other, wherever they stand", async () => {
    stores = true;
    const keys = [
      "__proto__",
      "constructor",
      "prototype",
      "toString",
      "hasOwnProperty",
      "$ne",
      "sql",
      "params",
      "length",
      "toJSON",
      "__raw",
      "then",
    ];
    const text = `{${keys.map((key, i) => `${JSON.stringify(key)}:{"${keys[i]}_":[{"__proto__":{"polluted":${i}}}],"$ne":null}`).join(",")}}`;
    const data = `,"entityData":{"person":{"additional":${text},"address":{"additional":${text}}}}`;
    const created = await json(
      "CreateEntity",
      `{"entity":{"type":"ENTITY_TYPE_PERSON","countryCode":"AR","name":"Ana","externalId":"proto","attributes":${text},"metadata":${text}${data}},"requestId":"${randomUUID()}"}`,
    );
    expect(created.status, created.text).toBe(200);
    const same = (got: string | undefined) => expect(JSON.parse(got ?? "null")).toEqual(JSON.parse(text));
    const part = (body: string, path: string[]) =>
      JSON.stringify(path.reduce<unknown>((v, key) => (v as Record<string, unknown>)[key], JSON.parse(body)));
    const expectAll = (body: string, root: string) => {
      same(part(body, [root, "attributes"]));
      same(part(body, [root, "metadata"]));
      same(part(body, [root, "entityData", "person", "additional"]));
      same(part(body, [root, "entityData", "person", "address", "additional"]));
      expect(Object.hasOwn(JSON.parse(part(body, [root, "attributes"])), "__proto__")).toBe(true);
    };
    expectAll(created.text, "entity");
    expectAll((await json("GetEntity", '{"lookup":{"externalId":"proto"}}')).text, "entity");
    // Merged with itself: no change. A key sent as null is removed.
    const again = await json(
      "UpdateEntity",
      `{"lookup":{"externalId":"proto"},"entity":{"attributes":${text},"metadata":${text}${data}}}`,
    );
    expect(JSON.parse(again.text).updatedFields ?? []).toEqual([]);
    const removed = await json(
      "UpdateEntity",
      '{"lookup":{"externalId":"proto"},"entity":{"attributes":{"__proto__":null}}}',
    );
    const left = JSON.parse(removed.text).entity.attributes as object;
    expect(Object.hasOwn(left, "__proto__")).toBe(false);
    expect(Object.keys(left).sort()).toEqual(keys.slice(1).sort());
    const events = await json("ListEntityEvents", '{"lookup":{"externalId":"proto"}}');
    same(part(events.text, ["events", "1", "newValues", "attributes"]));
    expect(Object.hasOwn(JSON.parse(events.text).events[0].previousValues.attributes, "__proto__")).toBe(true);
    // Activity.
    const recorded = await json(
      "RecordTransactions",
      `{"transactions":[{"externalId":"proto-t","type":"t","amount":"1","currency":"ARS","transactedAt":"2026-01-01T00:00:00Z","origin":{"externalId":"proto"},"details":${text}}]}`,
    );
    same(part(recorded.text, ["results", "0", "transaction", "details"]));
    same(
      part((await json("ListTransactions", '{"lookup":{"externalId":"proto"}}')).text, [
        "transactions",
        "0",
        "details",
      ]),
    );
    const seen = await json(
      "RecordUserEvents",
      `{"userEvents":[{"entityExternalId":"proto","eventType":"t","occurredAt":"2026-01-01T00:00:00Z","payload":${text}}]}`,
    );
    same(part(seen.text, ["userEvents", "0", "payload"]));
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  });

  test("33: the same over the binary wire", async () => {
    stores = true;
    const request = bytes(
      1,
      Buffer.concat([
        integer(5, 1),
        bytes(6, "AR"),
        bytes(7, "Ana"),
        bytes(
          15,
          structOf(
            ["__proto__", bytes(5, structOf(["polluted", stringValue("yes")]))],
            ["constructor", NULL],
            ["a", bytes(5, structOf(["constructor", NULL]))],
          ),
        ),
      ]),
    );
    const { answer, reason: refused } = await call("CreateEntity", request);
    expect(refused).toBeUndefined();
    const entity = (messagesOf<GetEntityResponse>(EntityService.method.createEntity, answer)[0] as GetEntityResponse)
      .entity;
    const attributes = entity?.attributes as Record<string, unknown>;
    // Rule 24: a top-level null is never stored.
    expect(Object.keys(attributes).sort()).toEqual(["__proto__", "a"]);
    expect(Object.getOwnPropertyDescriptor(attributes, "__proto__")?.value).toEqual({ polluted: "yes" });
    const [row] = await service.sql("select attributes::text from entity where id = $1", [entity?.id]);
    expect(row?.attributes).toBe('{"a": {"constructor": null}, "__proto__": {"polluted": "yes"}}');
  });

  test.each(["1e400", "-1e400", "NaN", "Infinity", '"NaN"'])(
    "36, 37: %s in JSON, as a number where one is wanted",
    async (literal) => {
      expect(await json("ListEntities", `{"pageSize":${literal}}`)).toMatchObject({
        status: 400,
        reason: "VALIDATION_ERROR",
      });
      if (literal.startsWith('"')) return;
      expect(await json("CreateEntity", entity(`,"attributes":{"k":${literal}}`))).toMatchObject({
        status: 400,
        reason: "VALIDATION_ERROR",
      });
    },
  );

  test("38: integers that are not exact; the largest that is comes back", async () => {
    for (const number of ["9007199254740992", "-9007199254740993", "1e20", "123456789012345678901234567890"]) {
      expect(await json("CreateEntity", entity(`,"attributes":{"k":${number}}`)), number).toMatchObject({
        status: 400,
        reason: "VALIDATION_ERROR",
      });
    }
    stores = true;
    const values = {
      a: 9007199254740991,
      b: -9007199254740991,
      c: 0.1,
      d: 5e-324,
      e: 1.7976931348623157e-300,
      f: 123456.789e-7,
    };
    const { entity: made } = await service.client.entities.createEntity({ entity: person({ attributes: values }) });
    expect(
      (await service.client.entities.getEntity({ lookup: byId(made?.id ?? "") as never })).entity?.attributes,
    ).toEqual(values);
  });

  test("39: no request has an integer of 64 bits that JSON could round", () => {
    const wide: string[] = [];
    const walk = (desc: DescMessage, path: string) => {
      for (const field of desc.fields) {
        if (field.message !== undefined && !field.message.typeName.startsWith("google."))
          walk(field.message, `${path}.${field.name}`);
        if ([3, 4, 6, 16, 18].includes(field.scalar ?? 0)) wide.push(`${path}.${field.name}`);
      }
    };
    for (const method of METHODS.values()) walk(method.input, method.name);
    // Refused beyond the numbers that JSON has exactly: rule 132, a number that no checkpoint can have.
    expect(wide).toEqual(["ListAuditCheckpoints.after_number", "VerifyAuditTrail.checkpoints.number"]);
  });

  test("40: minus zero is stored as zero", async () => {
    stores = true;
    const { entity: made } = await service.client.entities.createEntity({ entity: person({ attributes: { k: -0 } }) });
    const { entity: read } = await service.client.entities.getEntity({ lookup: byId(made?.id ?? "") as never });
    expect(Object.is(read?.attributes?.k, 0)).toBe(true);
    const { updatedFields } = await service.client.entities.updateEntity({
      lookup: byId(made?.id ?? "") as never,
      entity: { attributes: { k: -0 } },
    });
    expect(updatedFields).toEqual([]);
  });

  test("41: keys given twice: refused in JSON, the last on the binary wire", async () => {
    for (const body of [
      '{"reason":"a","reason":"b"}',
      entity(',"name":"Eva"'),
      entity(',"attributes":{"k":1,"k":2}'),
      entity(',"attributes":{"a":{"__proto__":1,"__proto__":2}}'),
    ]) {
      expect(await json("CreateEntity", body), body).toMatchObject({ status: 400, reason: "VALIDATION_ERROR" });
    }
    stores = true;
    const request = bytes(
      1,
      Buffer.concat([
        integer(5, 1),
        bytes(6, "AR"),
        bytes(7, "Ana"),
        bytes(15, structOf(["k", numberValue(1)], ["k", numberValue(2)])),
      ]),
    );
    const { answer } = await call("CreateEntity", request);
    expect(
      (messagesOf<GetEntityResponse>(EntityService.method.createEntity, answer)[0] as GetEntityResponse).entity
        ?.attributes,
    ).toEqual({ k: 2 });
  });

  test("42: unknown fields do not make another request of it; in JSON they are refused by name", async () => {
    stores = true;
    const [requestId, marker] = [randomUUID(), `UNKNOWN-${randomUUID()}`];
    const request = bytesOf(EntityService.method.createEntity, { entity: person(), requestId });
    const inside = Buffer.concat([request, bytes(1, bytes(777, marker)), bytes(888, marker)]);
    expect((await call("CreateEntity", inside)).reason).toBeUndefined();
    const { answer, reason: refused } = await call("CreateEntity", request);
    expect(refused).toBeUndefined();
    expect(answer.headers["idempotent-replay"]).toBe("true");
    expect(answer.body.includes(marker)).toBe(false);
    const [row] = await service.sql(
      "select encode(response, 'escape') as response from request_record where request_id = $1",
      [requestId],
    );
    expect(row?.response).not.toContain(marker);
    expect(JSON.stringify(await dump(service.sql))).not.toContain(marker);
    // Unknown fields do not make another query either: a token of one is valid for the other.
    const { answer: page } = await call(
      "ListEntities",
      Buffer.concat([integer(8, 1), integer(9, 1), bytes(888, marker)]),
    );
    const { nextPageToken } = messagesOf<ListEntitiesResponse>(
      EntityService.method.listEntities,
      page,
    )[0] as ListEntitiesResponse;
    expect(nextPageToken).not.toBe("");
    expect((await call("ListEntities", { showDeleted: true, pageToken: nextPageToken })).reason).toBeUndefined();
    expect(await json("CreateEntity", entity(',"surname":"Perez"'))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["entity.surname"],
    });
    expect(await json("CreateEntity", entity(',"entityData":{"person":{"revenue":1}}'))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["entity.entity_data.person.revenue"],
    });
  });

  test.each([
    "2023-02-30",
    "0000-00-00",
    "1990-13-01",
    "1990-3-1",
    "1990-03-01T00:00:00-03:00",
    "01/03/1990",
    "19900301",
    "-1990-01-01",
    "1900-02-29",
    " 1990-03-01",
  ])("44: a date that is none: %s", async (date) => {
    const of = (data: object) => ({ entity: person({ entityData: { kind: { case: "person", value: data } } }) });
    expect(await call("CreateEntity", of({ dateOfBirth: date }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["entity.entity_data.person.date_of_birth"],
    });
    expect(
      await call("CreateEntity", {
        entity: {
          ...person(),
          type: EntityType.COMPANY,
          entityData: { kind: { case: "company", value: { incorporationDate: date } } },
        },
      }),
    ).toMatchObject({ reason: "VALIDATION_ERROR" });
  });

  test("44: a birth in the future, on no place of the Earth today", async () => {
    const day = new Date(Date.now() + 48 * 3_600_000).toISOString().slice(0, 10);
    for (const dateOfBirth of [day, "9999-12-31"]) {
      expect(
        await call("CreateEntity", {
          entity: person({ entityData: { kind: { case: "person", value: { dateOfBirth } } } }),
        }),
      ).toMatchObject({ reason: "VALIDATION_ERROR" });
    }
  });

  test.each([
    "2026-01-31",
    "2026-13-01T00:00:00Z",
    "10000-01-01T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "yesterday",
    "2026-01-01T00:00:00.1234567890Z",
  ])("45: a time that is none, in JSON: %s", async (time) => {
    expect(await json("ListEntities", `{"updatedAfter":"${time}"}`)).toMatchObject({
      status: 400,
      reason: "VALIDATION_ERROR",
    });
  });

  test("45: the first and the last time there is", async () => {
    for (const seconds of [-62_135_596_800n, 253_402_300_799n]) {
      expect((await call("ListEntities", { updatedAfter: { seconds, nanos: 999_999_999 } })).reason).toBeUndefined();
      expect(
        (await call("ListEntityEvents", { from: { seconds, nanos: 0 }, to: { seconds, nanos: 1 } })).reason,
      ).toBeUndefined();
    }
    stores = true;
    for (const seconds of [-62_135_596_800n, 253_402_300_799n]) {
      const recorded = await call("RecordUserEvents", {
        userEvents: [{ entityExternalId: "e-2", eventType: "edge", occurredAt: { seconds, nanos: 999_999_999 } }],
      });
      expect(recorded.reason).toBeUndefined();
      const made = await service.client.entities.createEntity({
        entity: person(),
        occurredAt: { seconds, nanos: 999_999_999 },
      });
      const { events } = await service.client.entities.listEntityEvents({
        lookup: byId(made.entity?.id ?? "") as never,
      });
      expect(events[0]?.occurredAt).toMatchObject({ seconds, nanos: 999_999_000 });
    }
    const { userEvents } = await service.client.activity.listUserEvents({ lookup: byExternal("e-2") as never });
    expect(userEvents.map((event) => event.occurredAt?.seconds)).toEqual([253_402_300_799n, -62_135_596_800n]);
  });

  test.each(["", "1e3", "1,5", "+-1", ".5", "1.", "NaN", "0x10", "1".repeat(21), "1.12345678901", " 1", "\uff11"])(
    "an amount that is none: %j",
    async (amount) => {
      expect(
        await call("RecordTransactions", { transactions: [{ type: "t", amount, currency: "ARS", transactedAt: at }] }),
      ).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["transactions[0].amount"] });
    },
  );
});

describe("updates", () => {
  const update = (rest: object) => call("UpdateEntity", { lookup: byExternal("e-1"), ...rest });

  test.each([
    "*",
    "nope",
    "entity_data.person.nope",
    "attributes.kept",
    "entity_data.person.address.city",
    "name.",
    ".name",
    "entityData",
    "external_ids[0]",
    "__proto__",
    "constructor",
    "entity_data.person.additional.x",
    "version",
    "",
  ])("46: a mask with the path %j", async (path) => {
    expect(await update({ entity: { name: "x" }, updateMask: { paths: [path] } })).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["update_mask"],
    });
    expect(await call("GetEntity", { lookup: byExternal("e-1"), readMask: { paths: [path] } })).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["read_mask"],
    });
  });

  test("46: both halves of the oneof, a path and one inside it; an empty mask is none", async () => {
    for (const paths of [
      ["entity_data.person.email", "entity_data.company.website"],
      ["entity_data.person", "entity_data.person.email"],
      ["entity_data.company"],
    ]) {
      const outcome = await update({
        entity: { entityData: { kind: { case: "company", value: { website: "x" } } } },
        updateMask: { paths },
      });
      expect(outcome, String(paths)).toMatchObject({ reason: "VALIDATION_ERROR" });
    }
    expect((await update({ entity: { name: "Ana" }, updateMask: { paths: [] } })).reason).toBeUndefined();
  });

  test("47: immutable fields refuse the whole update; the external id is ignored and named", async () => {
    expect(await update({ entity: { type: EntityType.COMPANY, name: "x" } })).toMatchObject({
      reason: "IMMUTABLE_FIELD",
      code: 3,
      message: "Field 'type' cannot be changed after entity creation",
    });
    expect(await update({ entity: { countryCode: "BR" }, updateMask: { paths: ["country_code"] } })).toMatchObject({
      reason: "IMMUTABLE_FIELD",
      message: "Field 'countryCode' cannot be changed after entity creation",
    });
    const { answer } = await update({ entity: { externalId: "stolen", type: EntityType.PERSON, countryCode: "ar" } });
    expect(messagesOf<UpdateEntityResponse>(EntityService.method.updateEntity, answer)[0]).toMatchObject({
      updatedFields: [],
      ignoredFields: ["external_id"],
      entity: { externalId: "e-1" },
    });
  });

  test("48: mass assignment changes nothing and is named", async () => {
    const entity = {
      id: other.id,
      organizationId: randomUUID(),
      externalIds: [{ externalId: "stolen", designation: Designation.PRIMARY }],
      taxIdCheck: 1,
      riskScore: "0.00",
      createdAt: at,
      updatedAt: at,
      deletedAt: at,
    };
    const named = [
      "id",
      "organization_id",
      "external_ids",
      "tax_id_check",
      "risk_score",
      "created_at",
      "updated_at",
      "deleted_at",
    ];
    for (const updateMask of [undefined, { paths: named }]) {
      const { answer } = await update({ entity, updateMask });
      expect(messagesOf<UpdateEntityResponse>(EntityService.method.updateEntity, answer)[0]).toMatchObject({
        updatedFields: [],
        ignoredFields: named,
        entity: { id: main.id, etag: main.etag },
      });
    }
  });

  test("49, 50: etags: stale, of another, malformed, weak", async () => {
    for (const etag of [
      randomUUID(),
      other.etag,
      "x",
      `W/"${main.etag}"`,
      `"${main.etag}"`,
      main.etag.toUpperCase(),
      "*",
    ]) {
      for (const [rpc, rest] of [
        ["UpdateEntity", { entity: { name: "x" } }],
        ["DeleteEntity", reason],
        ["UndeleteEntity", reason],
        ["ChangeExternalId", { newExternalId: "y", ...reason }],
        ["AssignExternalId", { externalId: "e-1" }],
        ["AddExternalIds", { externalIds: [{ externalId: "y" }] }],
      ] as const) {
        expect(await call(rpc, { lookup: byExternal("e-1"), ...rest, etag }), `${rpc} ${etag}`).toMatchObject({
          reason: "ETAG_MISMATCH",
          code: 10,
          metadata: { etag: main.etag },
        });
      }
    }
    expect(await update({ entity: { name: "x", etag: "stale" } })).toMatchObject({ reason: "ETAG_MISMATCH" });
    expect(await update({ entity: { name: "x", etag: main.etag }, etag: "other" })).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["etag"],
    });
  });

  test.each([
    [EntityStatus.BLOCKED, "blocked"],
    [EntityStatus.SUSPENDED, "suspended"],
    [EntityStatus.REJECTED, "rejected"],
  ])("51: status %i, %s, without a reason", async (status, word) => {
    for (const text of ["", "   ", "\u3000\n"]) {
      const refused = {
        reason: "STATUS_REASON_REQUIRED",
        code: 3,
        message: `Changing status to '${word}' requires a reason for audit purposes.`,
        metadata: { field: "reason", status: word },
      };
      expect(await update({ entity: { status, name: "x" }, reason: text })).toMatchObject(refused);
      expect(await call("CreateEntity", { entity: person({ status }), reason: text })).toMatchObject(refused);
      expect(
        await call("ImportEntities", { entity: person({ status, externalId: "new" }), reason: text }),
      ).toMatchObject(refused);
      expect(
        await call("UpdateEntity", {
          lookup: byExternal("new"),
          allowMissing: true,
          entity: person({ status }),
          reason: text,
        }),
      ).toMatchObject(refused);
    }
  });

  test("52: PENDING cannot be given to one that is not; no status at all cannot be written", async () => {
    expect(await update({ entity: { status: EntityStatus.PENDING } })).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["entity.status"],
    });
    expect(await update({ entity: {}, updateMask: { paths: ["status"] } })).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["entity.status"],
    });
    for (const path of ["name", "type", "country_code"])
      expect(await update({ entity: {}, updateMask: { paths: [path] } }), path).toMatchObject({
        reason: "VALIDATION_ERROR",
      });
  });
});

describe("request ids", () => {
  test("56: the same with another payload, in every method of its own", async () => {
    stores = true;
    const requestId = randomUUID();
    expect((await call("CreateEntity", { entity: person(), requestId })).reason).toBeUndefined();
    stores = false;
    before = await rowCounts(service.sql);
    for (const rest of [
      { entity: person({ name: "Eva" }) },
      { entity: person(), reason: "other" },
      { entity: person(), occurredAt: at },
      { entity: person({ attributes: { k: 1 } }) },
      { entity: person(), requireUniqueTaxId: true },
    ]) {
      expect(await call("CreateEntity", { ...rest, requestId })).toMatchObject({
        reason: "REQUEST_ID_REUSED",
        code: 9,
        metadata: { request_id: requestId },
      });
    }
    // Upper case is the same id, and another spelling is not another request.
    const { answer } = await call("CreateEntity", { entity: person(), requestId: requestId.toUpperCase() });
    expect(refusalIn(answer)?.reason ?? answer.headers["idempotent-replay"]).toMatch(/^(true|REQUEST_ID_REUSED)$/);
    // Rule 13: an invalid request is refused before its id is looked up.
    expect(await call("CreateEntity", { entity: { name: "x" }, requestId })).toMatchObject({
      reason: "VALIDATION_ERROR",
    });
  });

  test("56: another key, or another method, has its own: neither a replay nor a refusal", async () => {
    stores = true;
    const requestId = randomUUID();
    const headers = captureHeaders();
    const client = await service.organization.clientWith(["entities:write"], { interceptors: [headers.interceptor] });
    const first = await call("CreateEntity", { entity: person(), requestId });
    const { entity } = await client.entities.createEntity({ entity: person(), requestId });
    expect(headers.last.get("idempotent-replay")).toBeNull();
    expect(
      (messagesOf<GetEntityResponse>(EntityService.method.createEntity, first.answer)[0] as GetEntityResponse).entity
        ?.id,
    ).not.toBe(entity?.id);
    await client.entities.createEntity({ entity: person({ name: "Eva" }), requestId: randomUUID() });
    expect(
      (await call("UpdateEntity", { lookup: byExternal("e-2"), entity: { name: "Eva" }, requestId })).reason,
    ).toBeUndefined();
    expect(
      (
        await call("RecordUserEvents", {
          userEvents: [{ entityExternalId: "e-2", eventType: "t", occurredAt: at }],
          requestId,
        })
      ).reason,
    ).toBeUndefined();
  });

  test("57: in flight for longer than the lock time", async () => {
    await using impatient = await startOther(service, { config: { lockTimeoutMs: 300 } });
    const requestId = randomUUID();
    const holder = new pg.Client(service.database);
    await holder.connect();
    await holder.query("begin");
    await holder.query(
      "insert into request_record (organization_id, principal, method, request_id, request_hash, created_at) values ($1, $2, 'CreateEntity', $3, '\\x00', now())",
      [service.organization.id, service.organization.apiKeyId, requestId],
    );
    try {
      const refused = await refusal(
        impatient.client(service.organization.apiKey).entities.createEntity({ entity: person(), requestId }),
      );
      expect(refused).toMatchObject({
        code: 10,
        reason: "WRITE_CONFLICT",
        metadata: { retry_after_ms: expect.any(String) },
      });
    } finally {
      await holder.query("rollback");
      await holder.end();
    }
  });

  test("58: create, delete, and a late retry of the create: the first answer, no second entity", async () => {
    stores = true;
    const request = { entity: person({ externalId: "late" }), requestId: randomUUID() };
    const first = await call("CreateEntity", request);
    await call("DeleteEntity", { lookup: byExternal("late"), ...reason });
    const late = await call("CreateEntity", request);
    expect(late.answer.body).toEqual(first.answer.body);
    expect(late.answer.headers["idempotent-replay"]).toBe("true");
    expect(await service.sql("select count(*)::int as n from entity where external_id = 'late'")).toEqual([{ n: 1 }]);
  });

  test("59: older than the window it is new", async () => {
    stores = true;
    const request = { entity: person(), requestId: randomUUID() };
    const first = await call("CreateEntity", request);
    await service.sql(
      "update request_record set created_at = now() - interval '24 hours 1 minute' where request_id = $1",
      [request.requestId],
    );
    const second = await call("CreateEntity", request);
    expect(second.answer.headers["idempotent-replay"]).toBeUndefined();
    expect(second.answer.body).not.toEqual(first.answer.body);
    expect((await call("CreateEntity", request)).answer.body).toEqual(second.answer.body);
  });

  test("rule 39: a refusal is not remembered, and validate_only neither claims nor replays", async () => {
    const requestId = randomUUID();
    expect(await call("CreateEntity", { entity: person({ externalId: "e-1" }), requestId })).toMatchObject({
      reason: "DUPLICATE_EXTERNAL_ID",
    });
    expect((await call("CreateEntity", { entity: person(), requestId, validateOnly: true })).reason).toBeUndefined();
    stores = true;
    const headers = captureHeaders();
    const client = await service.organization.clientWith(["entities:write"], { interceptors: [headers.interceptor] });
    await client.entities.createEntity({ entity: person(), requestId });
    expect(headers.last.get("idempotent-replay")).toBeNull();
  });
});

describe("credentials", () => {
  test.each([
    ["none", undefined],
    ["Basic", "Basic dXNlcjpwYXNz"],
    ["an empty Bearer", "Bearer"],
    ["two, joined by a comma", "Bearer a, Bearer b"],
    ["a long one", `Bearer ${"x".repeat(10_000)}`],
    ["SQL", "Bearer '_or_true--"],
    ["the prefix alone", "Bearer es_"],
    ["one of the right form that is nobody's", `Bearer es_${"A".repeat(43)}`],
    ["a JWT without a signature", "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."],
  ])("60, 61, 63: %s: UNAUTHENTICATED, whatever the message", async (_, authorization) => {
    for (const [name, method] of METHODS) {
      const answer = await wire.call(method, Buffer.from([0xff, 0xff]), { authorization: authorization ?? "" });
      expect(refusalIn(answer), name).toMatchObject({ code: 16, reason: "UNAUTHENTICATED" });
    }
  });
});

describe("pages and batches", () => {
  const paged = () =>
    [...METHODS.values()]
      .filter((method) => method.input.fields.some((field) => field.name === "page_token"))
      .map((method) => method.name);

  test.each(paged())("77: %s: sizes", async (rpc) => {
    for (const pageSize of [-1, -(2 ** 31)])
      expect(await call(rpc, { ...BASE[rpc]?.(), pageSize })).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["page_size"],
      });
    for (const pageSize of [0, 1001, 2 ** 31 - 1])
      expect((await call(rpc, { ...BASE[rpc]?.(), pageSize })).reason).toBeUndefined();
  });

  test.each(paged())("78: %s: tokens that are none, of another query, edited, or forged", async (rpc) => {
    const base = BASE[rpc]?.() ?? {};
    // Anybody who knows the format can forge a token for their own query: its content must not be trusted.
    const forge = (cursor: string) => forgedToken(rpc, base, cursor);
    const tokens = [
      "x",
      "=",
      "%00",
      "AAAA",
      Buffer.from("x".repeat(100)).toString("base64url"),
      "A".repeat(4096),
      "\u{1f600}",
    ];
    tokens.push(
      ...[
        "null",
        "{}",
        "[]",
        "[1]",
        '["x"]',
        '["x","y"]',
        '["1","y"]',
        '["99999999999999999999999","00000000-0000-0000-0000-000000000000"]',
        '["-62135596800000001","00000000-0000-0000-0000-000000000000"]',
        '[["x"]]',
        "{",
        '["\\u0000","\\u0000"]',
        '["1e3","00000000-0000-0000-0000-000000000000","x"]',
        // A time and an external id are a cursor of external ids.
      ].flatMap((cursor) => (rpc === "ListExternalIdHistory" && cursor === '["1","y"]' ? [] : [forge(cursor)])),
    );
    for (const pageToken of tokens) {
      const outcome = await call(rpc, { ...base, pageToken });
      expect(outcome, Buffer.from(pageToken, "base64url").toString()).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["page_token"],
      });
    }
  });

  test("78: a token of the same RPC with another filter, and one with a bit turned", async () => {
    const { nextPageToken } = await service.client.entities.listEntities({ pageSize: 1 });
    expect(nextPageToken).not.toBe("");
    for (const rest of [
      { showDeleted: true },
      { type: EntityType.PERSON },
      { taxId: "1" },
      { readMask: { paths: ["name"] } },
    ]) {
      expect(await call("ListEntities", { ...rest, pageToken: nextPageToken })).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["page_token"],
      });
    }
    for (let i = 0; i < nextPageToken.length; i += 3) {
      const edited = nextPageToken.slice(0, i) + (nextPageToken[i] === "A" ? "Q" : "A") + nextPageToken.slice(i + 1);
      expect(await call("ListEntities", { pageToken: edited }), String(i)).toMatchObject({
        reason: "VALIDATION_ERROR",
      });
    }
    expect((await call("ListEntities", { pageToken: nextPageToken, pageSize: 2 })).reason).toBeUndefined();
  });

  test("80: batches of none and of too many; lists that say a thing twice", async () => {
    const one = { type: "t", amount: "1", currency: "ARS", transactedAt: at };
    for (const count of [0, 1001]) {
      expect(await call("BatchGetEntities", { lookups: Array(count).fill(byExternal("e-1")) })).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["lookups"],
      });
      expect(await call("RecordTransactions", { transactions: Array(count).fill(one) })).toMatchObject({
        reason: "VALIDATION_ERROR",
      });
      expect(
        await call("RecordUserEvents", {
          userEvents: Array(count).fill({ entityExternalId: "e-1", eventType: "t", occurredAt: at }),
        }),
      ).toMatchObject({ reason: "VALIDATION_ERROR" });
    }
    expect(
      await call("AddExternalIds", {
        lookup: byExternal("e-1"),
        externalIds: Array.from({ length: 101 }, (_, i) => ({ externalId: `n-${i}` })),
      }),
    ).toMatchObject({ reason: "VALIDATION_ERROR" });
    expect(
      await call("AddExternalIds", {
        lookup: byExternal("e-1"),
        externalIds: Array.from({ length: 100 }, (_, i) => ({ externalId: `n-${i}` })),
      }),
    ).toMatchObject({ reason: "VALIDATION_ERROR" });
    expect(
      await call("AddExternalIds", {
        lookup: byExternal("e-1"),
        externalIds: [{ externalId: "n" }, { externalId: " n " }],
      }),
    ).toMatchObject({ reason: "VALIDATION_ERROR" });
    expect(
      await call("RecordTransactions", {
        transactions: [
          { ...one, externalId: "n" },
          { ...one, externalId: "n " },
        ],
      }),
    ).toMatchObject({ reason: "VALIDATION_ERROR" });
    expect(await call("ListEntities", { externalIds: Array(1001).fill("x") })).toMatchObject({
      reason: "VALIDATION_ERROR",
    });
    expect(await call("ListEntities", { countryCodes: Array(251).fill("AR") })).toMatchObject({
      reason: "VALIDATION_ERROR",
    });
  });

  test("80: an import goes on after each row at fault, and each has its own reason", async () => {
    stores = true;
    const method = EntityService.method.importEntities;
    const rows = [
      person({ externalId: "row-1" }),
      person({ externalId: "row-\0" }),
      person({}),
      person({ externalId: "e-1", type: EntityType.COMPANY }),
      person({ externalId: "row-2", status: EntityStatus.BLOCKED }),
      person({ externalId: "row-3", attributes: { "": 1 } }),
      person({ externalId: "gone", name: "x" }),
      person({ externalId: "row-4" }),
    ];
    const answer = await wire.call(
      method,
      rows.map((entity) => ({ entity })),
    );
    expect(refusalIn(answer)).toBeUndefined();
    const results = messagesOf<ImportEntitiesResponse>(method, answer).flatMap((response) => response.results);
    expect(results.map((result) => Number(result.row))).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(results.map((result) => (result.error === undefined ? "OK" : fromStatus(result.error).reason))).toEqual([
      "OK",
      "VALIDATION_ERROR",
      "VALIDATION_ERROR",
      "IMMUTABLE_FIELD",
      "STATUS_REASON_REQUIRED",
      "VALIDATION_ERROR",
      "ENTITY_DELETED",
      "OK",
    ]);
  });
});

test("every number of the list has a test here, or a reason why not", async () => {
  const { readFile } = await import("node:fs/promises");
  const text = await readFile(new URL(import.meta.url), "utf8");
  const here = new Set(
    [...text.matchAll(/(?:test|\)|^\s*)\(?\s*["']((?:\d+(?:, )?)+)[,:]/gm)]
      .flatMap((match) => (match[1] ?? "").match(/\d+/g) ?? [])
      .map(Number),
  );
  const elsewhere: Record<number, string> = {
    7: "tenant-wall.test.ts, every RPC",
    53: "merge: not yet there",
    54: "database.test.ts: a row that somebody holds",
    62: "organizations.test.ts: revoked and expired",
    64: "tenant-wall.test.ts: an organization named where it has no meaning",
    65: "organizations.test.ts: scopes",
    66: "no identity is taken from client certificates",
  };
  const missing = Array.from({ length: 66 }, (_, i) => i + 1).filter((n) => !here.has(n) && elsewhere[n] === undefined);
  expect(missing).toEqual([]);
});

/** A token as src/rpc/page.ts makes one, for the caller's own query. */
function forgedToken(rpc: string, base: Record<string, unknown>, cursor: string): string {
  const method = METHODS.get(rpc) as DescMethod;
  const message = { ...create(method.input, base as never), pageSize: 0, pageToken: "" };
  const query = `${service.organization.id} ${method.input.typeName} ${Buffer.from(toBinary(method.input, message as never)).toString("base64")}`;
  const digest = createHash("sha256")
    .update(JSON.stringify([query, cursor]))
    .digest("base64url")
    .slice(0, 16);
  return Buffer.from(`${digest}${cursor}`).toString("base64url");
}
