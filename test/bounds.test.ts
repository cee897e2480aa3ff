// No request costs more than its share: what it may hold is limited before anything walks it, and so is what an error
// says about it, on every path.
import { gzipSync } from "node:zlib";
import {
  create,
  type DescField,
  type DescMessage,
  fromBinary,
  type Message,
  ScalarType,
  toBinary,
} from "@bufbuild/protobuf";
import { reflect } from "@bufbuild/protobuf/reflect";
import { setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EntitySchema } from "../clients/typescript/gen/entity/v1/entity_pb.ts";
import {
  BadRequestSchema,
  CreateEntityRequestSchema,
  EntityService,
  EntityType,
  ErrorInfoSchema,
  ErrorReason,
  StatusSchema,
} from "../clients/typescript/index.ts";
import { DomainError, type Reason } from "../src/domain/errors.ts";
import { LIMITS } from "../src/domain/limits.ts";
import { CODE, toConnectError, toStatus } from "../src/errors.ts";
import { assertWellFormed, maxItems } from "../src/rpc/well-formed.ts";
import { byteBudget } from "../src/transport/byte-budget.ts";
import { wholeBody, wholeMessages } from "../src/transport/request-body.ts";
import { assertFewJsonValues, countValues, measureJson } from "../src/transport/values.ts";
import { envelope } from "./frames.ts";
import { refusal, startService, type TestService } from "./harness.ts";
import { SERVICES } from "./services.ts";
import { Kinds } from "./transport-harness.ts";

const REQUESTS = SERVICES.flatMap((service) => service.methods.map(({ input }) => input));

/** A list or map that a request can hold, and the fields that lead to it. */
interface Place {
  request: DescMessage;
  above: readonly DescField[];
  field: DescField;
}

function placesIn(request: DescMessage, desc = request, above: readonly DescField[] = []): Place[] {
  return desc.fields.flatMap((field) => {
    const own = field.fieldKind === "list" || field.fieldKind === "map" ? [{ request, above, field }] : [];
    // A Struct is measured as a whole; a type inside itself would never end.
    const inside = field.message;
    if (inside === undefined || inside.typeName === "google.protobuf.Struct") return own;
    if (above.some((one) => one.message === inside)) return own;
    return [...own, ...placesIn(request, inside, [...above, field])];
  });
}

const nameOf = ({ request, above, field }: Place) =>
  [request.name, ...above.map(({ name }) => name), field.name].join(".");

describe("a body that is too large", () => {
  const READ_MAX_BYTES = 1_000;
  const options = () => ({
    readMaxBytes: READ_MAX_BYTES,
    enveloped: true,
    budget: byteBudget({ total: 1e6, perConnection: 1e6 }),
    connection: {},
  });
  /** A whole message, the beginning of one that may be as long as `announced`, and far too many of its bytes one by one. */
  function body(announced: number) {
    const sent = { chunks: 0 };
    async function* chunks() {
      yield Buffer.concat([envelope(Buffer.of(1, 2, 3)), envelope(new Uint8Array(), 0, announced)]);
      for (; sent.chunks < 50_000; sent.chunks++) yield Buffer.of(0xff);
    }
    return { sent, chunks: chunks() };
  }

  test.each([
    ["of one request", READ_MAX_BYTES],
    ["of one request, and says so", READ_MAX_BYTES + 1],
  ])("%s is read no further", async (_, announced) => {
    const { sent, chunks } = body(announced);
    const pieces: Uint8Array[] = [];
    const limit = { expiresAt: performance.now() + 60_000 };
    for await (const piece of wholeBody(chunks, limit, options(), () => {})) pieces.push(piece);
    expect(sent.chunks).toBeLessThan(2 * READ_MAX_BYTES);
    expect(pieces).toHaveLength(1);
    // Enough for the library to see that the message is too large.
    expect(pieces[0]?.length).toBeGreaterThan(READ_MAX_BYTES);
  });

  test("of a stream of requests is read no further", async () => {
    const { sent, chunks } = body(READ_MAX_BYTES + 1);
    const pieces: Uint8Array[] = [];
    for await (const piece of wholeMessages(chunks, options())) pieces.push(piece);
    expect(sent.chunks).toBe(0);
    expect(pieces.map(({ length }) => length)).toEqual([8, 5]);
  });
});

