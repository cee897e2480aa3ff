// Answers and pages end by their size, not by the number of their items alone: clients of gRPC accept 4 MiB.
import { create, toBinary } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  BatchGetEntitiesResponseSchema,
  type Entity,
  type EntityClient,
  EntitySchema,
  EntityType,
  ErrorInfoSchema,
  ListEntitiesResponseSchema,
  ListEntityEventsResponseSchema,
  ListTransactionsResponseSchema,
  ListUserEventsResponseSchema,
  type Status,
} from "../clients/typescript/index.ts";
import { LIMITS } from "../src/domain/limits.ts";
import { wireBytes } from "../src/rpc/message.ts";
import { byExternalId, byId, newPerson } from "./given.ts";
import { startService, type TestService } from "./harness.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService({ config: { defaultTimeoutMs: 60_000 } });
});
afterAll(async () => service[Symbol.asyncDispose]());

const TAKEN = 4 * 1024 * 1024;
const text = (size: number) => Array.from({ length: Math.ceil(size / 4_000) }, () => "x".repeat(4_000));
/** The largest JSON that is allowed; on the wire a number of one digit takes 13 bytes. */
const numbers = () => ({ n: Array(30_000).fill(1) });

async function newPersons(client: EntityClient, count: number, attributes: () => Record<string, unknown>) {
  const made: Entity[] = [];
  for (let i = 0; i < count; i++) {
    made.push(
      await newPerson(client, {
        externalId: `e-${i}`,
        attributes: attributes() as never,
        metadata: attributes() as never,
      }),
    );
  }
  return made;
}

