// Provokes every reason of the contract. The text, the details, the log and the metrics contain nothing of the request
// that provoked it (rule 75).

import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import pg from "pg";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EntityService } from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import {
  createEntityClient,
  type EntityClient,
  EntityStatus,
  EntityType,
  ErrorReasonSchema,
} from "../clients/typescript/index.ts";
import type { Config } from "../src/config.ts";
import type { Reason } from "../src/domain/errors.ts";
import { CODE } from "../src/errors.ts";
import { decodePosition, encodePosition } from "../src/log/position.ts";
import {
  NO_DEADLINE,
  type Refusal,
  refusal,
  startService,
  type TestOrganization,
  type TestService,
} from "./harness.ts";
import {
  type DatabaseProxy,
  everythingIn,
  everythingInError,
  messagesOf,
  type OtherServer,
  openWire,
  refusalIn,
  startOther,
  startProxy,
} from "./wall-harness.ts";

const PREFIX = "ERROR_REASON_";
const REASONS = ErrorReasonSchema.values
  .filter((value) => value.number !== 0)
  .map((value) => value.name.slice(PREFIX.length) as Reason);

// Sent in every field of every provoking call. None of them occurs in any text of the service.
const NAME = "Zoraida Quintanilla";
const TAX_ID = "27-31415926-5";
const TAX_KEY = "27314159265";
const ADDRESS = "Calle Falsa 742";
const EXTERNAL_ID = "zq-external-31415";
const EMAIL = "zoraida@quintanilla.example";
const KEYS = "zq_attribute";
const REASON = "Zoraida asked for it";
const CANARIES = [NAME, TAX_ID, TAX_KEY, ADDRESS, EXTERNAL_ID, EMAIL, KEYS, REASON, "Zoraida", "Quintanilla", "31415"];

let service: TestService;
let a: TestOrganization;
let proxy: DatabaseProxy;
const lines: string[] = [];
const said: string[] = [];
const log = pino({ level: "trace" }, { write: (line: string) => void lines.push(line) });

const full = (more: object = {}) => ({
  type: EntityType.PERSON,
  name: NAME,
  countryCode: "AR",
  taxId: TAX_ID,
  externalId: EXTERNAL_ID,
  entityData: {
    kind: {
      case: "person" as const,
      value: {
        firstName: NAME,
        email: EMAIL,
        address: { street: ADDRESS, additional: { [KEYS]: ADDRESS } },
        additional: { [KEYS]: NAME },
      },
    },
  },
  attributes: { [KEYS]: NAME },
  metadata: { [KEYS]: { [KEYS]: ADDRESS } },
  ...more,
});
const byExternal = (value = EXTERNAL_ID) => ({ by: { case: "externalId" as const, value } });
const byTax = () => ({ by: { case: "taxId" as const, value: TAX_ID } });

beforeAll(async () => {
  service = await startService({ log });
  a = await service.newOrganization();
  proxy = await startProxy();
});
afterAll(async () => {
  await proxy[Symbol.asyncDispose]();
  await service[Symbol.asyncDispose]();
});

/** A new organization of the service: provocations do not affect each other. */
const fresh = async (policy?: "IMMUTABLE") => (await service.newOrganization(policy)).client;
const withKey = (baseUrl: string, apiKey: string, more: object = {}) =>
  createEntityClient({ baseUrl, apiKey, actorId: "somebody", ...NO_DEADLINE, ...more });

/** Runs `work` against a separate service with these settings. */
async function on(
  config: Partial<Config>,
  work: (client: EntityClient, other: OtherServer) => Promise<unknown>,
  address?: DatabaseProxy,
): Promise<unknown> {
  await using other = await startOther(service, { config, log, ...(address && { address }) });
  return await work(withKey(other.baseUrl, a.apiKey), other);
}

/** Locks all entities while `work` runs. */
async function whileLocked<T>(work: () => Promise<T>): Promise<T> {
  const holder = new pg.Client(service.database);
  await holder.connect();
  await holder.query("begin; lock table entity in access exclusive mode");
  try {
    return await work();
  } finally {
    await holder.query("rollback");
    await holder.end();
  }
}