describe("lists of requests", () => {
  const places = REQUESTS.flatMap((request) => placesIn(request));
  const unbounded = (all: Place[]) => all.filter(({ field }) => !(maxItems(field) > 0)).map(nameOf);

  test("every repeated and map field of every request says how many items it may have", () => {
    expect(places.length).toBeGreaterThan(20);
    expect(unbounded(places)).toEqual([]);
    // A list without max_items is found, and may have no items.
    expect(unbounded(Kinds.methods.flatMap(({ input }) => placesIn(input)))).toEqual(
      Kinds.methods.map(() => "Kinds.texts"),
    );
  });

  test("a list of enum values may have each of them", () => {
    const lists = places.filter(({ field }) => field.enum !== undefined);
    expect(lists.length).toBeGreaterThan(5);
    for (const place of lists) {
      const values = place.field.enum?.values.filter(({ number }) => number !== 0) ?? [];
      expect(maxItems(place.field), nameOf(place)).toBe(values.length);
    }
  });

  const outcomeOf = (request: DescMessage, message: Message) => {
    try {
      assertWellFormed(request, message);
      return [];
    } catch (error) {
      return error instanceof DomainError ? error.violations.map(({ description }) => description) : [error];
    }
  };

  test.each(places.map((place) => [nameOf(place), place] as const))("%s: one item too many", (_, place) => {
    const max = maxItems(place.field);
    const withItems = (count: number) => {
      const message = create(place.request);
      let at = reflect(place.request, message);
      for (const field of place.above) {
        if (field.fieldKind === "list") {
          const item = reflect(field.message as DescMessage);
          at.get(field as never) as never;
          (at.get(field as never) as unknown as { add(item: unknown): void }).add(item);
          at = item as never;
        } else {
          const inner = reflect(field.message as DescMessage);
          at.set(field as never, inner as never);
          at = at.get(field as never) as never;
        }
      }
      const list = at.get(place.field as never) as unknown as { add(item: unknown): void };
      for (let i = 0; i < count; i++) {
        list.add(
          place.field.message !== undefined
            ? reflect(place.field.message)
            : place.field.enum !== undefined
              ? 99
              : place.field.scalar === ScalarType.BYTES
                ? Uint8Array.of(1)
                : "\u0001",
        );
      }
      return message;
    };
    expect(outcomeOf(place.request, withItems(max + 1))).toEqual([`must not have more than ${max} items`]);
    expect(outcomeOf(place.request, withItems(max))).not.toContain(`must not have more than ${max} items`);
  });
});

