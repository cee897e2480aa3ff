// Rules 49, 50 and 72a: transactions and user events, and the copies of external ids in them.
import type { Message, MessageInitShape } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  Designation,
  RecordOutcome,
  type TransactionSchema,
  type UserEventSchema,
} from "../clients/typescript/index.ts";
import { byExternalId, byId, byTaxId, current, lastEventOf, newPerson, unique } from "./given.ts";
import { refusal, startService, type TestService } from "./harness.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

type TransactionInit = Exclude<MessageInitShape<typeof TransactionSchema>, Message>;
type UserEventInit = Exclude<MessageInitShape<typeof UserEventSchema>, Message>;
const AT = { seconds: 1_760_000_000n, nanos: 123_456_000 };
const payment = (fields: TransactionInit = {}): TransactionInit => ({
  type: "payment",
  amount: "1250.00",
  currency: "BRL",
  transactedAt: { ...AT },
  ...fields,
});
const login = (fields: UserEventInit): UserEventInit => ({ eventType: "login", occurredAt: { ...AT }, ...fields });
const record = async (...transactions: TransactionInit[]) =>
  (await service.client.activity.recordTransactions({ transactions })).results;
const recordEvents = async (...userEvents: UserEventInit[]) =>
  (await service.client.activity.recordUserEvents({ userEvents })).userEvents;
const transactionsOf = async (entity: { id: string }) =>
  (await service.client.activity.listTransactions({ lookup: byId(entity), pageSize: 1000 })).transactions;
const userEventsOf = async (entity: { id: string }) =>
  (await service.client.activity.listUserEvents({ lookup: byId(entity), pageSize: 1000 })).userEvents;
const change = (entity: { id: string }, newExternalId: string, keepPreviousAsAlias = false) =>
  service.client.entities.changeExternalId({
    lookup: byId(entity),
    newExternalId,
    reason: "migration",
    keepPreviousAsAlias,
  });

async function storedRows(): Promise<number> {
  const [row] = await service.sql<{ n: string }>(
    "select (select count(*) from transaction) + (select count(*) from user_event) as n",
  );
  return Number(row?.n);
}

/** A refused call stores nothing. */
async function refusedWithoutRow(call: () => Promise<unknown>) {
  const before = await storedRows();
  const refused = await refusal(call());
  expect(await storedRows()).toBe(before);
  return refused;
}

