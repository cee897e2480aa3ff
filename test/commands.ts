// Random writes on few keys, as their handlers pass them to the unit of work, and what they leave in the database,
// without what differs in every run: ids, etags and times become labels in the order of creation.
import { createHash } from "node:crypto";
import { create, type DescMethodUnary, fromBinary, type JsonValue, toJson } from "@bufbuild/protobuf";
import { createContextValues, createHandlerContext } from "@connectrpc/connect";
import fc from "fast-check";
import { Designation, EntityService, EntityStatus, EntityType } from "../clients/typescript/index.ts";
import type { Orm } from "../src/db/orm.ts";
import { DomainError } from "../src/domain/errors.ts";
import { parseInstant } from "../src/domain/time.ts";
import type { Command, Result } from "../src/entities/command.ts";
import { writeGroup } from "../src/entities/write-group.ts";
import { callContext } from "../src/interceptors/call.ts";
import { batchUpdateRpcs } from "../src/rpc/batch-update.ts";
import { entityRpcs } from "../src/rpc/entities.ts";
import { externalIdRpcs } from "../src/rpc/external-ids.ts";
import { mergeRpcs } from "../src/rpc/merges.ts";
import type { Deps } from "../src/rpc/write.ts";
import type { Slots } from "../src/slots.ts";
import type { TestService } from "./harness.ts";

// --- Random calls -------------------------------------------------------------------------------

/** A key from a small set: the entities that exist at the beginning (the last one does not), external ids, tax ids. */
type Key = { by: "seed"; seed: number } | { by: "external"; id: number } | { by: "tax"; id: number };

interface Common {
  author: number;
  request: number | undefined;
  /** The etag that a seed had at the beginning. */
  etag: number | undefined;
  reason: boolean;
}

interface Fields {
  name: number | undefined;
  status: number | undefined;
  tax: number | undefined;
  attributes: Record<string, number | string | null> | undefined;
  person: Record<string, string> | undefined;
}

/** A call on small sets of keys, independent of any organization: `repeat` sends an earlier one again. */
export type Step =
  | (Common & { kind: "create"; external: number | undefined; fields: Fields; company: boolean; uniqueTaxId: boolean })
  | (Common & {
      kind: "update";
      key: Key;
      fields: Fields;
      mask: string[] | undefined;
      allowMissing: boolean;
      otherType: boolean;
    })
  | (Common & { kind: "change"; key: Key; external: number; keep: boolean })
  | (Common & { kind: "assign"; key: Key; external: number })
  | (Common & { kind: "add"; key: Key; externals: number[]; primary: number | undefined; label: boolean })
  | (Common & { kind: "release"; key: Key; external: number; force: boolean })
  | (Common & { kind: "delete" | "undelete"; key: Key })
  /** Of two seeds, to begin with: a merge runs alone. */
  | (Common & { kind: "merge"; into: number; from: number })
  | { kind: "repeat"; back: number };

const EXTERNAL_IDS = 9;
const STATUSES = [
  EntityStatus.ACTIVE,
  EntityStatus.INACTIVE,
  EntityStatus.BLOCKED,
  EntityStatus.SUSPENDED,
  EntityStatus.PENDING,
];
/** The same key in two spellings, another one, that of a merged entity, and one that no entity has at the beginning. */
/** One number of Belgium in four ways of writing it, two of which have one key; and another. */
const TAX_IDS = ["0403.019.261", "0403019261", "403.019.261", "BE 0403.019.261", "30-444-4"];
const SEEDS = 6;
const UNKNOWN_ID = "00000000-0000-7000-8000-00000000dead";