/** Resolves when a call of the service waits for the lock. */
const waiting = () =>
  expect
    .poll(() =>
      service.sql("select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"),
    )
    .not.toEqual([]);

/** How to provoke each reason, with canaries in all that is sent. Each throws the refusal. */
const PROVOKE: Record<Reason, () => Promise<unknown>> = {
  VALIDATION_ERROR: async () =>
    (await fresh()).entities.createEntity({
      entity: full({ name: `${NAME}\u0000`, attributes: { [`${KEYS}.${NAME}`]: Number.NaN } }),
    }),
  INVALID_LOOKUP: async () => (await fresh()).entities.updateEntity({ entity: full(), reason: REASON }),
  IMMUTABLE_FIELD: async () => {
    const { entities } = await fresh();
    await entities.createEntity({ entity: full() });
    return entities.updateEntity({
      lookup: byTax(),
      entity: full({ type: EntityType.COMPANY, entityData: undefined }),
      reason: REASON,
    });
  },
  STATUS_REASON_REQUIRED: async () =>
    (await fresh()).entities.createEntity({ entity: full({ status: EntityStatus.BLOCKED }) }),
  NOT_FOUND: async () =>
    (await fresh()).entities.changeExternalId({ lookup: byTax(), newExternalId: EXTERNAL_ID, reason: REASON }),
  DUPLICATE_EXTERNAL_ID: async () => {
    const { entities } = await fresh();
    await entities.createEntity({ entity: full() });
    return entities.createEntity({ entity: full() });
  },
  DUPLICATE_TAX_ID: async () => {
    const { entities } = await fresh();
    await entities.createEntity({ entity: full() });
    return entities.createEntity({ entity: full({ externalId: "" }), requireUniqueTaxId: true });
  },
  RISK_MATRIX_REQUIRED: async () => {
    const { entities } = await fresh();
    await entities.createEntity({ entity: full() });
    return entities.analyzeEntity({ lookup: byTax() });
  },
  RISK_EVALUATION_FAILED: async () => {
    const { entities, riskMatrices } = await fresh();
    const expression = `entity.attributes['${KEYS}'].exists(x, x + 0.5 in entity.attributes['${KEYS}'])`;
    const rules = [{ id: "slow", displayName: NAME, expression, points: "1" }];
    const { matrix } = await riskMatrices.createRiskMatrix({ matrix: { displayName: NAME, rules } });
    const attributes = { [KEYS]: Array.from({ length: 20_000 }, () => 1) };
    await entities.createEntity({ entity: full({ riskMatrixId: matrix?.id, attributes }) });
    return entities.analyzeEntity({ lookup: byTax() });
  },
  AMBIGUOUS_TAX_ID_LOOKUP: async () => {
    const { entities } = await fresh();
    await entities.createEntity({ entity: full() });
    await entities.createEntity({ entity: full({ externalId: "" }) });
    return entities.getEntity({ lookup: byTax() });
  },
  EXTERNAL_ID_IMMUTABLE: async () => {
    const { entities } = await fresh("IMMUTABLE");
    await entities.createEntity({ entity: full() });
    return entities.changeExternalId({ lookup: byExternal(), newExternalId: `${EXTERNAL_ID}-2`, reason: REASON });
  },
  EXTERNAL_ID_ALREADY_ASSIGNED: async () => {
    const { entities } = await fresh();
    await entities.createEntity({ entity: full() });
    return entities.assignExternalId({ lookup: byTax(), externalId: `${EXTERNAL_ID}-2`, reason: REASON });
  },
  EXTERNAL_ID_IN_USE: async () => {
    const { entities } = await fresh();
    await entities.createEntity({ entity: full() });
    const alias = { externalId: `${EXTERNAL_ID}-2` };
    await entities.addExternalIds({ lookup: byExternal(), externalIds: [alias], reason: REASON });
    return entities.releaseExternalId({ lookup: byExternal(), ...alias, reason: REASON });
  },
  ENTITY_DELETED: async () => {
    const { entities } = await fresh();
    await entities.createEntity({ entity: full() });
    await entities.deleteEntity({ lookup: byExternal(), reason: REASON });
    return entities.updateEntity({ lookup: byExternal(), entity: full(), reason: REASON });
  },
  REQUEST_ID_REUSED: async () => {
    const { entities } = await fresh();
    const requestId = randomUUID();
    await entities.createEntity({ entity: full(), requestId });
    return entities.createEntity({ entity: full({ name: `${NAME} 2` }), requestId });
  },
  ETAG_MISMATCH: async () => {
    const { entities } = await fresh();
    await entities.createEntity({ entity: full() });
    return entities.updateEntity({ lookup: byExternal(), entity: full(), etag: NAME });
  },
  WRITE_CONFLICT: () =>
    on({ lockTimeoutMs: 200 }, async (client) => {
      await client.entities.createEntity({ entity: full({ externalId: `${EXTERNAL_ID}-held` }) });
      return whileLocked(() =>
        client.entities.updateEntity({ lookup: byExternal(`${EXTERNAL_ID}-held`), entity: full({ name: REASON }) }),
      );
    }),
  UNAUTHENTICATED: () => withKey(service.baseUrl, EXTERNAL_ID).entities.createEntity({ entity: full() }),
  PERMISSION_DENIED: async () => (await a.clientWith(["activity:read"])).entities.createEntity({ entity: full() }),
  OVERLOADED: () =>
    on({ maxInFlight: 1, lockTimeoutMs: 10_000 }, async (client) => {
      await client.entities.listEntities({});
      return whileLocked(async () => {
        const first = client.entities.createEntity({ entity: full({ externalId: "" }) }).catch(() => {});
        await waiting();
        try {
          return await client.entities.createEntity({ entity: full({ externalId: "" }) });
        } finally {
          void first;
        }
      });
    }),
  MESSAGE_TOO_LARGE: () =>
    on({ maxMessageBytes: 2_048 }, (client) =>
      client.entities.createEntity({ entity: full(), reason: REASON.repeat(150) }),
    ),
  DATABASE_UNAVAILABLE: () =>
    on(
      {},
      async (client) => {
        await client.entities.listEntities({});
        await proxy.refuse();
        try {
          return await client.entities.createEntity({ entity: full() });
        } finally {
          await proxy.accept();
        }
      },
      proxy,
    ),
  COMMIT_UNKNOWN: () =>
    on(
      {},
      async (client) => {
        await client.entities.listEntities({});
        proxy.cutAtCommit("after");
        return client.entities.createEntity({ entity: full({ externalId: "" }) });
      },
      proxy,
    ),
  DEADLINE_EXCEEDED: () =>
    on({ defaultTimeoutMs: 1_000, lockTimeoutMs: 4_000 }, async (client) => {
      await client.entities.listEntities({});
      return whileLocked(() => client.entities.createEntity({ entity: full({ externalId: "" }) }));
    }),
  INTERNAL: async () => {
    // A defect whose text, detail and hint contain what the caller sent.
    const { entities } = await fresh();
    await entities.createEntity({ entity: full() });
    await service.sql(`create function defect() returns trigger language plpgsql as $$
      begin raise exception 'select %, % from entity', new.name, new.tax_id using detail = new.entity_data::text, hint = new.name; end $$`);
    await service.sql("create trigger defect before update on entity for each row execute function defect()");
    try {
      return await entities.updateEntity({ lookup: byExternal(), entity: full({ name: `${NAME} 2` }), reason: REASON });
    } finally {
      await service.sql("drop function defect cascade");
    }
  },
  UNIMPLEMENTED: async () => {
    await using wire = openWire(service.baseUrl, a.apiKey);
    const two = { entity: full() };
    const answer = await wire.call(EntityService.method.createEntity, [two, two]);
    said.push(everythingIn(answer));
    throw errorOf(answer);
  },
  CANCELLED: async () => {
    // A caller that left gets no answer; the outcome is in the log of the service.
    const before = lines.length;
    const leaving = new AbortController();
    await whileLocked(async () => {
      const call = withKey(service.baseUrl, a.apiKey).entities.createEntity(
        { entity: full({ externalId: "" }), reason: REASON },
        { signal: leaving.signal },
      );
      call.catch(() => {});
      await waiting();
      leaving.abort();
      await expect.poll(() => lines.slice(before).some((line) => JSON.parse(line).reason === "CANCELLED")).toBe(true);
    });
    throw new Cancelled();
  },
  POSITION_INVALID: async () => next((await fresh()).entities.watchEntities({ position: TAX_KEY })),
  POSITION_EXPIRED: async () => {
    const own = await service.newOrganization();
    const { watchPosition } = await own.client.entities.listEntities({});
    const position = encodePosition(own.id, { ...decodePosition(own.id, watchPosition), epoch: randomUUID() });
    return next(own.client.entities.watchEntities({ position }));
  },
  WATCH_TOO_SLOW: async () => {
    const { entities } = await fresh();
    const stream = entities.watchEntities({})[Symbol.asyncIterator]();
    await stream.next();
    // More than the service keeps for a slow reader.
    const rows = async function* () {
      for (let i = 0; i < 7_000; i++) yield { entity: full({ externalId: `${EXTERNAL_ID}-${i}` }) };
    };
    for await (const _ of entities.importEntities(rows())) void _;
    for (;;) await stream.next();
  },
  READ_TIME_EXPIRED: async () => {
    const own = await service.newOrganization();
    const { entity } = await own.client.entities.createEntity({ entity: full() });
    await service.sql(
      "insert into event_horizon values ($1, 0, pg_current_xact_id(), pg_current_snapshot(), clock_timestamp())",
      [own.id],
    );
    return own.client.entities.getEntity({ lookup: byExternal(), readTime: entity?.createdAt });
  },
  MERGE_NOT_ALLOWED: async () => {
    const { entities } = service.client;
    const { entity } = await entities.createEntity({ entity: full({ externalId: undefined }) });
    const lookup = { by: { case: "entityId" as const, value: entity?.id ?? "" } };
    return entities.mergeEntities({ primary: lookup, secondary: lookup, reason: "the same person" });
  },
};