describe("RecordTransactions", () => {
  it("rule 72a: takes parties by all three keys, stores the id and the current primary, and answers them", async () => {
    const person = await newPerson(service.client, { externalId: unique("p"), taxId: unique("t") });
    const alias = unique("alias");
    await service.client.entities.addExternalIds({ lookup: byId(person), externalIds: [{ externalId: alias }] });
    const parties = [
      { entityId: person.id.toUpperCase() },
      { externalId: person.externalId },
      { externalId: ` ${alias} ` },
      { taxId: ` ${person.taxId?.toUpperCase()}. ` },
    ];
    const results = await record(
      ...parties.map((origin) => payment({ origin })),
      ...parties.map((destination) => payment({ destination })),
    );
    for (const [i, { transaction, outcome }] of results.entries()) {
      expect(outcome).toBe(RecordOutcome.CREATED);
      expect(transaction?.id).toMatch(/^[0-9a-f-]{36}$/);
      const side = i < 4 ? transaction?.origin : transaction?.destination;
      expect(side).toMatchObject({
        entityId: person.id,
        externalId: person.externalId,
        taxId: "",
        name: "",
        country: "",
      });
      expect(i < 4 ? transaction?.destination : transaction?.origin).toBeUndefined();
    }
    const listed = await transactionsOf(person);
    expect(listed).toHaveLength(8);
    expect(listed.map((row) => row.id).sort()).toEqual(results.map((result) => result.transaction?.id).sort());
  });

  it("rule 72a: a counterparty outside the system keeps its name and country and becomes no entity", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const [{ n: before } = { n: "" }] = await service.sql<{ n: string }>("select count(*) as n from entity");
    const [result] = await record(
      payment({ origin: { externalId: person.externalId }, destination: { name: "ACME Ltda", country: "uy" } }),
    );
    expect(result?.transaction?.destination).toMatchObject({
      entityId: "",
      externalId: "",
      name: "ACME Ltda",
      country: "UY",
    });
    const [listed] = await transactionsOf(person);
    expect(listed).toEqual(result?.transaction);
    expect(await service.sql("select count(*) as n from entity")).toEqual([{ n: before }]);
  });

  it("rule 72a: both sides may be outside", async () => {
    const [result] = await record(payment({ origin: { name: "A" }, destination: { name: "B", country: "AR" } }));
    expect(result?.outcome).toBe(RecordOutcome.CREATED);
  });

  it("rule 72a: a name and a country beside a key are kept as the caller's words", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const [result] = await record(payment({ origin: { entityId: person.id, name: "Anita", country: "ar" } }));
    expect(result?.transaction?.origin).toMatchObject({
      entityId: person.id,
      externalId: person.externalId,
      name: "Anita",
      country: "AR",
    });
    expect((await current(service.client, person)).name).toBe("Ana Souza");
  });

  it.each(["origin", "destination"] as const)(
    "rule 72a: an unknown %s refuses the whole list with its index, by every key",
    async (side) => {
      const person = await newPerson(service.client, { externalId: unique("p") });
      const other = await newPerson((await service.newOrganization()).client, {
        externalId: unique("elsewhere"),
        taxId: unique("t"),
      });
      const unknown = [
        { entityId: "00000000-0000-7000-8000-000000000000" },
        { entityId: other.id },
        { externalId: unique("nobody") },
        { externalId: other.externalId },
        { taxId: other.taxId ?? "" },
      ];
      for (const party of unknown) {
        const call = () =>
          record(
            payment({ origin: { entityId: person.id } }),
            payment({ [side]: party }),
            payment({ externalId: unique("x") }),
          );
        const refused = await refusedWithoutRow(call);
        expect(refused).toMatchObject({ code: 5, reason: "NOT_FOUND", metadata: { index: "1" } });
        expect(refused.metadata.field).toMatch(new RegExp(`^transactions\\[1\\]\\.${side}`));
      }
    },
  );

  it("rule 72a: the sides of one row are told apart, and the first row at fault is named", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const call = () =>
      record(
        payment({ origin: { entityId: person.id } }),
        payment({ origin: { entityId: person.id }, destination: { externalId: unique("nobody") } }),
        payment({ origin: { externalId: unique("nobody") } }),
      );
    expect((await refusedWithoutRow(call)).metadata).toMatchObject({
      index: "1",
      field: "transactions[1].destination",
    });
  });

  it("rules 10, 72a: an ambiguous tax id refuses the list, with the index and the candidates", async () => {
    const taxId = unique("tax");
    const [one, two] = [await newPerson(service.client, { taxId }), await newPerson(service.client, { taxId })];
    const refused = await refusedWithoutRow(() => record(payment({}), payment({ origin: { taxId } })));
    expect(refused).toMatchObject({ code: 9, reason: "AMBIGUOUS_TAX_ID_LOOKUP", metadata: { index: "1" } });
    expect(refused.metadata.candidates?.split(",").sort()).toEqual([one.id, two.id].sort());
    expect(refused.message).not.toContain(taxId);
  });

  it("rules 72a, 77: a deleted party is ENTITY_DELETED with its index; by tax id it is NOT_FOUND", async () => {
    const gone = await newPerson(service.client, { externalId: unique("gone"), taxId: unique("t") });
    await service.client.entities.deleteEntity({ lookup: byId(gone), reason: "customer left" });
    for (const origin of [{ entityId: gone.id }, { externalId: gone.externalId }]) {
      const refused = await refusedWithoutRow(() => record(payment({}), payment({ origin })));
      expect(refused).toMatchObject({
        code: 9,
        reason: "ENTITY_DELETED",
        metadata: { index: "1", entity_id: gone.id },
      });
    }
    expect(await refusedWithoutRow(() => record(payment({ origin: { taxId: gone.taxId ?? "" } })))).toMatchObject({
      reason: "NOT_FOUND",
    });
  });

  it("rules 1, 4, 72a: two keys, a blank one and a malformed id are refused with the path of the item", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const two = await refusedWithoutRow(() =>
      record(payment({}), payment({ origin: { entityId: person.id, externalId: person.externalId } })),
    );
    expect(two).toMatchObject({ reason: "INVALID_LOOKUP", fields: ["transactions[1].origin"] });
    for (const [origin, field] of [
      [{ externalId: "  " }, "transactions[1].origin.external_id"],
      [{ taxId: "--" }, "transactions[1].origin.tax_id"],
      [{ entityId: " " }, "transactions[1].origin.entity_id"],
    ] as const) {
      expect(await refusedWithoutRow(() => record(payment({}), payment({ origin })))).toMatchObject({
        reason: "INVALID_LOOKUP",
        fields: [field],
      });
    }
    expect(await refusedWithoutRow(() => record(payment({ origin: { entityId: "42" } })))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["transactions[0].origin.entity_id"],
    });
  });

  it("rule 72a: required and malformed fields are VALIDATION_ERROR, all at once, with their paths", async () => {
    const refused = await refusedWithoutRow(() =>
      record({}, payment({ amount: "1,5", currency: "REAL", origin: { country: "BRA" } })),
    );
    expect(refused).toMatchObject({ code: 3, reason: "VALIDATION_ERROR" });
    expect(refused.fields.toSorted()).toEqual(
      [
        "transactions[0].amount",
        "transactions[0].currency",
        "transactions[0].transacted_at",
        "transactions[0].type",
        "transactions[1].amount",
        "transactions[1].currency",
        "transactions[1].origin.country",
      ].sort(),
    );
  });

  it.each([
    "0",
    "007",
    "-0.5",
    "0.10",
    "1250.00",
    "99999999999999999999.9999999999",
    "-99999999999999999999",
    "100.1000000000",
    "0.0000000001",
  ])("rule 72a: the amount %s is kept as sent", async (amount) => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const [result] = await record(payment({ amount, origin: { entityId: person.id } }));
    expect(result?.transaction?.amount).toBe(amount);
    expect((await transactionsOf(person))[0]?.amount).toBe(amount);
  });

  it.each([
    "",
    " ",
    "1.",
    ".5",
    "1e3",
    "NaN",
    "Infinity",
    "0x10",
    "1 000",
    "1,000.00",
    "--1",
    "+-1",
    "١٢",
    "1.00000000001",
    "100000000000000000000",
    "1\n",
  ])("rule 72a: the amount %j is VALIDATION_ERROR", async (amount) => {
    expect(await refusedWithoutRow(() => record(payment({ amount })))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["transactions[0].amount"],
    });
  });

  it("rule 72a: an amount may have a plus sign, as the contract says an optional sign", async () => {
    const [result] = await record(payment({ amount: "+5.00" }));
    expect(result?.transaction?.amount).toBe("+5.00");
  });

  it("contract: an empty list and one over 1000 are VALIDATION_ERROR; 1000 are stored together", async () => {
    expect(await refusal(service.client.activity.recordTransactions({}))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["transactions"],
    });
    const person = await newPerson(service.client, { externalId: unique("p") });
    const many = (count: number) =>
      Array.from({ length: count }, (_, i) => payment({ origin: { entityId: person.id }, amount: String(i) }));
    expect(await refusedWithoutRow(() => record(...many(1001)))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["transactions"],
    });
    const results = await record(...many(1000));
    expect(results.map((result) => result.transaction?.amount)).toEqual(many(1000).map((item) => item.amount));
    expect(await transactionsOf(person)).toHaveLength(1000);
  });

  it("contract: all fields are answered as stored: trimmed id, currency in upper case, microseconds, details", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const externalId = unique("t");
    const [result] = await record(
      payment({
        externalId: ` ${externalId} `,
        status: "settled",
        currency: "brl",
        origin: { entityId: person.id },
        transactedAt: { seconds: -5n, nanos: 123_456_789 },
        details: { channel: "pix", nested: { __proto__: 1, list: [1, null, "x"] } },
      }),
    );
    expect(result?.transaction).toMatchObject({
      externalId,
      type: "payment",
      status: "settled",
      currency: "BRL",
      transactedAt: { seconds: -5n, nanos: 123_456_000 },
      details: { channel: "pix", nested: { list: [1, null, "x"] } },
    });
    expect((await transactionsOf(person))[0]).toEqual(result?.transaction);
  });

  it("rule 38: validate_only answers what would be and stores nothing, and refuses what would be refused", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const before = await storedRows();
    const { results } = await service.client.activity.recordTransactions({
      transactions: [payment({ externalId: unique("t"), origin: { entityId: person.id } })],
      validateOnly: true,
    });
    expect(results[0]).toMatchObject({
      outcome: RecordOutcome.CREATED,
      transaction: { origin: { externalId: person.externalId } },
    });
    expect(await storedRows()).toBe(before);
    const bad = service.client.activity.recordTransactions({
      transactions: [payment({ origin: { externalId: unique("no") } })],
      validateOnly: true,
    });
    expect(await refusal(bad)).toMatchObject({ reason: "NOT_FOUND" });
  });

  it("rule 72a: one entity on both sides is one transaction of it", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    await record(payment({ origin: { entityId: person.id }, destination: { externalId: person.externalId } }));
    const listed = await transactionsOf(person);
    expect(listed).toHaveLength(1);
    expect(listed[0]).toMatchObject({
      origin: { entityId: person.id },
      destination: { entityId: person.id, externalId: person.externalId },
    });
  });

  it("rules 25, 60: recording writes no event and does not touch the entity", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    await record(payment({ origin: { entityId: person.id } }));
    await recordEvents(login({ entityId: person.id }));
    expect(await current(service.client, person)).toEqual(person);
    expect((await lastEventOf(service.client, person)).entityVersion).toBe(1n);
  });
});