const maybe = <T>(arbitrary: fc.Arbitrary<T>, freq = 3) => fc.option(arbitrary, { nil: undefined, freq });
const external = fc.nat({ max: EXTERNAL_IDS - 1 });
const key: fc.Arbitrary<Key> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ by: fc.constant("seed" as const), seed: fc.nat({ max: SEEDS }) }) },
  { weight: 5, arbitrary: fc.record({ by: fc.constant("external" as const), id: external }) },
  { weight: 3, arbitrary: fc.record({ by: fc.constant("tax" as const), id: fc.nat({ max: TAX_IDS.length - 1 }) }) },
);
const common = {
  author: fc.nat({ max: 1 }),
  request: fc.option(fc.nat({ max: 3 }), { nil: undefined, freq: 2 }),
  etag: fc.oneof(
    { weight: 6, arbitrary: fc.constant(undefined) },
    { weight: 1, arbitrary: fc.nat({ max: SEEDS - 1 }) },
  ),
  reason: fc.oneof({ weight: 4, arbitrary: fc.constant(true) }, { weight: 1, arbitrary: fc.constant(false) }),
};
const fields = fc.record<Fields>({
  name: maybe(fc.nat({ max: 2 })),
  status: maybe(fc.nat({ max: STATUSES.length - 1 })),
  tax: maybe(fc.nat({ max: TAX_IDS.length - 1 }), 2),
  attributes: maybe(
    fc.dictionary(fc.constantFrom("a", "b", "tier"), fc.oneof(fc.constantFrom(1, 2, "x"), fc.constant(null)), {
      maxKeys: 2,
    }),
    1,
  ),
  person: maybe(fc.dictionary(fc.constantFrom("email", "phone"), fc.constantFrom("p", "q"), { maxKeys: 2 }), 2),
});
const PATHS = ["name", "status", "tax_id", "attributes", "entity_data.person.email", "external_id"];

const update = fc.record({
  kind: fc.constant("update" as const),
  ...common,
  key,
  fields,
  mask: maybe(fc.subarray(PATHS), 2),
  allowMissing: fc.boolean(),
  otherType: fc.oneof({ weight: 9, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) }),
});

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("create" as const),
      ...common,
      external: maybe(external, 4),
      fields,
      company: fc.boolean(),
      uniqueTaxId: fc.boolean(),
    }),
  },
  { weight: 7, arbitrary: update },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant("change" as const), ...common, key, external, keep: fc.boolean() }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("assign" as const), ...common, key, external }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("add" as const),
      ...common,
      key,
      externals: fc.uniqueArray(external, { minLength: 1, maxLength: 3 }),
      primary: fc.option(fc.nat({ max: 2 }), { nil: undefined, freq: 2 }),
      label: fc.boolean(),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant("release" as const), ...common, key, external, force: fc.boolean() }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constantFrom("delete" as const, "undelete" as const), ...common, key }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("repeat" as const), back: fc.integer({ min: 1, max: 6 }) }) },
);

/** Lists of at most `maxLength` calls. */
export const stepsUpTo = (maxLength: number): fc.Arbitrary<Step[]> =>
  fc.array(step, { minLength: 1, maxLength, size: "max" });

/** Lists of updates by one caller, without request ids, of which few are refused: the first refusal ends all. */
export const updatesUpTo = (maxLength: number): fc.Arbitrary<Step[]> =>
  fc.array(
    fc.record({ one: update, isHarmless: fc.nat({ max: 19 }).map((n) => n > 0) }).map(({ one, isHarmless }): Step => {
      const alone = { ...one, author: 0, request: undefined };
      if (!isHarmless) return alone;
      const key =
        one.key.by === "seed" && one.key.seed >= SEEDS - 2 ? { by: "seed" as const, seed: SEEDS - 1 } : one.key;
      return { ...alone, key, etag: undefined, reason: true, otherType: false, allowMissing: true };
    }),
    { minLength: 1, maxLength, size: "max" },
  );

// --- An organization to run them on -------------------------------------------------------------

export interface Ground {
  organizationId: string;
  /** The prefix of all external ids, names and tax ids: several grounds share an organization without conflict. */
  prefix: string;
  seeds: { id: string; etag: string }[];
}

/** A fresh organization: only its row. */
export async function newOrganizationId(service: TestService, policy = "MUTABLE_WITH_REASON"): Promise<string> {
  const [row] = await service.sql<{ organization_id: string }>(
    `insert into organization (organization_id, display_name, external_id_policy, etag)
     values (gen_random_uuid(), 'groups', $1, gen_random_uuid()) returning organization_id`,
    [policy],
  );
  return row?.organization_id ?? "";
}

