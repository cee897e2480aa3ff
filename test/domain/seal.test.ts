import { createHash, randomBytes } from "node:crypto";
import canonicalize from "canonicalize";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { columnsOf } from "../../src/db/columns.ts";
import { EntityEventRow } from "../../src/db/schema.ts";
import { canonicalJson, type JsonValue } from "../../src/domain/json.ts";
import { documentsOf, hashOf, NOTHING_BEFORE, type Sealable, sealOf } from "../../src/domain/seal.ts";
import { sealEvents, type UnsealedEvent } from "../../src/log/sealing.ts";

const event: Sealable = {
  organizationId: "00000000-0000-7000-8000-000000000001",
  id: "01a1f948-3d29-7992-b604-a58bd1d3171c",
  entityId: "01a1f948-2ad7-74b2-b54d-0aafbdcd68d8",
  entityVersion: 2,
  entityType: "person",
  type: "ATTRIBUTE_CHANGED",
  externalId: "pos-77",
  externalIds: ["pos-77", "crm-1"],
  updatedFields: ["status", "attributes"],
  previousValues: { status: "pending", attributes: { segment: "point of sale", 10: true } },
  newValues: { status: "blocked", attributes: { segment: "review", 10: true, 9: [1.5, null] } },
  actor: "ana",
  principal: "01a1f948-20a0-7cba-ad8d-2b67c469ea29",
  source: "api",
  reason: "Duplicate of customer-1001",
  requestId: null,
  metadata: {},
  recordedAt: 1_795_183_623_464_011n,
  occurredAt: 1_795_183_623_464_000n,
};
const salt = Buffer.from("000102030405060708090a0b0c0d0e0f", "hex");
const previousHash = Buffer.alloc(32, 0xab);
const hex = (bytes: Buffer) => bytes.toString("hex");
const sha256 = (...parts: (Buffer | string)[]) => {
  const digest = createHash("sha256");
  for (const part of parts) digest.update(part);
  return digest.digest();
};

describe("a seal", () => {
  it("rule 122: is the hashes of exactly the texts that the contract says", () => {
    const { personalHash, hash, ...rest } = sealOf(event, { salt, previousHash });
    expect(rest).toEqual({ salt, previousHash });
    const personal =
      '["pos-77",["pos-77","crm-1"],{"attributes":{"10":true,"segment":"point of sale"},"status":"pending"},' +
      '{"attributes":{"10":true,"9":[1.5,null],"segment":"review"},"status":"blocked"},"Duplicate of customer-1001",{}]';
    expect(hex(personalHash)).toBe(hex(sha256(salt, personal)));
    const all =
      '["entity-event/1","00000000-0000-7000-8000-000000000001","01a1f948-3d29-7992-b604-a58bd1d3171c",' +
      '"01a1f948-2ad7-74b2-b54d-0aafbdcd68d8",2,"person","ATTRIBUTE_CHANGED",["status","attributes"],"ana",' +
      '"01a1f948-20a0-7cba-ad8d-2b67c469ea29","api",null,"2026-11-20T14:07:03.464011Z","2026-11-20T14:07:03.464Z",' +
      `"${hex(personalHash)}"]`;
    expect(hex(hash)).toBe(hex(sha256(previousHash, all)));
  });

  it("rule 122: of an event that was sealed once is the same for ever", () => {
    const { personalHash, hash } = sealOf(event, { salt, previousHash });
    expect([hex(personalHash), hex(hash)]).toEqual([
      "46667d812d0b6578d7dcd8b517ecb4ca650acaa94a4c24fb37a48902772a57f7",
      "3d93dd3d1e21e1938a47639362082e60158be97f943b3fbdab91c007cbdf5ae7",
    ]);
  });

  const other: { [Field in keyof Sealable]: Sealable[Field] } = {
    organizationId: "00000000-0000-7000-8000-000000000002",
    id: "01a1f948-3d29-7992-b604-a58bd1d3171d",
    entityId: "01a1f948-2ad7-74b2-b54d-0aafbdcd68d9",
    entityVersion: 3,
    entityType: "company",
    type: "CREATED",
    externalId: null,
    externalIds: ["crm-1", "pos-77"],
    updatedFields: ["attributes", "status"],
    previousValues: { ...event.previousValues, status: "Pending" },
    newValues: { ...event.newValues, name: null },
    actor: "eva",
    principal: "01a1f948-20a0-7cba-ad8d-2b67c469ea28",
    source: "API",
    reason: null,
    requestId: "01a1f948-20a0-7cba-ad8d-2b67c469ea29",
    metadata: { rewrittenRows: 0 },
    recordedAt: event.recordedAt + 1n,
    occurredAt: null,
  };

  it.each(Object.keys(other) as (keyof Sealable)[])("rules 122, 123: is another where %s is another", (field) => {
    const { hash } = sealOf(event, { salt, previousHash });
    const changed = sealOf({ ...event, [field]: other[field] }, { salt, previousHash });
    expect(hex(changed.hash)).not.toBe(hex(hash));
  });

  it("rule 123: covers every column of the log but those that the database writes by itself", () => {
    const columns = columnsOf(EntityEventRow).map(({ property }) => property);
    const seal = Object.keys(sealOf(event, { salt, previousHash }));
    const own = ["xid", "epoch"];
    expect(columns.toSorted()).toEqual([...Object.keys(event), ...seal, ...own].sort());
  });

  it("rule 122: hangs on the hash before, on the salt, and on where one value ends and the next begins", () => {
    const of = (given: Sealable, how: { salt: Buffer; previousHash: Buffer } = { salt, previousHash }) =>
      hex(sealOf(given, how).hash);
    const all = [
      of(event),
      of(event, { salt, previousHash: NOTHING_BEFORE }),
      of(event, { salt: Buffer.alloc(16), previousHash }),
      of({ ...event, actor: 'ana","x', principal: "y" }),
      of({ ...event, actor: "ana", principal: 'x","y' }),
      of({ ...event, reason: "null" }),
      of({ ...event, reason: null }),
      of({ ...event, externalId: "", externalIds: [] }),
      of({ ...event, externalId: null, externalIds: [] }),
    ];
    expect(new Set(all).size).toBe(all.length);
  });

  it("rule 122: can be checked of an event whose personal values were erased", () => {
    const seal = sealOf(event, { salt, previousHash });
    const { externalId: _, externalIds: __, previousValues, newValues, reason, metadata, ...kept } = event;
    expect(hashOf(kept, seal)).toEqual(seal.hash);
    expect([previousValues, newValues, reason, metadata]).not.toContain(undefined);
  });
});

