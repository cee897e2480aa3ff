// Writes that commit together obey exactly the rules of one by one: the same answers, the same rows, the
// same events. Random lists against both ways, then by hand what randomness cannot reach: other
// connections, lost ones, deadlines, deadlocks.
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readConfig } from "../src/config.ts";
import { createOrm, type Orm } from "../src/db/orm.ts";
import { newOrganizationId, oneByOne, seed, steps, together, traceOf } from "./commands.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { startService, type TestService } from "./harness.ts";

const SEED = Number(process.env.TEST_SEED ?? Date.now() % 2 ** 31);
const RUNS = Number(process.env.TEST_RUNS ?? 200);

let service: TestService;
let orm: Orm;

/** A pool of its own on the service's database. */
const openOrm = (changes: Partial<ReturnType<typeof readConfig>> = {}, host = service.database.host): Orm =>
  createOrm(
    { ...service.database, host, user: "entity_service", password: RUNTIME_PASSWORD },
    { ...readConfig({}), ...changes },
  );

beforeAll(async () => {
  service = await startService();
  orm = openOrm();
});
afterAll(async () => {
  await orm.close(true);
  await service[Symbol.asyncDispose]();
});

describe("rules 13, 33 to 39: a group obeys the rules of one by one", () => {
  test(`random lists of calls, one by one and as one group (TEST_SEED=${SEED})`, { timeout: 600_000 }, async () => {
    const reasons: Record<string, number> = {};
    await fc.assert(
      fc.asyncProperty(steps, fc.boolean(), async (list, immutable) => {
        const policy = immutable ? "IMMUTABLE" : "MUTABLE_WITH_REASON";
        const [alone, grouped] = await Promise.all(
          [1, 2].map(async () => seed(service, orm, await newOrganizationId(service, policy))),
        );
        if (alone === undefined || grouped === undefined) throw new Error("no ground");
        const expected = await traceOf(service, alone, await oneByOne(orm, alone, list));
        const actual = await traceOf(service, grouped, await together(orm, grouped, list));
        expect(actual).toEqual(expected);
        for (const answer of expected.answers) {
          const { reason = "OK", replay } = answer as { reason?: string; replay?: boolean };
          const name = replay === true ? "REPLAYED" : reason;
          reasons[name] = (reasons[name] ?? 0) + 1;
        }
      }),
      { seed: SEED, numRuns: RUNS, endOnFailure: false },
    );
    console.log(`seed ${SEED}, ${RUNS} lists: ${JSON.stringify(reasons)}`);
  });
});