/**
 * Six entities: one with an external id, into which the last is merged with its external id and its tax id; one with an external id, an alias, and the tax id of the first; one with
 * neither; one with its own external id and tax id; a deleted one with that tax id; and the merged one. Two transactions and two user
 * events name the first two.
 */
export async function seed(service: TestService, orm: Orm, organizationId: string, prefix = ""): Promise<Ground> {
  const ground: Ground = { organizationId, prefix, seeds: [] };
  const no = { name: 0, status: undefined, tax: undefined, attributes: undefined, person: undefined };
  const by = { author: 0, request: undefined, etag: undefined, reason: true };
  const make = (external: number | undefined, tax: number | undefined): Step => ({
    kind: "create",
    ...by,
    external,
    fields: { ...no, tax },
    company: false,
    uniqueTaxId: false,
  });
  const made = await together(orm, ground, [
    make(0, 0),
    make(1, 1),
    make(undefined, undefined),
    make(3, 2),
    make(4, 2),
    make(5, 3),
  ]);
  await together(orm, ground, [
    { kind: "add", ...by, key: { by: "external", id: 1 }, externals: [2], primary: undefined, label: true },
    { kind: "delete", ...by, key: { by: "external", id: 4 } },
  ]);
  const ids = made.map((answer) => (answer as unknown as { entity: { id: string } }).entity.id);
  ground.seeds = ids.map((id) => ({ id, etag: "" }));
  await oneByOne(orm, ground, [{ kind: "merge", ...by, into: 0, from: 5 }]);
  const rows = await service.sql<{ id: string; etag: string }>(
    "select id, etag from entity where organization_id = $1 and id = any($2)",
    [organizationId, ids],
  );
  ground.seeds = ids.map((id) => rows.find((row) => row.id === id) as { id: string; etag: string });
  const [first, second] = ids;
  await service.sql(
    `insert into transaction (organization_id, id, type, amount, currency, origin_entity_id, origin_external_id,
       destination_entity_id, destination_external_id, transacted_at, content_hash)
     select $1, md5($4 || n)::uuid, 'payment', '1.00', 'EUR', $2::uuid, $4 || 'e0', case when n = 1 then $3::uuid end,
       case when n = 1 then $4 || 'e1' end, '2001-01-01Z', '' from generate_series(1, 2) n`,
    [organizationId, first, second, prefix],
  );
  await service.sql(
    `insert into user_event (organization_id, id, entity_id, entity_external_id, event_type, occurred_at)
     values ($1, md5($4 || 3)::uuid, $2, $4 || 'e0', 'login', '2001-01-01Z'), ($1, md5($4 || 4)::uuid, $3, null, 'login', '2001-01-01Z')`,
    [organizationId, first, second, prefix],
  );
  return ground;
}

// --- From a call to a command and back ----------------------------------------------------------

/** The result for the caller: the answer as JSON, or the refusal. */
export type Answer = JsonValue;

interface Prepared {
  command: Command;
  answer: (result: Result) => Promise<Answer>;
}

/** The command that the handler passes to the writer, and the way back; or the answer, if the call gets no further. */
export async function prepare(ground: Ground, list: readonly Step[], index: number): Promise<Prepared | Answer> {
  const handed = Promise.withResolvers<Command>();
  const written = Promise.withResolvers<Result>();
  const answered = call(ground, list, index, (command) => {
    handed.resolve(command);
    return written.promise;
  });
  const command = await Promise.race([handed.promise, answered.then(() => undefined)]);
  if (command === undefined) return answered;
  return {
    command,
    answer: (result) => {
      written.resolve(result);
      return answered;
    },
  };
}

const isPrepared = (prepared: Prepared | Answer): prepared is Prepared =>
  typeof prepared === "object" && prepared !== null && "command" in prepared;

/** Runs the calls one by one, each in a separate transaction. */
export async function oneByOne(orm: Orm, ground: Ground, list: readonly Step[]): Promise<Answer[]> {
  const answers: Answer[] = [];
  for (const index of list.keys()) {
    answers.push(
      await call(ground, list, index, async (command) => {
        const [result] = await writeGroup(orm, ground.organizationId, [command]);
        return result as Result;
      }),
    );
  }
  return answers;
}