/** The first message of a stream. */
async function next<T>(stream: AsyncIterable<T>): Promise<T | undefined> {
  for await (const message of stream) return message;
  return undefined;
}

class Cancelled extends Error {}

/** The error of a wire call, as a client would throw it. */
function errorOf(answer: Parameters<typeof refusalIn>[0]): Error {
  return Object.assign(new Error("refused"), { refused: refusalIn(answer) });
}

async function provoke(reason: Reason): Promise<Refusal | undefined> {
  const call = PROVOKE[reason]();
  const error: unknown = await call.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (error instanceof Cancelled) return undefined;
  if (error instanceof Error && "refused" in error) return error.refused as Refusal;
  if (error !== undefined) said.push(everythingInError(error));
  return refusal(call);
}

describe("the table of reasons", () => {
  test("is the enum of the contract, the union of the domain, and has a code for each", async () => {
    expect(REASONS.length).toBeGreaterThan(20);
    const source = await readFile(new URL("../src/domain/errors.ts", import.meta.url), "utf8");
    const union =
      /export type Reason =([^;]+);/
        .exec(source)?.[1]
        ?.match(/"(\w+)"/g)
        ?.map((word) => word.slice(1, -1)) ?? [];
    expect(union.toSorted()).toEqual(REASONS.toSorted());
    expect(Object.keys(CODE).toSorted()).toEqual(REASONS.toSorted());
    expect(Object.keys(PROVOKE).toSorted()).toEqual(REASONS.toSorted());
  });

  test("has the codes that the contract's comments name", async () => {
    const proto = await readFile(new URL("../proto/entity/v1/error.proto", import.meta.url), "utf8");
    const named = [...proto.matchAll(/((?:^ *\/\/.*\n)+) *ERROR_REASON_(\w+) = [1-9]/gm)];
    expect(named).toHaveLength(REASONS.length);
    for (const [, comment, reason] of named) {
      const word = /^ *\/\/ ([A-Z_]+)\./.exec(comment ?? "")?.[1] ?? "";
      const name =
        word === "CANCELLED"
          ? "Canceled"
          : word.toLowerCase().replace(/(^|_)([a-z])/g, (_, __, letter: string) => letter.toUpperCase());
      expect(CODE[reason as Reason], `${reason}: ${word}`).toBe(Code[name as keyof typeof Code]);
    }
  });

  test("numbers and names are for ever", () => {
    expect(
      Object.fromEntries(ErrorReasonSchema.values.map((value) => [value.number, value.name.slice(PREFIX.length)])),
    ).toMatchObject({
      ...[
        "UNSPECIFIED",
        "VALIDATION_ERROR",
        "INVALID_LOOKUP",
        "IMMUTABLE_FIELD",
        "STATUS_REASON_REQUIRED",
        "NOT_FOUND",
        "DUPLICATE_EXTERNAL_ID",
      ],
      7: "DUPLICATE_TAX_ID",
      8: "AMBIGUOUS_TAX_ID_LOOKUP",
      9: "EXTERNAL_ID_IMMUTABLE",
      10: "EXTERNAL_ID_ALREADY_ASSIGNED",
      11: "ENTITY_DELETED",
      12: "REQUEST_ID_REUSED",
      13: "ETAG_MISMATCH",
      14: "WRITE_CONFLICT",
      15: "UNAUTHENTICATED",
      16: "PERMISSION_DENIED",
      17: "OVERLOADED",
      18: "MESSAGE_TOO_LARGE",
      19: "DATABASE_UNAVAILABLE",
      20: "COMMIT_UNKNOWN",
      21: "DEADLINE_EXCEEDED",
      22: "INTERNAL",
      23: "UNIMPLEMENTED",
      24: "CANCELLED",
      25: "POSITION_INVALID",
      26: "POSITION_EXPIRED",
      27: "WATCH_TOO_SLOW",
      28: "EXTERNAL_ID_IN_USE",
      29: "READ_TIME_EXPIRED",
      30: "MERGE_NOT_ALLOWED",
      31: "RISK_MATRIX_REQUIRED",
      32: "RISK_EVALUATION_FAILED",
    });
  });
});

