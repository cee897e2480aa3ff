// Which rows of an import are written together.
import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { ImportEntitiesRequestSchema } from "../clients/typescript/index.ts";
import { groupsOf } from "../src/rpc/import-groups.ts";

/** Rows that are all here, each with so many characters of JSON in one of its places; how many of them a group has. */
async function groupSizes(rows: number, json: object): Promise<{ sizes: number[]; read: number[] }> {
  const sizes: number[] = [];
  /** How many have been read when a group begins. */
  const read: number[] = [];
  let given = 0;
  const source = (async function* () {
    for (; given < rows; given++) yield create(ImportEntitiesRequestSchema, { entity: { name: `${given}`, ...json } });
  })();
  let expected = 0;
  for await (const group of groupsOf(source)) {
    for (const { entity } of group) expect(entity?.name).toBe(`${expected++}`);
    sizes.push(group.length);
    read.push(given);
    // What can be read is read meanwhile.
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(expected).toBe(rows);
  return { sizes, read };
}

const text = "x".repeat(50_000);

test("250 small ones, and no more than that are read ahead", async () => {
  const { sizes, read } = await groupSizes(1_000, { attributes: { a: 1 } });
  expect(Math.max(...sizes)).toBe(250);
  sizes.reduce((before, size, i) => {
    expect((read[i] as number) - before).toBeLessThanOrEqual(501);
    return before + size;
  }, 0);
});

test.each<[string, object]>([
  ["attributes", { attributes: { text } }],
  ["metadata", { metadata: { text } }],
  ["additional data", { entityData: { kind: { case: "person", value: { additional: { text } } } } }],
  ["that of an address", { entityData: { kind: { case: "company", value: { address: { additional: { text } } } } } }],
])("few with much in their %s, and few of them are read ahead", async (_, json) => {
  const { sizes, read } = await groupSizes(20, json);
  expect(Math.max(...sizes)).toBe(2);
  sizes.reduce((before, size, i) => {
    expect((read[i] as number) - before).toBeLessThanOrEqual(6);
    return before + size;
  }, 0);
});

test("what is larger than a group may be is one", async () => {
  const { sizes } = await groupSizes(3, { attributes: { text: text.repeat(4) } });
  expect(sizes).toEqual([1, 1, 1]);
});