/** Runs all calls at once. */
export async function together(orm: Orm, ground: Ground, list: readonly Step[]): Promise<Answer[]> {
  const prepared = await Promise.all(list.map((_, index) => prepare(ground, list, index)));
  const commands = prepared.filter(isPrepared).map(({ command }) => command);
  const results = await writeGroup(orm, ground.organizationId, commands);
  let next = 0;
  return Promise.all(prepared.map((one) => (isPrepared(one) ? one.answer(results[next++] as Result) : one)));
}

/** Runs updates as one batch, through its handler. */
export function batchOf(given: Pick<Deps, "orm"> & { importSlots: Slots }, ground: Ground, list: readonly Step[]) {
  const requests = list.map((_, index) => requestOf(ground, list, index).request);
  const deps = { ...given, bell: { ring: () => {} }, clock: Date.now, aliasUse: { named: () => {} } };
  const { batchUpdateEntities: method } = EntityService.method;
  const handlers = batchUpdateRpcs(deps as unknown as Parameters<typeof batchUpdateRpcs>[0]);
  return handled(handlers, ground, { method, request: { requests }, author: 0 });
}

/** Runs the call through its handler, with `write` as the writer. */
export async function call(
  ground: Ground,
  list: readonly Step[],
  index: number,
  write: (command: Command) => Promise<Result>,
): Promise<Answer> {
  const deps = {
    writer: { write: (_: string, command: Command) => write(command) },
    clock: Date.now,
    aliasUse: { named: () => {} },
  } as unknown as Deps;
  const handlers = { ...entityRpcs(deps), ...externalIdRpcs(deps), ...mergeRpcs(deps) };
  return handled(handlers, ground, requestOf(ground, list, index));
}

async function handled(
  handlers: object,
  ground: Ground,
  { method, request, author }: ReturnType<typeof requestOf>,
): Promise<Answer> {
  const context = createHandlerContext({
    service: EntityService,
    method,
    protocolName: "grpc",
    requestMethod: "POST",
    url: "http://test",
    contextValues: createContextValues().set(callContext, {
      caller: {
        organizationId: ground.organizationId,
        apiKeyId: `0000000${author}-0000-7000-8000-000000000000`,
        scopes: new Set<string>(),
      },
      actor: author === 0 ? undefined : "maria",
      source: author === 0 ? undefined : "crm",
      requestId: "",
      peer: "",
    }),
  });
  const rpcs = handlers as Record<string, (request: unknown, context: unknown) => Promise<object>>;
  try {
    const answer = await rpcs[method.localName]?.(create(method.input, request as never), context);
    const json = toJson(method.output, create(method.output, answer as never)) as Record<string, JsonValue>;
    return context.responseHeader.has("idempotent-replay") ? { ...json, replay: true } : json;
  } catch (error) {
    if (!(error instanceof DomainError)) throw error;
    const { reason, message, metadata, violations } = error;
    return {
      reason,
      message,
      metadata,
      violations: violations.map(({ field, description }) => `${field}: ${description}`),
    };
  } finally {
    context.abort();
  }
}