describe("a transaction's own external_id", () => {
  it("rule 72a: the same again is UNCHANGED and answers the stored one", async () => {
    const person = await newPerson(service.client, { externalId: unique("p"), taxId: unique("t") });
    const item = payment({ externalId: unique("t"), origin: { entityId: person.id }, details: { a: 1, b: [2] } });
    const [first] = await record(item);
    const [again] = await record(item);
    expect(again).toMatchObject({ outcome: RecordOutcome.UNCHANGED });
    expect(again?.transaction).toEqual(first?.transaction);
    expect(await transactionsOf(person)).toHaveLength(1);
  });

  it("rule 72a: equal content is equal whichever key names the party, in whatever order the details come", async () => {
    const person = await newPerson(service.client, { externalId: unique("p"), taxId: unique("t") });
    const item = (origin: object, details: TransactionInit["details"], currency = "BRL") =>
      payment({ externalId: id, origin, currency, ...(details && { details }) });
    const id = unique("t");
    const [first] = await record(item({ entityId: person.id }, { a: 1, b: { c: 2, d: 3 } }));
    for (const origin of [{ externalId: person.externalId }, { taxId: person.taxId ?? "" }]) {
      const [again] = await record(item(origin, { b: { d: 3, c: 2 }, a: 1 }, "brl"));
      expect(again).toMatchObject({ outcome: RecordOutcome.UNCHANGED, transaction: { id: first?.transaction?.id } });
    }
  });

  it("rule 72a: the same again after the external id changed is UNCHANGED, with the current copy", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const item = payment({ externalId: unique("t"), origin: { entityId: person.id } });
    await record(item);
    const next = unique("q");
    await change(person, next);
    const [again] = await record(item);
    expect(again).toMatchObject({ outcome: RecordOutcome.UNCHANGED, transaction: { origin: { externalId: next } } });
  });

  it("rule 72a: every other content is VALIDATION_ERROR and stores nothing of the list", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const other = await newPerson(service.client, { externalId: unique("o") });
    const item = payment({
      externalId: unique("t"),
      status: "open",
      origin: { entityId: person.id, name: "A", country: "BR" },
      destination: { name: "B", country: "BR" },
      details: { a: 1 },
    });
    const [first] = await record(item);
    const changes: TransactionInit[] = [
      { type: "refund" },
      { status: "closed" },
      { status: "" },
      { amount: "1250.0" },
      { amount: "1250" },
      { currency: "USD" },
      { origin: { entityId: other.id, name: "A", country: "BR" } },
      { origin: { name: "A", country: "BR" } },
      { origin: { entityId: person.id, name: "Z", country: "BR" } },
      { origin: { entityId: person.id, name: "A", country: "AR" } },
      { destination: { entityId: person.id, name: "B", country: "BR" } },
      { destination: { name: "B" } },
      { transactedAt: { seconds: AT.seconds, nanos: AT.nanos + 1000 } },
      { details: { a: 2 } },
      { details: { a: "1" } },
      { details: {} },
    ];
    for (const fields of changes) {
      const refused = await refusedWithoutRow(() => record(payment({}), { ...item, ...fields }));
      expect(refused, JSON.stringify(Object.keys(fields))).toMatchObject({
        code: 3,
        reason: "VALIDATION_ERROR",
        fields: ["transactions[1].external_id"],
        metadata: { index: "1" },
      });
    }
    expect(await transactionsOf(person)).toEqual([first?.transaction]);
  });

  it("rule 72a: new rows beside unchanged ones are stored, in request order", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const item = (id: string) => payment({ externalId: id, origin: { entityId: person.id } });
    const [a, b, c] = [unique("z"), unique("m"), unique("a")];
    await record(item(b));
    const results = await record(item(a), item(b), item(c), payment({ origin: { entityId: person.id } }));
    expect(results.map((result) => [result.transaction?.externalId, result.outcome])).toEqual([
      [a, RecordOutcome.CREATED],
      [b, RecordOutcome.UNCHANGED],
      [c, RecordOutcome.CREATED],
      ["", RecordOutcome.CREATED],
    ]);
    expect(await transactionsOf(person)).toHaveLength(4);
  });

  it("rule 72a: twice in one list, trimmed, is VALIDATION_ERROR", async () => {
    const id = unique("t");
    expect(
      await refusedWithoutRow(() =>
        record(payment({ externalId: id }), payment({}), payment({ externalId: ` ${id}` })),
      ),
    ).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["transactions[2].external_id"],
    });
  });

  it("rules 2, 72a: is unique per organization, and no external id of an entity", async () => {
    const other = await service.newOrganization();
    const person = await newPerson(service.client, { externalId: unique("p") });
    const item = payment({ externalId: person.externalId });
    const [here] = await record(item);
    const there = await other.client.activity.recordTransactions({ transactions: [item] });
    expect([here?.outcome, there.results[0]?.outcome]).toEqual([RecordOutcome.CREATED, RecordOutcome.CREATED]);
    expect(await transactionsOf(person)).toEqual([]);
  });

  it("rule 72a: transactions without one may be equal, and are all stored", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const item = payment({ origin: { entityId: person.id } });
    await record(item, item);
    await record(item);
    expect(await transactionsOf(person)).toHaveLength(3);
  });

  it("rule 44: is 1 to 255 code points without control characters", async () => {
    for (const externalId of ["x".repeat(256), "a\u0000b", "a\nb"]) {
      expect(await refusedWithoutRow(() => record(payment({ externalId })))).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["transactions[0].external_id"],
      });
    }
  });
});