describe("values of a message", () => {
  const company = create(CreateEntityRequestSchema, {
    entity: {
      type: EntityType.COMPANY,
      attributes: { a: [1, null, { b: "c" }], d: true },
      entityData: { kind: { case: "company", value: { tradingNames: ["x", "y"] } } },
    },
  });

  test("are the fields at any depth, and items of lists and maps", () => {
    // entity, type, entity_data, company, two names, attributes; two entries with key, value and kind; three items.
    const bytes = toBinary(CreateEntityRequestSchema, company);
    expect(countValues(CreateEntityRequestSchema, bytes, 1_000)).toBe(7 + 2 * 2 + 3 + 2);
    // The same fields twice, one after the other.
    expect(countValues(CreateEntityRequestSchema, Buffer.concat([bytes, bytes]), 1_000)).toBe(32);
    const json = Buffer.from('{"a":[1,null,{"b":"c,:[{\\"","e":"123456"}],"d":-20.5e1}');
    expect(measureJson(json, 1_000)).toEqual({ values: 11, digits: 4 });
  });

  test("a number of JSON with more digits than any needs is refused before it is read", () => {
    const request = (digits: number) => Buffer.from(`{"pageSize":${"9".repeat(digits)},"${" ".repeat(100_000)}":1}`);
    expect(() => assertFewJsonValues(request(1_000))).not.toThrow();
    expect(() => assertFewJsonValues(request(1_001))).toThrow(/a number of more than 1000 digits/);
    const text = (value: string) => Buffer.from(`["${value}","${" ".repeat(100_000)}"]`);
    expect(() => assertFewJsonValues(text(`-${"9".repeat(1_001)}s`))).toThrow(/a number of more than 1000 digits/);
    for (const value of ["9".repeat(1_001), `is ${"9".repeat(1_001)}s`, `${"9".repeat(1_000)}s`]) {
      expect(() => assertFewJsonValues(text(value))).not.toThrow();
    }
    const list = Buffer.from(`[${"123,".repeat(50_000)}1]`);
    expect(() => assertFewJsonValues(list)).not.toThrow();
  });

  test("a field whose tag has another wire type is malformed: the decoder would read it by its declaration, all the same", () => {
    const entity = toBinary(EntitySchema, create(EntitySchema, { attributes: { a: [1, 2, 3], b: { c: "d" } } }));
    // The length as a varint of four bytes, which a decoder that believes the tag skips as a fixed32.
    const length = Buffer.of(0x80 | entity.length, 0x80, 0x80, 0x00);
    const field = CreateEntityRequestSchema.field.entity?.number ?? 0;
    for (const wire of [0, 1, 5]) {
      const bytes = Buffer.concat([Buffer.of((field << 3) | wire), length, entity]);
      expect(Object.keys(fromBinary(CreateEntityRequestSchema, bytes).entity?.attributes ?? {})).toEqual(["a", "b"]);
      expect(countValues(CreateEntityRequestSchema, bytes, 1_000)).toBeUndefined();
    }
  });

  test("packed lists, unknown fields and groups are counted; what is no message is not", () => {
    const count = (hex: string) =>
      countValues(EntityService.method.listEntities.input, Buffer.from(hex.replaceAll(" ", ""), "hex"), 1_000);
    expect(count("12 03 01 02 03")).toBe(4);
    expect(count("1001 1002")).toBe(2);
    expect(count("fa7f 00 fa7f 00")).toBe(2);
    expect(count("a306 0801 12ff7f a406")).toBe(undefined);
    expect(count("a306 0801 1a00 a406")).toBe(4);
    for (const malformed of ["12", "12 05 01", "0f", "a406", "a306", "08 ffffffffffffffffffffff01"]) {
      expect(count(malformed), malformed).toBe(undefined);
    }
  });

  describe("too many are refused before anything is made of them", () => {
    let service: TestService;
    beforeAll(async () => {
      service = await startService();
    });
    afterAll(async () => service[Symbol.asyncDispose]());

    /** Two million empty transactions, in 4 MiB. */
    const empty = Buffer.alloc(4_000_000, Buffer.from([0x0a, 0x00]));
    const text = Buffer.from(`{"transactions":[${Array(1_300_000).fill("{}").join()}]}`);

    test.each([
      ["Connect", { "content-type": "application/proto" }, empty],
      ["Connect, gzip", { "content-type": "application/proto", "content-encoding": "gzip" }, gzipSync(empty)],
      ["Connect, JSON", { "content-type": "application/json" }, text],
      ["Connect, JSON, gzip", { "content-type": "application/json", "content-encoding": "gzip" }, gzipSync(text)],
      ["gRPC-Web", { "content-type": "application/grpc-web+proto" }, envelope(empty)],
      [
        "gRPC-Web, gzip",
        { "content-type": "application/grpc-web+proto", "grpc-encoding": "gzip" },
        envelope(gzipSync(empty), 1),
      ],
      ["gRPC-Web, JSON", { "content-type": "application/grpc-web+json" }, envelope(text)],
    ])("%s", async (_, headers, body) => {
      const answer = await fetch(`${service.baseUrl}/entity.v1.ActivityService/RecordTransactions`, {
        method: "POST",
        headers: { authorization: `Bearer ${service.organization.apiKey}`, ...headers } as Record<string, string>,
        body,
      });
      const said = `${answer.headers.get("grpc-message")} ${await answer.text()}`;
      expect(decodeURIComponent(said)).toContain("holds more than 100000 values");
    });

    test("gRPC", async () => {
      const { activity, entities } = service.client;
      const transactions = Array.from({ length: 120_000 }, () => ({}));
      expect(await refusal(activity.recordTransactions({ transactions }))).toMatchObject({
        reason: "MESSAGE_TOO_LARGE",
        metadata: { limit_values: "100000" },
      });
      const attributes = { a: Array(120_000).fill(null) };
      expect(await refusal(entities.createEntity({ entity: { attributes } }))).toMatchObject({
        reason: "MESSAGE_TOO_LARGE",
      });
    });

    test("a row of an import ends it, after the answers to those before", async () => {
      async function* rows() {
        yield { entity: { externalId: "row-1", name: "A", countryCode: "BR", type: EntityType.PERSON } };
        await new Promise((resolve) => setTimeout(resolve, 200));
        yield { entity: { externalId: "row-2", attributes: { a: Array(120_000).fill(null) } } };
      }
      const answered: bigint[] = [];
      const all = async () => {
        for await (const { results } of service.client.entities.importEntities(rows())) {
          answered.push(...results.map(({ row }) => row));
        }
      };
      expect(await refusal(all())).toMatchObject({ reason: "MESSAGE_TOO_LARGE" });
      expect(answered).toEqual([0n]);
    });
  });
});