function requestOf(
  ground: Ground,
  list: readonly Step[],
  index: number,
): { method: DescMethodUnary; request: object; author: number } {
  const one = list[index] as Step;
  // Nothing before it to repeat: a harmless call instead.
  if (one.kind === "repeat") {
    return index - one.back >= 0
      ? requestOf(ground, list, index - one.back)
      : requestOf(
          ground,
          [
            {
              kind: "delete",
              author: 0,
              request: undefined,
              etag: undefined,
              reason: true,
              key: { by: "seed", seed: SEEDS },
            },
          ],
          0,
        );
  }
  const { prefix, seeds } = ground;
  const externalId = (id: number) => `${prefix}e${id}`;
  const taxId = (id: number) => `${prefix}${TAX_IDS[id]}`;
  const base = {
    requestId: one.request === undefined ? "" : `0000000${one.request}-${idPart(prefix)}-7000-8000-000000000001`,
    reason: one.reason ? "because of the test" : "",
    occurredAt: one.author === 0 ? undefined : { seconds: 978_307_200n, nanos: 0 },
  };
  const etag = one.etag === undefined ? "" : (seeds[one.etag]?.etag ?? "");
  const lookup =
    "key" in one
      ? {
          by:
            one.key.by === "seed"
              ? { case: "entityId", value: seeds[one.key.seed]?.id ?? UNKNOWN_ID }
              : one.key.by === "external"
                ? { case: "externalId", value: externalId(one.key.id) }
                : { case: "taxId", value: taxId(one.key.id) },
        }
      : undefined;
  const entityOf = ({ name, status, tax, attributes, person }: Fields) => ({
    ...(name === undefined ? {} : { name: `${prefix}name ${name}` }),
    ...(status === undefined ? {} : { status: STATUSES[status] }),
    ...(tax === undefined ? {} : { taxId: taxId(tax) }),
    ...(attributes === undefined ? {} : { attributes }),
    ...(person === undefined ? {} : { entityData: { kind: { case: "person", value: person } } }),
  });
  const { method } = EntityService;
  const done = (method: DescMethodUnary, request: object) => ({
    method,
    request: { ...base, ...request },
    author: one.author,
  });
  switch (one.kind) {
    case "merge": {
      const seedOf = (seed: number) => ({ by: { case: "entityId", value: seeds[seed]?.id } });
      return done(method.mergeEntities, { primary: seedOf(one.into), secondary: seedOf(one.from) });
    }
    case "create":
      return done(method.createEntity, {
        entity: {
          name: `${prefix}new`,
          ...entityOf(one.fields),
          type: one.company ? EntityType.COMPANY : EntityType.PERSON,
          countryCode: "BE",
          ...(one.external === undefined ? {} : { externalId: externalId(one.external) }),
        },
        requireUniqueTaxId: one.uniqueTaxId,
      });
    case "update": {
      const allowMissing = one.allowMissing && one.key.by === "external";
      const needed = allowMissing ? { name: `${prefix}upserted`, type: EntityType.PERSON, countryCode: "BE" } : {};
      return done(method.updateEntity, {
        lookup,
        etag,
        allowMissing,
        entity: {
          ...needed,
          ...entityOf(one.fields),
          ...(one.otherType ? { type: EntityType.COMPANY } : {}),
          externalId: externalId(0),
        },
        // A mask that names a required field without a value is refused before this point.
        updateMask: one.mask && {
          paths: one.mask.filter((path) => (path !== "name" && path !== "status") || one.fields[path] !== undefined),
        },
      });
    }
    case "change":
      return done(method.changeExternalId, {
        lookup,
        etag,
        newExternalId: externalId(one.external),
        keepPreviousAsAlias: one.keep,
      });
    case "assign":
      return done(method.assignExternalId, { lookup, etag, externalId: externalId(one.external) });
    case "add":
      return done(method.addExternalIds, {
        lookup,
        etag,
        externalIds: one.externals.map((id, i) => ({
          externalId: externalId(id),
          type: one.label ? "cif" : "",
          designation: i === one.primary ? Designation.PRIMARY : Designation.UNSPECIFIED,
        })),
      });
    case "release":
      return done(method.releaseExternalId, {
        lookup,
        etag,
        externalId: externalId(one.external),
        force: one.force,
      });
    case "delete":
      return done(method.deleteEntity, { lookup, etag });
    case "undelete":
      return done(method.undeleteEntity, { lookup, etag });
  }
}

/** Makes the request ids of several grounds differ. */
const idPart = (prefix: string) => createHash("sha256").update(prefix).digest("hex").slice(0, 4);

// --- What is left -------------------------------------------------------------------------------

export interface Trace {
  answers: Answer[];
  tables: Record<string, unknown[]>;
}

/**
 * The answers and every row of the ground, comparable with those of another run: entities are named by the order of
 * their creation, etags by the entity and the time that they came with, times by their order. Dropped: the ids of
 * events, their seals (each has a salt of its own; the harness checks the chains) and the time of a request's record. Sorted: the candidates of an ambiguous tax id, which are in the order
 * of their ids.
 */
