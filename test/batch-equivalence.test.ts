// Rule 151: a batch is what the same updates are one by one, on a twin organization: the same answers, the same rows, the
// same events; or the same refusal, and nothing. Random lists on few keys: creations, tax ids that move between entities,
// merged ones, entities that are named again and again.
import { create, type JsonValue, toJson } from "@bufbuild/protobuf";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { BatchUpdateEntitiesResponseSchema } from "../clients/typescript/index.ts";
import { readConfig } from "../src/config.ts";
import { createOrm, type Orm } from "../src/db/orm.ts";
import { createSlots } from "../src/slots.ts";
import {
  type Answer,
  batchOf,
  type Ground,
  newOrganizationId,
  oneByOne,
  prepare,
  type Step,
  seed,
  stepsUpTo,
  traceOf,
  updatesUpTo,
} from "./commands.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { startService, type TestService } from "./harness.ts";

const SEED = Number(process.env.TEST_SEED ?? Date.now() % 2 ** 31);
const RUNS = Number(process.env.TEST_RUNS ?? 150);

let service: TestService;
let orm: Orm;
beforeAll(async () => {
  service = await startService();
  const { host, port, database } = service.database;
  orm = createOrm({ host, port, user: "entity_service", password: RUNTIME_PASSWORD, database }, readConfig({}));
});
afterAll(async () => {
  await orm.close(true);
  await service[Symbol.asyncDispose]();
});

/** What was there before, with what it was answered. */
type Given = { ground: Ground; given: Answer[] };
type Refusal = { reason: string; message: string; metadata: Record<string, string>; violations: string[] };
const isRefusal = (answer: Answer): answer is Refusal & JsonValue =>
  (answer as { reason?: string }).reason !== undefined;

/** What the batch has to answer: for the answers one by one, or for the first of their refusals. */
function expectedOf(answers: readonly Answer[]): Answer {
  const index = answers.findIndex(isRefusal);
  if (index === -1) {
    const results = (answers as Record<string, JsonValue>[]).map(({ entity, updatedFields = [], ...rest }) => {
      const { id, etag } = entity as Record<string, string>;
      const { redirectedFrom = "", ignoredFields = [], created = false } = rest;
      return { entityId: id, etag, redirectedFrom, updatedFields, ignoredFields, created } as JsonValue;
    });
    return { results };
  }
  const { message, metadata, violations, ...refused } = answers[index] as Refusal;
  const at = `requests[${index}].`;
  const { field, ...rest } = metadata;
  return {
    ...refused,
    message: field !== undefined && message.startsWith(`${field}: `) ? at + message : message,
    metadata: { ...rest, index: String(index), ...(field === undefined ? {} : { field: at + field }) },
    violations: violations.map((violation) => at + violation),
  };
}

/** One by one, until the first that is refused; those that are not valid are refused before all others. */
async function upToTheRefusal(ground: Ground, list: readonly Step[]): Promise<Answer[]> {
  const valid: Answer[] = [];
  for (const index of list.keys()) {
    const prepared = await prepare(ground, list, index);
    if (typeof prepared === "object" && prepared !== null && "command" in prepared) valid.push({});
    else return [...valid, prepared as Answer];
  }
  const answers: Answer[] = [];
  for (const step of list) {
    answers.push(...(await oneByOne(orm, ground, [step])));
    if (isRefusal(answers.at(-1) as Answer)) break;
  }
  return answers;
}

/** One by one, without those that are refused, which do nothing. */
async function acceptedOf(ground: Ground, list: readonly Step[]): Promise<{ updates: Step[]; answers: Answer[] }> {
  const answers = await oneByOne(orm, ground, list);
  const isAccepted = (_: unknown, i: number) => !isRefusal(answers[i] as Answer);
  return { updates: list.filter(isAccepted), answers: answers.filter(isAccepted) };
}

/** Etags by what they are of: the answers have those of versions that the entities no longer have. */
async function withEtags(answer: Answer): Promise<Answer> {
  const { results } = answer as { results?: { entityId: string; etag: string }[] };
  if (results === undefined) return answer;
  const rows = await service.sql<{ id: string; version: string }>(
    "select id, entity_version as version from entity_event where id = any($1)",
    [results.map(({ etag }) => etag)],
  );
  const versions = new Map(rows.map(({ id, version }) => [id, version]));
  return { results: results.map(({ etag, ...rest }) => ({ ...rest, version: versions.get(etag) ?? etag })) };
}

test(`rules 151, 152: random lists of updates, one by one and as one batch (TEST_SEED=${SEED})`, {
  timeout: 600_000,
}, async () => {
  const endings: Record<string, number> = {};
  await fc.assert(
    fc.asyncProperty(
      stepsUpTo(8),
      updatesUpTo(30),
      fc.boolean(),
      fc.boolean(),
      async (before, list, isLong, isAccepted) => {
        // More than are decided at once.
        const wanted = isLong ? Array.from({ length: 5 }, () => list).flat() : list;
        const grounds = await Promise.all(
          [1, 2].map(async () => {
            const ground = await seed(service, orm, await newOrganizationId(service));
            return { ground, given: await oneByOne(orm, ground, before) };
          }),
        );
        const [{ ground: alone, given }, { ground: twin, given: givenTwin }] = grounds as [Given, Given];
        const { updates, answers } = isAccepted
          ? await acceptedOf(alone, wanted)
          : { updates: wanted, answers: await upToTheRefusal(alone, wanted) };
        if (updates.length === 0) return;
        const untouched = await traceOf(service, twin, givenTwin);
        const answer = await batchOf({ orm, importSlots: createSlots(1) }, twin, updates);
        const [expected, actual] = [await withEtags(expectedOf(answers)), await withEtags(normal(answer))];
        const one = await traceOf(service, alone, [...given, expected]);
        const other = await traceOf(service, twin, [...givenTwin, actual]);
        expect(other.answers.map(named)).toEqual(one.answers.map(named));
        expect(other.tables).toEqual(isRefusal(answer) ? untouched.tables : one.tables);
        const ending = isRefusal(answer) ? (answer as Refusal).reason : "OK";
        endings[ending] = (endings[ending] ?? 0) + 1;
      },
    ),
    { seed: SEED, numRuns: RUNS, endOnFailure: false },
  );
  console.log(`seed ${SEED}, ${RUNS} lists: ${JSON.stringify(endings)}`);
});

/** Who was created in a batch that was refused is not there: a refusal may name what only the twin has. */
function named(answer: Answer): Answer {
  const { metadata } = answer as Partial<Refusal>;
  if (metadata === undefined) return answer;
  const isNew = (id: string) => !/^entity [0-5]$/.test(id);
  const { candidates, etag: _, entity_id: id, ...rest } = metadata;
  return {
    ...(answer as Refusal),
    metadata: {
      ...rest,
      ...(candidates === undefined
        ? {}
        : {
            candidates: candidates
              .split(",")
              .map((one) => (isNew(one) ? "new" : one))
              .sort()
              .join(),
          }),
      ...(id === undefined ? {} : { entity_id: isNew(id) ? "new" : id }),
    },
  };
}

/** With all that JSON leaves out. */
function normal(answer: Answer): Answer {
  if (isRefusal(answer)) return answer;
  return toJson(BatchUpdateEntitiesResponseSchema, create(BatchUpdateEntitiesResponseSchema, answer as never), {
    alwaysEmitImplicit: true,
  });
}