describe("errors", () => {
  const REASONS = Object.keys(CODE) as Reason[];
  const LONG = "a".repeat(10_000);
  const worst = (reason: Reason) =>
    new DomainError(
      reason,
      `${LONG}: must not be`,
      {
        field: LONG,
        limit: LONG,
        other: "é".repeat(5_000),
        candidates: Array(LIMITS.candidates).fill(crypto.randomUUID()).join(),
        position: LONG,
      },
      Array.from({ length: 1_000 }, (_, i) => ({ field: `${LONG}[${i}]`, description: "ü".repeat(2_000) })),
    );

  test("every reason of the contract is one of them", () => {
    const names = Object.keys(ErrorReason).filter((name) => Number.isNaN(Number(name)) && name !== "UNSPECIFIED");
    expect([...REASONS].sort()).toEqual(names.sort());
  });

  test.each(REASONS)("%s: its largest stays under 3 kB as trailers and as a value", (reason) => {
    const error = toConnectError(worst(reason));
    const trailers = new Headers();
    setTrailerStatus(trailers, error);
    expect(trailers.get("grpc-status-details-bin")?.length).toBeLessThan(2_500);
    expect([...trailers].reduce((sum, [name, value]) => sum + name.length + value.length, 0)).toBeLessThan(3_000);
    const status = Buffer.from(toBinary(StatusSchema, toStatus(worst(reason)))).toString("base64");
    expect(status.length).toBeLessThan(2_500);
    const [info] = error.findDetails(ErrorInfoSchema);
    const [fields] = error.findDetails(BadRequestSchema);
    expect(info?.reason).toBe(reason);
    // The value is shown whole or not at all.
    expect(info?.metadata.candidates?.split(",")).toHaveLength(LIMITS.candidates);
    expect(info?.metadata.position).toBe(undefined);
    expect(Number(info?.metadata.more_violations) + (fields?.fieldViolations.length ?? 0)).toBe(1_000);
  });

  test("short ones are told whole", () => {
    const violations = [{ field: "entity.name", description: "is required" }];
    const error = toConnectError(
      new DomainError("VALIDATION_ERROR", "entity.name: is required", { field: "entity.name" }, violations),
    );
    expect(error.rawMessage).toBe("entity.name: is required");
    expect(error.findDetails(ErrorInfoSchema)[0]?.metadata).toEqual({ field: "entity.name" });
    expect(error.findDetails(BadRequestSchema)[0]?.fieldViolations).toMatchObject(violations);
  });

  test("very many fields at fault: the first are named, the others counted, and other calls go on", async () => {
    await using service = await startService();
    const { entities, activity } = service.client;
    const transactions = Array.from({ length: 1_000 }, () => ({ amount: "x" }));
    const externalIds = Array(900).fill("\u0001");
    const { violations } = LIMITS;
    const tradingNames = Array(200).fill("");
    const company = { type: EntityType.COMPANY, name: "A", countryCode: "BR" };
    for (const [call, faults] of [
      [() => activity.recordTransactions({ transactions }), 4_000],
      [() => entities.listEntities({ externalIds }), 900],
      [
        () =>
          entities.createEntity({
            entity: { ...company, entityData: { kind: { case: "company", value: { tradingNames } } } },
          }),
        200,
      ],
    ] as const) {
      const beside = entities.listEntities({});
      const { reason, fields, metadata } = await refusal(call());
      expect(reason).toBe("VALIDATION_ERROR");
      expect(fields.length).toBeGreaterThan(5);
      expect(fields.length).toBeLessThanOrEqual(violations);
      expect(Number(metadata.more_violations) + fields.length).toBe(faults);
      await beside;
    }
  });
});