export async function traceOf(service: TestService, ground: Ground, answers: readonly Answer[]): Promise<Trace> {
  const { organizationId, prefix } = ground;
  const rows = (table: string, order: string, dropped = "") =>
    service
      .sql<{ row: Record<string, unknown> }>(
        `select to_jsonb(t) - array['organization_id'${dropped}] as row from ${table} t
         where organization_id = $1 order by ${order}`,
        [organizationId],
      )
      .then((found) => found.map(({ row }) => row));
  const [entities, externalIds, past, events, transactions, userEvents, requests] = await Promise.all([
    rows("entity", "id", ", 'audit_head'"),
    rows("external_id", "external_id"),
    rows("external_id_past", "external_id, attached_at", ", 'event_id'"),
    rows("entity_event", "recorded_at, id", ", 'id', 'xid', 'salt', 'personal_hash', 'previous_hash', 'hash'"),
    rows("transaction", "id", ", 'recorded_at'"),
    rows("user_event", "id", ", 'recorded_at'"),
    rows("request_record", "principal, method, request_id", ", 'created_at', 'request_hash'"),
  ]);
  const mine = new Set(
    entities?.filter((row) => String(row.name).startsWith(prefix) || prefix === "").map((row) => row.id),
  );
  const log = (events ?? []).filter((event) => mine.has(event.entity_id));
  const names = new Map<string, string>();
  for (const event of log) if (event.type === "CREATED") names.set(String(event.entity_id), `entity ${names.size}`);
  const instants = new Map<bigint, string>();
  for (const event of log) {
    const { mergeId } = event.metadata as { mergeId?: string };
    if (mergeId !== undefined) names.set(mergeId, "merge");
    const at = parseInstant(String(event.recorded_at));
    if (!instants.has(at)) instants.set(at, `time ${instants.size}`);
  }
  const time = (text: string) => {
    if (!/^\d{4}-\d\d-\d\d[T ]\d\d:/.test(text)) return undefined;
    return instants.get(parseInstant(text));
  };

  const etags = new Map(ground.seeds.map(({ etag }, i) => [etag, `first etag of seed ${i}`]));
  const noteEtags = (value: unknown): void => {
    if (value === null || typeof value !== "object") return;
    const { id, etag, updatedAt, updated_at } = value as Record<string, string | undefined>;
    const at = updatedAt ?? updated_at;
    if (id !== undefined && etag !== undefined && at !== undefined)
      etags.set(etag, `etag of ${names.get(id)} at ${time(at)}`);
    for (const inner of Object.values(value)) noteEtags(inner);
  };
  noteEtags(answers);
  noteEtags(entities);

  const label = (value: unknown): unknown => {
    if (typeof value === "string") {
      if (/^[0-9a-f-]{36}(,[0-9a-f-]{36})+$/.test(value)) return value.split(",").map(label).sort().join();
      if (value === organizationId) return "organization";
      return names.get(value) ?? etags.get(value) ?? time(value) ?? value;
    }
    if (Array.isArray(value)) return value.map(label);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, label(inner)]));
  };
  const answerOf = ({ method, response, ...row }: Record<string, unknown>) => {
    const { output } = EntityService.methods.find(({ name }) => name === method) as DescMethodUnary;
    return {
      method,
      ...row,
      response: toJson(output, fromBinary(output, Buffer.from(String(response).slice(2), "hex"))),
    };
  };
  const part = `-${idPart(prefix)}-`;
  return {
    answers: label(answers) as Answer[],
    tables: label({
      entities: (entities ?? []).filter((row) => mine.has(row.id)).toSorted((a, b) => rank(names, a) - rank(names, b)),
      externalIds: (externalIds ?? []).filter((row) => mine.has(row.entity_id)),
      past: (past ?? []).filter((row) => mine.has(row.entity_id)),
      events: log,
      transactions: (transactions ?? []).filter((row) => mine.has(row.origin_entity_id)),
      userEvents: (userEvents ?? []).filter((row) => mine.has(row.entity_id)),
      requests: (requests ?? []).filter((row) => String(row.request_id).includes(part)).map(answerOf),
    }) as Trace["tables"],
  };
}

const rank = (names: ReadonlyMap<string, string>, row: Record<string, unknown>) =>
  Number(names.get(String(row.id))?.slice("entity ".length));
