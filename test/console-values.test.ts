// What the console makes of values and times: an auditor reads it as what happened.
import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { changesOf, leavesOf } from "../clients/console/src/changes.ts";
import { exactTime, timestampOf, timeText } from "../clients/console/src/words.ts";
import { EntityEventSchema } from "../clients/typescript/index.ts";

const changed = (field: string, before: unknown, after: unknown) =>
  changesOf(
    create(EntityEventSchema, {
      updatedFields: [field],
      previousValues: { [field]: before as never },
      newValues: { [field]: after as never },
    }),
  );

test.each([
  ["a number that became its text", { tier: 1 }, { tier: "1" }, "attributes.tier", "1", '"1"'],
  ["a truth that became its text", { ok: true }, { ok: "true" }, "attributes.ok", "true", '"true"'],
  [
    "a list of other items that read alike",
    { l: ["a\nb"] },
    { l: ["a", "b"] },
    "attributes.l",
    '["a\\nb"]',
    '["a","b"]',
  ],
  ["null that is gone", { n: null, k: 1 }, { k: 1 }, "attributes.n", "null", undefined],
  ["what was empty", { o: {} }, { o: { p: 1 } }, "attributes.o", "{}", undefined],
])("a change is shown: %s", (_, before, after, path, was, is) => {
  expect(changed("attributes", before, after)).toContainEqual({ path, before: was, after: is });
});

test("a change is shown: another type of an external id", () => {
  const id = (type: string) => [{ externalId: "crm-1", designation: "primary", type }];
  expect(changed("externalIds", id("crm"), id("erp"))).toEqual([
    { path: "externalIds", before: "crm-1, crm (primary)", after: "crm-1, erp (primary)" },
  ]);
});

test("what did not change is not shown, and a page of facts has nothing that is empty", () => {
  expect(changed("attributes", { a: 1, b: { c: [] } }, { a: 1, b: { c: [] } })).toEqual([]);
  expect(changed("taxId", null, "20-1")).toEqual([{ path: "taxId", before: undefined, after: "20-1" }]);
  expect(changed("attributes", {}, { a: 1 })).toEqual([{ path: "attributes.a", before: undefined, after: "1" }]);
  expect(leavesOf("x", { a: null, b: {}, c: [], d: 0 })).toEqual(new Map([["x.d", "0"]]));
});

test("times are cut off, never rounded up", () => {
  const time = timestampOf("2026-11-28T23:59:59.999700Z");
  expect(timeText(time)).toBe("2026-11-28 23:59:59");
  expect(exactTime(time)).toBe("2026-11-28T23:59:59.999700Z");
});