describe("RecordUserEvents", () => {
  it("takes the entity by all three keys, answers the id and the current primary", async () => {
    const person = await newPerson(service.client, { externalId: unique("p"), taxId: unique("t") });
    const alias = unique("alias");
    await service.client.entities.addExternalIds({ lookup: byId(person), externalIds: [{ externalId: alias }] });
    const events = await recordEvents(
      login({ entityId: person.id, payload: { ip: "10.0.0.1" } }),
      login({ entityExternalId: ` ${person.externalId} ` }),
      login({ entityExternalId: alias }),
      login({ taxId: person.taxId ?? "" }),
    );
    for (const event of events) {
      expect(event).toMatchObject({
        entityId: person.id,
        entityExternalId: person.externalId,
        taxId: "",
        eventType: "login",
        occurredAt: AT,
      });
    }
    expect(events[0]?.payload).toEqual({ ip: "10.0.0.1" });
    expect((await userEventsOf(person)).map((event) => event.id).sort()).toEqual(
      events.map((event) => event.id).sort(),
    );
  });

  it("refuses the whole list with the index of an unknown, an ambiguous and a deleted entity", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const gone = await newPerson(service.client, { externalId: unique("gone") });
    await service.client.entities.deleteEntity({ lookup: byId(gone), reason: "customer left" });
    const taxId = unique("tax");
    await newPerson(service.client, { taxId });
    await newPerson(service.client, { taxId });
    for (const [fields, reason] of [
      [{ entityExternalId: unique("nobody") }, "NOT_FOUND"],
      [{ entityId: "00000000-0000-7000-8000-000000000000" }, "NOT_FOUND"],
      [{ taxId }, "AMBIGUOUS_TAX_ID_LOOKUP"],
      [{ entityExternalId: gone.externalId }, "ENTITY_DELETED"],
    ] as const) {
      const refused = await refusedWithoutRow(() => recordEvents(login({ entityId: person.id }), login(fields)));
      expect(refused).toMatchObject({ reason, metadata: { index: "1" } });
      expect(refused.metadata.field).toMatch(/^user_events\[1\]/);
    }
  });

  it("rules 1, 13: none, two and a blank key are INVALID_LOOKUP by the names of the message's fields", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    for (const [fields, field] of [
      [{}, "user_events[1]"],
      [{ entityId: person.id, taxId: "1" }, "user_events[1]"],
      [{ entityExternalId: " " }, "user_events[1].entity_external_id"],
      [{ entityId: " " }, "user_events[1].entity_id"],
      [{ taxId: "-" }, "user_events[1].tax_id"],
    ] as const) {
      expect(await refusedWithoutRow(() => recordEvents(login({ entityId: person.id }), login(fields)))).toMatchObject({
        reason: "INVALID_LOOKUP",
        fields: [field],
      });
    }
    expect(await refusedWithoutRow(() => recordEvents(login({ entityExternalId: "x".repeat(256) })))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["user_events[0].entity_external_id"],
    });
  });

  it("rule 73: required fields, and an empty list, are VALIDATION_ERROR", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    expect(await refusal(service.client.activity.recordUserEvents({}))).toMatchObject({ fields: ["user_events"] });
    expect(
      await refusedWithoutRow(() =>
        recordEvents({ entityId: person.id }, login({ entityId: person.id, eventType: " " })),
      ),
    ).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["user_events[0].event_type", "user_events[0].occurred_at", "user_events[1].event_type"],
    });
  });

  it("rule 38: validate_only stores nothing", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const before = await storedRows();
    const { userEvents } = await service.client.activity.recordUserEvents({
      userEvents: [login({ entityId: person.id })],
      validateOnly: true,
    });
    expect(userEvents[0]).toMatchObject({ entityExternalId: person.externalId });
    expect(await storedRows()).toBe(before);
  });
});

