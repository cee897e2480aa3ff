// What the fault suite relies on (npm run test:faults).
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { PLANTED } from "./faults/planted.ts";

test.each(PLANTED.flatMap(({ name, changes }) => changes.map((change) => [name, change] as const)))(
  "the place where a bug is planted is there, once: %s",
  (_, { file, from, to }) => {
    const source = readFileSync(new URL(`../${file}`, import.meta.url), "utf8");
    expect(source.split(from)).toHaveLength(2);
    expect(to).not.toBe(from);
  },
);