/** The metadata that the contract promises, and nothing else. */
const METADATA: Record<Reason, string[]> = {
  VALIDATION_ERROR: ["field"],
  INVALID_LOOKUP: ["field"],
  IMMUTABLE_FIELD: ["field"],
  STATUS_REASON_REQUIRED: ["field", "status"],
  NOT_FOUND: ["lookup"],
  DUPLICATE_EXTERNAL_ID: ["field"],
  DUPLICATE_TAX_ID: ["field"],
  AMBIGUOUS_TAX_ID_LOOKUP: ["candidates"],
  EXTERNAL_ID_IMMUTABLE: ["allowed"],
  EXTERNAL_ID_ALREADY_ASSIGNED: ["allowed"],
  EXTERNAL_ID_IN_USE: ["tracked_since", "allowed"],
  ENTITY_DELETED: ["entity_id", "allowed"],
  REQUEST_ID_REUSED: ["request_id"],
  ETAG_MISMATCH: ["etag", "entity_id"],
  WRITE_CONFLICT: ["retry_after_ms"],
  UNAUTHENTICATED: [],
  PERMISSION_DENIED: ["scope"],
  OVERLOADED: ["retry_after_ms"],
  MESSAGE_TOO_LARGE: ["limit_bytes"],
  DATABASE_UNAVAILABLE: ["retry_after_ms"],
  COMMIT_UNKNOWN: [],
  DEADLINE_EXCEEDED: [],
  INTERNAL: ["request_id"],
  UNIMPLEMENTED: [],
  CANCELLED: [],
  POSITION_INVALID: ["field"],
  POSITION_EXPIRED: ["field"],
  WATCH_TOO_SLOW: ["position"],
  READ_TIME_EXPIRED: ["field", "earliest"],
  MERGE_NOT_ALLOWED: ["cause", "entity_id"],
  RISK_MATRIX_REQUIRED: ["entity_id"],
  RISK_EVALUATION_FAILED: ["risk_matrix_id", "matrix_version", "rule"],
};