/** All pages of a list, with a page size of 1000. */
async function pagesOf<Page extends { nextPageToken: string }>(
  read: (page: { pageSize: number; pageToken: string }) => Promise<Page>,
): Promise<Page[]> {
  const pages: Page[] = [];
  let pageToken = "";
  do {
    const page = await read({ pageSize: 1_000, pageToken });
    pages.push(page);
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  return pages;
}

describe.each([
  ["texts of one letter", 36, () => ({ t: text(60_000) })],
  ["numbers of one digit", 10, numbers],
])("%s", (_, count, attributes) => {
  test("lists of entities and of events come in pages that every client takes, each item once", async () => {
    const { client } = await service.newOrganization();
    const made = await newPersons(client, count, attributes);
    const ids = made.map(({ id }) => id);

    const lists = await pagesOf((page) => client.entities.listEntities(page));
    expect(lists.flatMap(({ entities }) => entities.map(({ id }) => id))).toEqual(ids);
    expect(lists.length).toBeGreaterThan(1);
    for (const page of lists) {
      expect(toBinary(ListEntitiesResponseSchema, page).length).toBeLessThan(TAKEN);
      expect(page.entities.length).toBeGreaterThan(0);
    }
    const events = await pagesOf((page) => client.entities.listEntityEvents(page));
    expect(events.flatMap((page) => page.events.map(({ entityId }) => entityId))).toEqual(ids.toReversed());
    expect(events.length).toBeGreaterThan(1);
    for (const page of events) expect(toBinary(ListEntityEventsResponseSchema, page).length).toBeLessThan(TAKEN);

    // With a mask the items are small, and the pages few.
    const names = await pagesOf((page) => client.entities.listEntities({ ...page, readMask: { paths: ["id"] } }));
    expect(names.flatMap(({ entities }) => entities.map(({ id }) => id))).toEqual(ids);
  });

  test("a batch answers what it has room for, and says of each other item to ask again", async () => {
    const { client } = await service.newOrganization();
    const made = await newPersons(client, count, attributes);
    const remaining = new Set(made.map(({ id }) => id));
    let calls = 0;
    while (remaining.size > 0 && calls++ < 40) {
      const lookups = [...remaining].map((id) => byId({ id }));
      const answer = await client.entities.batchGetEntities({ lookups });
      expect(toBinary(BatchGetEntitiesResponseSchema, answer).length).toBeLessThan(TAKEN);
      for (const { result } of answer.results) {
        if (result.case === "entity") remaining.delete(result.value.id);
        else expect(reasonOf(result.value as Status)).toBe("MESSAGE_TOO_LARGE");
      }
    }
    expect(remaining.size).toBe(0);
    expect(calls).toBeGreaterThan(1);
  });

  test("the same entity a thousand times", async () => {
    const { client } = await service.newOrganization();
    await newPersons(client, 1, attributes);
    const answer = await client.entities.batchGetEntities({ lookups: Array(1_000).fill(byExternalId("e-0")) });
    expect(answer.results).toHaveLength(1_000);
    expect(toBinary(BatchGetEntitiesResponseSchema, answer).length).toBeLessThan(TAKEN);
    expect(answer.results[0]?.result.case).toBe("entity");
    expect(reasonOf(answer.results[999]?.result.value as Status)).toBe("MESSAGE_TOO_LARGE");
  });

  test("transactions and user events", async () => {
    const { client } = await service.newOrganization();
    const [entity] = await newPersons(client, 1, () => ({}));
    const at = { seconds: 1_700_000_000n, nanos: 0 };
    const part = { by: { externalId: "e-0" } };
    for (let i = 0; i < 8; i++) {
      await client.activity.recordTransactions({
        transactions: Array.from({ length: 10 }, () => ({
          type: "t",
          amount: "1",
          currency: "EUR",
          origin: part.by,
          transactedAt: at,
          details: (i % 2 === 0 ? { t: text(60_000) } : { n: Array(2_000).fill(1) }) as never,
        })),
      });
      await client.activity.recordUserEvents({
        userEvents: Array.from({ length: 10 }, () => ({
          entityExternalId: "e-0",
          eventType: "t",
          occurredAt: at,
          payload: (i % 2 === 0 ? { t: text(60_000) } : { n: Array(2_000).fill(1) }) as never,
        })),
      });
    }
    const lookup = byId(entity as Entity);
    const transactions = await pagesOf((page) => client.activity.listTransactions({ ...page, lookup }));
    const events = await pagesOf((page) => client.activity.listUserEvents({ ...page, lookup }));
    expect(new Set(transactions.flatMap((page) => page.transactions.map(({ id }) => id))).size).toBe(80);
    expect(new Set(events.flatMap((page) => page.userEvents.map(({ id }) => id))).size).toBe(80);
    for (const page of transactions) expect(toBinary(ListTransactionsResponseSchema, page).length).toBeLessThan(TAKEN);
    for (const page of events) expect(toBinary(ListUserEventsResponseSchema, page).length).toBeLessThan(TAKEN);
    expect(Math.min(transactions.length, events.length)).toBeGreaterThan(1);
  });
});

test("reads of one each that meet are all answered", async () => {
  const { client } = await service.newOrganization();
  const made = await newPersons(client, 45, () => ({ t: text(60_000) }));
  const found = await Promise.all(made.map((one) => client.entities.getEntity({ lookup: byId(one) })));
  expect(found.map(({ entity }) => entity?.id)).toEqual(made.map(({ id }) => id));
});

function reasonOf(status: Status): string | undefined {
  const detail = status.details.find(({ typeUrl }) => typeUrl.endsWith(ErrorInfoSchema.typeName));
  return (
    detail &&
    Buffer.from(detail.value)
      .toString("latin1")
      .match(/[A-Z_]{8,}/)?.[0]
  );
}

test("what a message takes is never taken for less, and seldom for much more", () => {
  for (const attributes of [{}, numbers(), { t: text(60_000) }, { a: { b: [true, null, { c: "ü" }] } }]) {
    const message = create(EntitySchema, {
      id: crypto.randomUUID(),
      type: EntityType.COMPANY,
      name: "Übergröße",
      externalIds: [{ externalId: "a", designation: 1, attachedAt: { seconds: 1n, nanos: 5 } }],
      attributes: attributes as never,
      entityData: { kind: { case: "company", value: { tradingNames: ["x", "y"], employees: 5 } } },
      createdAt: { seconds: 1_700_000_000n, nanos: 999 },
    });
    const real = toBinary(EntitySchema, message).length;
    expect(wireBytes(EntitySchema, message)).toBeGreaterThanOrEqual(real);
    expect(wireBytes(EntitySchema, message)).toBeLessThan(2 * real + 200);
  }
  expect(LIMITS.pageBytes).toBeLessThan(LIMITS.batchAnswerBytes);
});