describe("ListTransactions and ListUserEvents", () => {
  it("page newest first by the caller's time, equal times included, none twice and none lost", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const other = await newPerson(service.client, { externalId: unique("o") });
    const seconds = [5n, 3n, 3n, 9n, 3n, 1n, 9n];
    await record(
      ...seconds.map((at, i) =>
        payment({
          [i % 2 === 0 ? "origin" : "destination"]: { entityId: person.id },
          [i % 2 === 0 ? "destination" : "origin"]: { entityId: other.id },
          transactedAt: { seconds: at },
        }),
      ),
    );
    await recordEvents(...seconds.map((at) => login({ entityId: person.id, occurredAt: { seconds: at } })));
    const all = await transactionsOf(person);
    expect(all.map((row) => row.transactedAt?.seconds)).toEqual([9n, 9n, 5n, 3n, 3n, 3n, 1n]);
    expect((await userEventsOf(person)).map((row) => row.occurredAt?.seconds)).toEqual([9n, 9n, 5n, 3n, 3n, 3n, 1n]);
    for (const pageSize of [1, 2, 3, 6, 7]) {
      const found: string[] = [];
      let pageToken = "";
      do {
        const page = await service.client.activity.listTransactions({ lookup: byId(person), pageSize, pageToken });
        found.push(...page.transactions.map((row) => row.id));
        pageToken = page.nextPageToken;
      } while (pageToken !== "");
      expect(found).toEqual(all.map((row) => row.id));
      const events: string[] = [];
      do {
        const page = await service.client.activity.listUserEvents({ lookup: byId(person), pageSize, pageToken });
        events.push(...page.userEvents.map((row) => row.id));
        pageToken = page.nextPageToken;
      } while (pageToken !== "");
      expect(events).toEqual((await userEventsOf(person)).map((row) => row.id));
    }
  });

  it("rule 76: negative sizes and foreign tokens are VALIDATION_ERROR", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const other = await newPerson(service.client, { externalId: unique("o") });
    await record(payment({ origin: { entityId: person.id } }), payment({ origin: { entityId: person.id } }));
    const { nextPageToken } = await service.client.activity.listTransactions({ lookup: byId(person), pageSize: 1 });
    const { listTransactions, listUserEvents } = service.client.activity;
    for (const call of [
      () => listTransactions({ lookup: byId(person), pageSize: -1 }),
      () => listUserEvents({ lookup: byId(person), pageSize: -1 }),
      () => listTransactions({ lookup: byId(other), pageToken: nextPageToken }),
      () => listUserEvents({ lookup: byId(person), pageToken: nextPageToken }),
      () => listTransactions({ lookup: byId(person), pageToken: "nonsense" }),
    ]) {
      expect(await refusal(call())).toMatchObject({ reason: "VALIDATION_ERROR" });
    }
  });

  it("rules 1, 3, 10: take the three lookups and refuse like every RPC; a deleted entity's rows are still there", async () => {
    const person = await newPerson(service.client, { externalId: unique("p"), taxId: unique("t") });
    await record(payment({ origin: { entityId: person.id } }));
    await recordEvents(login({ entityId: person.id }));
    for (const lookup of [byId(person), byExternalId(person.externalId), byTaxId(person.taxId ?? "")]) {
      expect((await service.client.activity.listTransactions({ lookup })).transactions).toHaveLength(1);
      expect((await service.client.activity.listUserEvents({ lookup })).userEvents).toHaveLength(1);
    }
    const other = await service.newOrganization();
    expect(await refusal(other.client.activity.listTransactions({ lookup: byId(person) }))).toMatchObject({
      reason: "NOT_FOUND",
      message: "Entity not found",
    });
    expect(await refusal(service.client.activity.listTransactions({}))).toMatchObject({ reason: "INVALID_LOOKUP" });
    expect(await refusal(service.client.activity.listUserEvents({ lookup: byId({ id: "x" }) }))).toMatchObject({
      reason: "VALIDATION_ERROR",
    });
    await service.client.entities.deleteEntity({ lookup: byId(person), reason: "customer left" });
    expect(await transactionsOf(person)).toHaveLength(1);
  });
});