test.each(REASONS)("%s: its code, its metadata, no value of the call in any of it", async (reason) => {
  const from = lines.length;
  const refused = await provoke(reason);
  if (refused !== undefined) {
    expect(refused).toMatchObject({ reason, code: CODE[reason] });
    expect(Object.keys(refused.metadata).toSorted()).toEqual(METADATA[reason].toSorted());
    expect(refused.message).not.toBe("");
    expect(refused.message.length).toBeLessThan(300);
  }
  await expect.poll(() => lines.slice(from).map((line) => JSON.parse(line).reason)).toContain(reason);
  const told = [...said, ...lines, JSON.stringify(refused ?? {})].join("\n");
  for (const canary of CANARIES) expect(told, canary).not.toContain(canary);
});

describe("rule 75", () => {
  test("an INTERNAL error names the request of its log line, and the line says where, not what", async () => {
    const from = lines.length;
    const refused = await provoke("INTERNAL");
    expect(refused).toMatchObject({ reason: "INTERNAL", message: "internal error", fields: [] });
    const own = lines
      .slice(from)
      .map((line) => JSON.parse(line))
      .filter((line) => line.requestId === refused?.metadata.request_id);
    expect(own.map((line) => line.msg).toSorted()).toEqual(["call", "call failed by a defect"]);
    const defect = own.find((line) => line.msg !== "call");
    expect(defect).toMatchObject({
      level: 50,
      method: "entity.v1.EntityService/UpdateEntity",
      error: { name: expect.any(String), frames: expect.any(Array) },
    });
    expect(JSON.stringify(defect)).toContain("src/");
    expect(JSON.stringify(defect)).toContain("P0001");
    expect(JSON.stringify(defect)).not.toMatch(/select |update entity/i);
  });

  test("no refusal of a row of an import or of a lookup of a batch tells more than one of a call", async () => {
    const { entities } = await fresh();
    await entities.createEntity({ entity: full() });
    await entities.createEntity({ entity: full({ externalId: "" }) });
    await using wire = openWire(service.baseUrl, (await service.newOrganization()).apiKey);
    const rows = [
      full({ status: EntityStatus.BLOCKED }),
      full({ name: `${NAME}\u0000` }),
      full({ externalId: "", countryCode: NAME }),
      full({ attributes: { [NAME]: "\u0000", [KEYS]: 1e300 } }),
    ];
    const answer = await wire.call(
      EntityService.method.importEntities,
      rows.map((entity) => ({ entity, reason: "" })),
    );
    const text = everythingIn(answer);
    for (const canary of CANARIES.filter((word) => word !== KEYS)) expect(text, canary).not.toContain(canary);
    expect(messagesOf(EntityService.method.importEntities, answer)).not.toEqual([]);
    const { results } = await entities.batchGetEntities({ lookups: [byTax(), byExternal(`${EXTERNAL_ID}-nobody`)] });
    for (const { result } of results) {
      expect(result.case).toBe("error");
      const told = `${result.case === "error" ? result.value.message : ""}${result.case === "error" ? result.value.details.map((detail) => Buffer.from(detail.value).toString("latin1")).join("") : ""}`;
      for (const canary of CANARIES) expect(told, canary).not.toContain(canary);
    }
  });

  test("what the decoder stumbles over is not repeated: JSON with values where others are wanted", async () => {
    const bodies = [
      `{"entity":{"name":["${NAME}"]}}`,
      `{"entity":"${NAME}"}`,
      `{"entity":{"type":"${NAME}"}}`,
      `{"entity":{"${NAME}":1}}`,
      `{"entity":{"entityData":{"person":{"${NAME}":"${ADDRESS}"}}}}`,
      `{"entity":{"attributes":"${NAME}"}}`,
      `{"occurredAt":"${NAME}"}`,
      `{"entity":{"createdAt":{"${NAME}":1}}}`,
      `{"validateOnly":"${TAX_ID}"}`,
      `{"entity":{"attributes":{"${NAME}":1,"${NAME}":2}}}`,
      `{"entity":{"name":"${NAME}`,
      `${NAME}`,
      `{"entity":{"entityData":{"company":{"employees":"${TAX_ID}"}}}}`,
      `{"updateMask":"${NAME}"}`,
    ];
    for (const rpc of ["CreateEntity", "UpdateEntity"]) {
      for (const body of bodies) {
        const response = await fetch(`${service.baseUrl}/entity.v1.EntityService/${rpc}`, {
          method: "POST",
          headers: { "content-type": "application/json", authorization: `Bearer ${a.apiKey}` },
          body,
        });
        const text = await response.text();
        expect(response.status, body).toBe(400);
        const details = (JSON.parse(text) as { details: { value: string }[] }).details.map((detail) =>
          Buffer.from(detail.value, "base64").toString("latin1"),
        );
        for (const canary of CANARIES) expect([text, ...details].join("\n"), body).not.toContain(canary);
      }
    }
  });

  test("paths: keys of structs that could be data are not in them", async () => {
    const { entities } = await fresh();
    for (const attributes of [
      { [NAME]: Number.NaN },
      { a: { [TAX_ID]: "\u0000" } },
      { [`${EMAIL}`]: 1 },
      { [`k\u0000${NAME}`]: 1 },
    ]) {
      const error = await entities.createEntity({ entity: full({ attributes }) }).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(ConnectError);
      const text = everythingInError(error);
      said.push(text);
      for (const canary of CANARIES) expect(text, canary).not.toContain(canary);
    }
    const masks = await entities
      .updateEntity({
        lookup: byExternal(),
        entity: full(),
        updateMask: { paths: [NAME, `name.${TAX_KEY}`, "zoraida"] },
      })
      .catch(everythingInError);
    expect(masks).not.toContain(NAME);
  });

  test("neither the log nor /metrics, after all of the above, holds any of it, nor a secret", async () => {
    const metrics = await (await fetch(`${service.baseUrl}/metrics`)).text();
    expect(metrics).toContain("entity_service_rpc_errors_total");
    for (const reason of ["VALIDATION_ERROR", "NOT_FOUND", "INTERNAL", "CANCELLED"])
      expect(metrics).toContain(`reason="${reason}"`);
    const all = [metrics, ...lines];
    expect(lines.length).toBeGreaterThan(60);
    for (const canary of [...CANARIES, a.apiKey, service.organization.apiKey]) {
      expect(all.filter((text) => text.includes(canary)).slice(0, 3), canary).toEqual([]);
    }
    for (const line of lines) expect(line).not.toMatch(/Bearer|select .* from|insert into|update entity/i);
  });

  test("a call's line has these fields and no other", () => {
    const known = [
      "level",
      "time",
      "pid",
      "hostname",
      "method",
      "protocol",
      "code",
      "reason",
      "durationMs",
      "organizationId",
      "apiKeyId",
      "peer",
      "requestId",
      "callerRequestId",
      "traceId",
      "msg",
    ];
    const calls = lines
      .map((line) => JSON.parse(line) as Record<string, unknown>)
      .filter((line) => line.msg === "call");
    expect(calls.flatMap((line) => Object.keys(line)).filter((key) => !known.includes(key))).toEqual([]);
  });
});