describe("a chain", () => {
  const unsealed = (entityId: string, entityVersion: number) =>
    ({ ...event, entityId, entityVersion }) as UnsealedEvent;

  it("rule 125: of several entities in one transaction has each event behind the one before of its own entity", () => {
    const head = randomBytes(32);
    const heads = new Map([["b", head]]);
    const sealed = sealEvents(
      [unsealed("a", 1), unsealed("b", 7), unsealed("a", 2), unsealed("b", 8), unsealed("a", 3)],
      heads,
    );
    const [a1, b7, a2, b8, a3] = sealed;
    expect(sealed.map(({ previousHash: before }) => before)).toEqual([
      NOTHING_BEFORE,
      head,
      a1?.hash,
      b7?.hash,
      a2?.hash,
    ]);
    expect([...heads]).toEqual([
      ["b", b8?.hash],
      ["a", a3?.hash],
    ]);
  });

  it("rule 122: no two events have one salt, however many are sealed before the first is sent", () => {
    const events = Array.from({ length: 1_000 }, (_, i) => unsealed("a", i + 1));
    const sealed = sealEvents(events, new Map());
    expect(new Set(sealed.map(({ salt: bytes }) => hex(bytes))).size).toBe(1_000);
    for (const one of sealed) expect(one.salt).toHaveLength(16);
    // Whole too once all are made: no salt was written over by a later one.
    sealed.forEach((one, i) => {
      const { hash } = sealOf(events[i] as UnsealedEvent, { salt: one.salt, previousHash: one.previousHash });
      expect(hash).toEqual(one.hash);
    });
  });
});

describe("the form of RFC 8785", () => {
  const text = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.string({ unit: fc.constantFrom('"', "\\", "\n", "\u0001", "\u007f", "\u2028", "é", "€", "😀", "\ufb33", "/") }),
  );
  const number = fc.oneof(
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.constantFrom(-0, 1e21, 1e-7, 5e-324, 1.7976931348623157e308, 333333333.3333333, 2 ** 53 - 1, 0.1 + 0.2),
    fc.integer(),
  );
  const key = fc.oneof(
    text,
    fc.constantFrom(
      "__proto__",
      "constructor",
      "toString",
      "length",
      "0",
      "1",
      "10",
      "9",
      "-1",
      "1.5",
      "é",
      "e\u0301",
      "\u20ac",
      "\ud83d\ude00",
      "\ufb33",
    ),
  );
  const { value } = fc.letrec<{ value: JsonValue }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 5 },
      fc.constantFrom(null, true, false),
      text,
      number,
      fc.array(tie("value"), { maxLength: 6 }),
      fc.array(fc.tuple(key, tie("value")), { maxLength: 20 }).map((entries) => Object.fromEntries(entries)),
    ),
  }));

  it("rule 124: is the library's, byte for byte, of whatever JSON", () => {
    fc.assert(
      fc.property(value, (given) => {
        expect(canonicalJson(given)).toBe(canonicalize(given));
      }),
      { numRuns: 3_000 },
    );
  });

  it("rule 124: is that of the RFC's own example", () => {
    const given = JSON.parse(`{
      "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\\u20ac$\\u000F\\u000aA'\\u0042\\u0022\\u005c\\\\\\"\\/",
      "literals": [null, true, false]
    }`);
    expect(canonicalJson(given)).toBe(
      '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}',
    );
    const keys = { "\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\ud83d\ude00": 5, "\u0080": 6, "\u00f6": 7 };
    expect(canonicalJson(keys)).toBe('{"\\r":2,"1":4,"\u0080":6,"ö":7,"€":1,"😀":5,"\ufb33":3}');
  });

  it("rule 124: sorts keys however many there are", () => {
    for (const count of [1, 2, 12, 13, 200]) {
      const entries = Array.from({ length: count }, (_, i) => [`k${(i * 7919) % count}`, i] as const);
      const given = Object.fromEntries(entries);
      expect(canonicalJson(given)).toBe(canonicalize(given));
    }
  });

  it("rule 124: documents are sealed in it", () => {
    const { previousValues, newValues, metadata } = documentsOf(event);
    expect([previousValues.text, newValues.text, metadata.text]).toEqual(
      [event.previousValues, event.newValues, event.metadata].map((one) => canonicalize(one)),
    );
  });
});