describe("the copies of an external id", () => {
  it("rule 49: are rewritten on both columns, also on one row, and in user events; the event counts the rows", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const other = await newPerson(service.client, { externalId: unique("o") });
    const own = unique("t");
    await record(
      payment({ origin: { entityId: person.id }, destination: { entityId: other.id } }),
      payment({ origin: { entityId: other.id }, destination: { entityId: person.id } }),
      payment({ origin: { entityId: person.id }, destination: { entityId: person.id } }),
      payment({ externalId: own, origin: { entityId: other.id } }),
    );
    await recordEvents(
      login({ entityId: person.id }),
      login({ entityExternalId: person.externalId }),
      login({ entityId: other.id }),
    );
    const next = unique("q");
    await change(person, next);
    const stored = await service.sql(
      `select origin_external_id, destination_external_id from transaction
       where origin_entity_id = any($1::uuid[]) or destination_entity_id = any($1::uuid[])`,
      [[person.id, other.id]],
    );
    expect(stored.map((row) => [row.origin_external_id, row.destination_external_id]).sort()).toEqual(
      [
        [next, other.externalId],
        [other.externalId, next],
        [next, next],
        [other.externalId, null],
      ].sort(),
    );
    expect(
      await service.sql("select distinct entity_external_id as id from user_event where entity_id = $1", [person.id]),
    ).toEqual([{ id: next }]);
    for (const row of await transactionsOf(person)) {
      for (const side of [row.origin, row.destination]) {
        expect(side?.externalId).toBe(side?.entityId === person.id ? next : other.externalId);
      }
    }
    expect((await lastEventOf(service.client, person)).metadata).toMatchObject({
      rewrittenRows: { transactions: 3, userEvents: 2 },
    });
    expect((await userEventsOf(other)).map((event) => event.entityExternalId)).toEqual([other.externalId]);
  });

  it("rule 49: a transaction's own external_id that equals the old value is no reference and stays", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    await record(payment({ externalId: person.externalId, origin: { entityId: person.id } }));
    await change(person, unique("q"));
    expect((await transactionsOf(person))[0]?.externalId).toBe(person.externalId);
  });

  it("rule 49: only exact matches, only of this organization", async () => {
    const old = unique("p");
    const person = await newPerson(service.client, { externalId: old });
    const near = [`${old} `.trim().toUpperCase(), `${old}1`, `x${old}`];
    const neighbours = [];
    for (const externalId of near) neighbours.push(await newPerson(service.client, { externalId }));
    const other = await service.newOrganization();
    const there = await newPerson(other.client, { externalId: old });
    await other.client.activity.recordTransactions({ transactions: [payment({ origin: { entityId: there.id } })] });
    await other.client.activity.recordUserEvents({ userEvents: [login({ entityId: there.id })] });
    for (const neighbour of neighbours) {
      await record(payment({ origin: { entityId: neighbour.id } }));
      await recordEvents(login({ entityId: neighbour.id }));
    }
    await change(person, unique("q"));
    for (const neighbour of neighbours) {
      expect((await transactionsOf(neighbour))[0]?.origin?.externalId).toBe(neighbour.externalId);
      expect((await userEventsOf(neighbour))[0]?.entityExternalId).toBe(neighbour.externalId);
    }
    const { transactions } = await other.client.activity.listTransactions({ lookup: byId(there) });
    expect(transactions[0]?.origin?.externalId).toBe(old);
    const { userEvents } = await other.client.activity.listUserEvents({ lookup: byId(there) });
    expect(userEvents[0]?.entityExternalId).toBe(old);
  });

  it("rule 49: with no external id before nothing is rewritten, and reads show the current primary", async () => {
    const person = await newPerson(service.client);
    await record(payment({ origin: { entityId: person.id }, destination: { entityId: person.id } }));
    await recordEvents(login({ entityId: person.id }));
    expect((await transactionsOf(person))[0]?.origin).toMatchObject({ entityId: person.id, externalId: "" });
    const first = unique("first");
    await change(person, first);
    expect(
      await service.sql("select origin_external_id as id from transaction where origin_entity_id = $1", [person.id]),
    ).toEqual([{ id: null }]);
    expect(
      await service.sql("select entity_external_id as id from user_event where entity_id = $1", [person.id]),
    ).toEqual([{ id: null }]);
    for (const id of [first, unique("second")]) {
      await change(person, id);
      const [row] = await transactionsOf(person);
      expect([row?.origin?.externalId, row?.destination?.externalId]).toEqual([id, id]);
      expect((await userEventsOf(person))[0]?.entityExternalId).toBe(id);
    }
  });

  it("rule 49: AssignExternalId rewrites nothing, and reads show the assigned one", async () => {
    const person = await newPerson(service.client);
    await record(payment({ origin: { entityId: person.id } }));
    const value = unique("first");
    await service.client.entities.assignExternalId({ lookup: byId(person), externalId: value });
    expect((await transactionsOf(person))[0]?.origin?.externalId).toBe(value);
  });

  it("rule 46: a no-op rewrites nothing", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    await recordEvents(login({ entityId: person.id }));
    const [before] = await service.sql("select xmin::text as x from user_event where entity_id = $1", [person.id]);
    await change(person, ` ${person.externalId} `);
    expect(await service.sql("select xmin::text as x from user_event where entity_id = $1", [person.id])).toEqual([
      before,
    ]);
  });

  it("rule 49: with keep_previous_as_alias they follow the primary all the same", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    await record(payment({ origin: { entityId: person.id } }));
    const next = unique("q");
    await change(person, next, true);
    expect((await transactionsOf(person))[0]?.origin?.externalId).toBe(next);
    await record(payment({ origin: { externalId: person.externalId } }));
    expect((await transactionsOf(person)).map((row) => row.origin?.externalId)).toEqual([next, next]);
  });

  it("rule 57: moving the primary by AddExternalIds rewrites them; adding an alias rewrites nothing", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    await record(payment({ origin: { entityId: person.id } }));
    await recordEvents(login({ entityId: person.id }));
    const add = (externalId: string, designation: Designation) =>
      service.client.entities.addExternalIds({ lookup: byId(person), externalIds: [{ externalId, designation }] });
    await add(unique("alias"), Designation.UNSPECIFIED);
    expect((await transactionsOf(person))[0]?.origin?.externalId).toBe(person.externalId);
    expect((await lastEventOf(service.client, person)).metadata).toBeUndefined();
    const next = unique("q");
    await add(next, Designation.PRIMARY);
    expect((await transactionsOf(person))[0]?.origin?.externalId).toBe(next);
    expect((await userEventsOf(person))[0]?.entityExternalId).toBe(next);
    expect((await lastEventOf(service.client, person)).metadata).toMatchObject({
      rewrittenRows: { transactions: 1, userEvents: 1 },
    });
  });

  it("rules 48, 49: the next owner of a freed id does not get the rows of the one before", async () => {
    const old = unique("p");
    const person = await newPerson(service.client, { externalId: old });
    await record(payment({ origin: { entityId: person.id } }));
    await change(person, unique("q"));
    const taker = await newPerson(service.client, { externalId: old });
    expect(await transactionsOf(taker)).toEqual([]);
    await change(taker, unique("r"));
    expect((await transactionsOf(person))[0]?.origin?.externalId).toBe(
      (await current(service.client, person)).externalId,
    );
  });

  it("rule 50: a failure rolls back all of it, the rewritten rows too", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    await record(payment({ origin: { entityId: person.id } }));
    await recordEvents(login({ entityId: person.id }));
    const next = unique("q");
    // The database refuses the event, which is the last statement of the change.
    await service.sql(
      `alter table entity_event add constraint sabotage check (external_id is distinct from '${next}')`,
    );
    try {
      await refusal(change(person, next));
    } finally {
      await service.sql("alter table entity_event drop constraint sabotage");
    }
    expect(await current(service.client, person)).toEqual(person);
    expect((await transactionsOf(person))[0]?.origin?.externalId).toBe(person.externalId);
    expect((await userEventsOf(person))[0]?.entityExternalId).toBe(person.externalId);
    expect(await refusal(service.client.entities.getEntity({ lookup: byExternalId(next) }))).toMatchObject({
      reason: "NOT_FOUND",
    });
  });
});
