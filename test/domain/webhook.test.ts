// The rules of webhooks as pure functions: what goes out, when, and what an answer means.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { changedFields, changedValues } from "../../src/domain/changed-fields.ts";
import { newEntity, remove, update } from "../../src/domain/entity.ts";
import type { EntityState } from "../../src/domain/entity-state.ts";
import {
  afterAttempts,
  bodyOf,
  deliveriesOf,
  type EndpointFailures,
  failedForTooLong,
  judge,
  type LoggedEvent,
  MAX_ATTEMPTS,
  nextAttempt,
  type Subscription,
  type Verdict,
  WEBHOOK_EVENTS,
} from "../../src/domain/webhook.ts";

const NOW = 1_766_590_200_000_000n; // 2025-12-24T15:30:00Z

const all: Subscription = { eventTypes: [], entityTypes: [], statusChanges: "ALONE" };
const always: Subscription = { ...all, statusChanges: "ALWAYS" };

const event = (values: Partial<LoggedEvent> = {}): LoggedEvent => ({
  id: "0190a5f3-0000-7000-8000-00000000000e",
  type: "ATTRIBUTE_CHANGED",
  entityId: "0190a5f3-0000-7000-8000-000000000001",
  entityVersion: 7,
  entityType: "person",
  externalId: "customer-12345",
  updatedFields: ["name", "entityData"],
  previousValues: { name: "John Doe", entityData: { person: { firstName: "John" } } },
  newValues: { name: "John Michael Doe", entityData: { person: { firstName: "John", middleName: "Michael" } } },
  actor: "user-uuid",
  source: "crm",
  reason: "",
  recordedAt: NOW,
  previousHash: Uint8Array.of(1, 2, 3),
  hash: Uint8Array.of(4, 5, 6),
  ...values,
});
const statusEvent = (values: Partial<LoggedEvent> = {}): LoggedEvent =>
  event({
    updatedFields: ["status"],
    previousValues: { status: "active" },
    newValues: { status: "blocked" },
    reason: "Failed sanctions screening",
    ...values,
  });
const combined = event({
  updatedFields: ["name", "status"],
  previousValues: { name: "A", status: "active" },
  newValues: { name: "B", status: "blocked" },
});

/** The event of a change that the rules of entities make. */
function eventOf(before: EntityState | null, after: EntityState, type: LoggedEvent["type"]): LoggedEvent {
  const updatedFields = changedFields(before, after);
  return event({ type, updatedFields, ...changedValues(before, after, updatedFields) });
}
const stored = (values: Parameters<typeof changedFields>[1]): EntityState => ({
  ...values,
  id: "1",
  organizationId: "0",
  version: 1,
  etag: "1",
  createdAt: NOW,
  updatedAt: NOW,
});

describe("what an event sends", () => {
  it("rule 65: entity.status_changed alone where status alone changed", () => {
    expect(deliveriesOf(statusEvent(), all)).toEqual(["entity.status_changed"]);
    expect(deliveriesOf(statusEvent(), always)).toEqual(["entity.status_changed"]);
  });

  it("rule 94: of a merge entity.status_changed is sent with ALWAYS alone, behind entity.updated, where the status changed", () => {
    for (const type of ["MERGE_RECEIVED", "MERGE_RETURNED"] as const) {
      const merged = event({ type, updatedFields: ["externalIds", "status"] });
      expect(deliveriesOf(merged, all)).toEqual(["entity.updated"]);
      expect(deliveriesOf(merged, always)).toEqual(["entity.updated", "entity.status_changed"]);
      expect(deliveriesOf({ ...merged, updatedFields: ["externalIds"] }, always)).toEqual(["entity.updated"]);
      // An entity without external ids, and a status alone: it is a merge all the same.
      expect(deliveriesOf({ ...merged, updatedFields: ["status"] }, all)).toEqual(["entity.updated"]);
    }
    expect(deliveriesOf(event({ type: "MERGED", updatedFields: ["mergedInto"] }), always)).toEqual(["entity.merged"]);
    expect(deliveriesOf(event({ type: "UNMERGED", updatedFields: ["status"] }), always)).toEqual(["entity.unmerged"]);
    const marked = event({ type: "DISTINCT_MARKED", updatedFields: [] });
    expect(deliveriesOf(marked, { ...all, eventTypes: ["entity.distinct_marked"] })).toEqual([
      "entity.distinct_marked",
    ]);
  });

  it("rule 65: entity.updated where more changed, and with ALWAYS entity.status_changed behind it", () => {
    expect(deliveriesOf(combined, all)).toEqual(["entity.updated"]);
    expect(deliveriesOf(combined, always)).toEqual(["entity.updated", "entity.status_changed"]);
    expect(deliveriesOf(event(), always)).toEqual(["entity.updated"]);
  });

  it("rule 65: a creation with a status is entity.created only, whatever was asked for", () => {
    const created = stored(
      newEntity({ type: "person", countryCode: "AR", name: "A", status: "active" }, "", NOW).values,
    );
    const creation = eventOf(null, created, "CREATED");
    expect(creation.updatedFields).toContain("status");
    expect(deliveriesOf(creation, always)).toEqual(["entity.created"]);
    expect(deliveriesOf({ ...creation, updatedFields: ["status"] }, always)).toEqual(["entity.created"]);
  });

  it("rule 65: unchanged and ignored fields beside status do not count, a reason neither", () => {
    const entity = stored(
      newEntity({ type: "person", countryCode: "AR", name: "A", status: "active" }, "", NOW).values,
    );
    const change = update(entity, { status: "blocked", name: "A", countryCode: "AR" }, "a match");
    const blocked = stored(change?.values ?? entity);
    expect(deliveriesOf(eventOf(entity, blocked, "ATTRIBUTE_CHANGED"), always)).toEqual(["entity.status_changed"]);
  });

  it("rule 64: every other event goes by the name that watchers see", () => {
    const entity = stored(newEntity({ type: "person", countryCode: "AR", name: "A" }, "", NOW).values);
    const deleted = eventOf(entity, stored(remove(entity, "closed by request", NOW)?.values ?? entity), "DELETED");
    expect(deliveriesOf(deleted, always)).toEqual(["entity.deleted"]);
    expect(deliveriesOf({ ...deleted, type: "UNDELETED" }, always)).toEqual(["entity.undeleted"]);
    expect(deliveriesOf(event({ type: "EXTERNAL_ID_CHANGED" }), always)).toEqual(["entity.updated"]);
  });

  it("rule 65: an endpoint gets only the events and the types of entities that it asked for", () => {
    const only = (eventTypes: Subscription["eventTypes"]) => ({ ...always, eventTypes });
    expect(deliveriesOf(combined, only(["entity.updated"]))).toEqual(["entity.updated"]);
    expect(deliveriesOf(combined, only(["entity.status_changed"]))).toEqual(["entity.status_changed"]);
    expect(deliveriesOf(combined, { ...only(["entity.status_changed"]), statusChanges: "ALONE" })).toEqual([]);
    // No subscriber of updates misses a block.
    for (const subscription of [
      only(["entity.updated"]),
      { ...only(["entity.updated"]), statusChanges: "ALONE" },
    ] as const) {
      expect(deliveriesOf(statusEvent(), subscription)).toEqual(["entity.updated"]);
      expect(deliveriesOf(statusEvent(), { ...subscription, eventTypes: ["entity.created"] })).toEqual([]);
      expect(
        deliveriesOf(statusEvent(), { ...subscription, eventTypes: ["entity.updated", "entity.status_changed"] }),
      ).toEqual(["entity.status_changed"]);
    }
    expect(deliveriesOf(statusEvent(), only(["entity.created", "entity.status_changed"]))).toEqual([
      "entity.status_changed",
    ]);
    expect(deliveriesOf(event(), { ...all, entityTypes: ["company"] })).toEqual([]);
    expect(deliveriesOf(event(), { ...all, entityTypes: ["company", "person"] })).toEqual(["entity.updated"]);
  });
});

describe("bodies", () => {
  it("rule 65: entity.status_changed has the eight fields of the seed, and what orders and explains it", () => {
    expect(JSON.parse(bodyOf("entity.status_changed", statusEvent()))).toStrictEqual({
      event: "entity.status_changed",
      entityId: "0190a5f3-0000-7000-8000-000000000001",
      externalId: "customer-12345",
      oldStatus: "active",
      newStatus: "blocked",
      reason: "Failed sanctions screening",
      changedBy: "user-uuid",
      timestamp: "2025-12-24T15:30:00.000Z",
      id: "0190a5f3-0000-7000-8000-00000000000e",
      entityVersion: 7,
      source: "crm",
      previousHash: "AQID",
      hash: "BAUG",
    });
  });

  it("rule 65: of a combined change it has the same fields", () => {
    const body = JSON.parse(bodyOf("entity.status_changed", combined)) as Record<string, unknown>;
    expect(Object.keys(body)).toEqual(Object.keys(JSON.parse(bodyOf("entity.status_changed", statusEvent()))));
    expect(body).toMatchObject({ oldStatus: "active", newStatus: "blocked" });
  });

  it.each(WEBHOOK_EVENTS.filter((name) => name !== "entity.status_changed"))(
    "rule 64: %s has the six fields of the seed, then who, when, why and which version",
    (name) => {
      const { entityId, externalId, updatedFields, previousValues, newValues } = combined;
      expect(JSON.parse(bodyOf(name, combined))).toStrictEqual({
        event: name,
        entityId,
        externalId,
        updatedFields,
        previousValues,
        newValues,
        id: "0190a5f3-0000-7000-8000-00000000000e",
        entityVersion: 7,
        timestamp: "2025-12-24T15:30:00.000Z",
        changedBy: "user-uuid",
        reason: null,
        source: "crm",
        previousHash: "AQID",
        hash: "BAUG",
      });
    },
  );

  it("rules 64 and 65: what there is not is null, and its key is there", () => {
    const body = JSON.parse(bodyOf("entity.status_changed", statusEvent({ externalId: "", reason: "", source: "" })));
    expect(body).toMatchObject({ externalId: null, reason: null, source: null });
    const unsealed = event({ externalId: "", previousHash: null, hash: null });
    expect(JSON.parse(bodyOf("entity.updated", unsealed))).toMatchObject({
      externalId: null,
      previousHash: null,
      hash: null,
    });
  });

  it("rule 66: the timestamp is that of the event, to the microsecond", () => {
    const body = JSON.parse(bodyOf("entity.status_changed", statusEvent({ recordedAt: NOW + 123_456n })));
    expect(body.timestamp).toBe("2025-12-24T15:30:00.123456Z");
  });

  it("rules 61 and 74: values are written as they are, __proto__ too", () => {
    const values = JSON.parse('{"attributes":{"__proto__":{"a":1},"constructor":"x"}}');
    const body = bodyOf("entity.updated", event({ updatedFields: ["attributes"], newValues: values }));
    expect(body).toContain('"newValues":{"attributes":{"__proto__":{"a":1},"constructor":"x"}}');
  });
});

describe("attempts", () => {
  const SECOND = 1_000_000n;
  const dueAfter = (attempts: number, values: { endedAt?: bigint; retryAfterMs?: number; random?: number } = {}) => {
    const { endedAt = NOW + 1n, retryAfterMs = 0, random = 0 } = values;
    const at = nextAttempt({ attempts, firstAttemptAt: NOW, endedAt, retryAfterMs }, random);
    return at === null ? null : at - NOW;
  };

  it("rule 66: seven more after the first: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h and 24 h after it", () => {
    const seconds = [5n, 300n, 1_800n, 7_200n, 18_000n, 36_000n, 86_400n];
    expect(seconds.map((_, i) => dueAfter(i + 1))).toEqual(seconds.map((s) => s * SECOND));
    expect(MAX_ATTEMPTS).toBe(8);
    expect(dueAfter(MAX_ATTEMPTS)).toBeNull();
    expect(dueAfter(MAX_ATTEMPTS, { retryAfterMs: 1_000 })).toBeNull();
  });

  it("rule 66: jitter of up to a tenth of the gap, later and never earlier", () => {
    expect(dueAfter(1, { random: 0.5 })).toBe(5_250_000n);
    expect(dueAfter(2, { random: 1 })).toBe((300n * SECOND * 10n + 295n * SECOND) / 10n);
  });

  it("rule 66: one that is late comes the gap after the one before it, so that attempts never pile up", () => {
    const week = 7n * 86_400n * SECOND;
    expect(dueAfter(3, { endedAt: NOW + week })).toBe(week + 1_500n * SECOND);
    expect(dueAfter(1, { endedAt: NOW + 15n * SECOND, random: 1 })).toBe(20_500_000n);
    expect(dueAfter(1, { endedAt: NOW + 5n * SECOND })).toBe(10n * SECOND);
  });

  it("rule 66: never before what Retry-After says, which is obeyed for an hour at most", () => {
    const endedAt = NOW + SECOND;
    expect(dueAfter(1, { endedAt, retryAfterMs: 60_000 })).toBe(61n * SECOND);
    expect(dueAfter(1, { endedAt, retryAfterMs: 1_000 })).toBe(5n * SECOND);
    expect(dueAfter(1, { endedAt, retryAfterMs: 1e15 })).toBe(3_601n * SECOND);
  });

  it("rule 66: in any course of things the next attempt is after the last, and no sooner than the schedule", () => {
    const course = fc.record({
      attempts: fc.integer({ min: 1, max: MAX_ATTEMPTS - 1 }),
      endedAt: fc.bigInt({ min: NOW, max: NOW + 40n * 86_400n * SECOND }),
      retryAfterMs: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 2 * 86_400_000 })),
      random: fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
    });
    fc.assert(
      fc.property(course, ({ attempts, ...values }) => {
        const next = dueAfter(attempts, values) ?? 0n;
        const ended = values.endedAt - NOW;
        expect(next).toBeGreaterThan(ended);
        expect(next).toBeGreaterThanOrEqual(dueAfter(attempts, { endedAt: NOW }) ?? 0n);
        expect(next - ended).toBeGreaterThanOrEqual(BigInt(Math.min(values.retryAfterMs, 3_600_000)) * 1_000n);
        // From the last one on, at most the longest gap with its jitter, or what Retry-After may ask for.
        expect(next - (ended > 36_000n * SECOND ? ended : 36_000n * SECOND)).toBeLessThanOrEqual(86_400n * SECOND);
      }),
    );
  });
});

describe("outcomes", () => {
  it.each([200, 201, 204, 299])("rule 66: %i is delivered", (status) => {
    expect(judge({ status })).toEqual({ kind: "DELIVERED" });
    expect(judge({ status, retryAfterMs: 5_000 })).toEqual({ kind: "DELIVERED" });
  });

  it("rule 66: 410 is gone", () => {
    expect(judge({ status: 410 })).toEqual({ kind: "GONE" });
  });

  it.each([0, 199, 300, 301, 302, 307, 308, 400, 401, 404, 409, 413, 500, 502, 504, 999])(
    "rule 66: %i is a failure to retry, which pauses nothing",
    (status) => {
      expect(judge({ status })).toEqual({ kind: "FAILED", retryAfterMs: 0, pausesEndpoint: false });
      expect(judge({ status, retryAfterMs: 9 })).toEqual({ kind: "FAILED", retryAfterMs: 9, pausesEndpoint: false });
    },
  );

  it.each([429, 503])(
    "rule 66: %i with Retry-After pauses the endpoint for an hour at most, without it nothing",
    (status) => {
      expect(judge({ status, retryAfterMs: 7_000 })).toEqual({
        kind: "FAILED",
        retryAfterMs: 7_000,
        pausesEndpoint: true,
      });
      expect(judge({ status, retryAfterMs: 9e12 })).toMatchObject({ retryAfterMs: 3_600_000, pausesEndpoint: true });
      expect(judge({ status })).toEqual({ kind: "FAILED", retryAfterMs: 0, pausesEndpoint: false });
    },
  );

  it("rule 66: an error is a failure to retry", () => {
    expect(judge({ error: "TIMEOUT" })).toEqual({ kind: "FAILED", retryAfterMs: 0, pausesEndpoint: false });
  });

  it("rule 66: an endpoint has failed for too long after 100 failures in a row over three days, not after either", () => {
    const DAYS = 86_400_000_000n;
    const row = (failures: number, since: bigint) => failedForTooLong({ failures, firstFailureAt: NOW - since }, NOW);
    expect(row(100, 3n * DAYS)).toBe(true);
    expect(row(99, 30n * DAYS)).toBe(false);
    expect(row(100_000, 3n * DAYS - 1n)).toBe(false);
  });
});

describe("what attempts do to their endpoint", () => {
  const SECOND = 1_000_000n;
  const DAY = 86_400n * SECOND;
  const well: EndpointFailures = { failures: 0, failingSince: undefined, pausedUntil: undefined };
  const delivered: Verdict = { kind: "DELIVERED" };
  const gone: Verdict = { kind: "GONE" };
  const failed: Verdict = { kind: "FAILED", retryAfterMs: 0, pausesEndpoint: false };
  const busy = (retryAfterMs: number): Verdict => ({ kind: "FAILED", retryAfterMs, pausesEndpoint: true });
  /** Attempts a second apart, the first at NOW, each of 20 ms. */
  const changesOf = (before: Partial<EndpointFailures>, verdicts: (Verdict | undefined)[], now = NOW) =>
    afterAttempts(
      { ...well, ...before },
      verdicts.map((verdict, index) => ({ at: NOW + BigInt(index) * SECOND, latencyMs: 20, verdict })),
      now,
    );

  it.each<[string, Partial<EndpointFailures>, (Verdict | undefined)[], Partial<ReturnType<typeof afterAttempts>>]>([
    ["no attempt changes nothing", { failures: 3, failingSince: 7n }, [], { failures: 3, failingSince: 7n }],
    ["the first failure begins a row", {}, [failed], { failures: 1, failingSince: NOW }],
    ["a failure goes on with the row", { failures: 3, failingSince: 7n }, [failed], { failures: 4, failingSince: 7n }],
    ["a delivery ends the row", { failures: 3, failingSince: 7n }, [failed, delivered], {}],
    [
      "the row begins after the delivery",
      {},
      [failed, delivered, failed],
      { failures: 1, failingSince: NOW + 2n * SECOND },
    ],
    [
      "what was not sent is no failure",
      { failures: 3, failingSince: 7n },
      [undefined],
      { failures: 3, failingSince: 7n },
    ],
    ["GONE disables, and is a failure", {}, [gone], { failures: 1, failingSince: NOW, disable: "GONE" }],
    ["GONE disables, whatever comes after it", {}, [gone, delivered], { disable: "GONE" }],
  ])("rule 66: %s", (_, before, verdicts, expected) => {
    expect(changesOf(before, verdicts)).toEqual({ ...well, disable: undefined, ...expected });
  });

  it("rule 66: a pause counts from the end of its attempt, and the longest holds", () => {
    const until = (before: bigint | undefined, ...verdicts: Verdict[]) =>
      changesOf({ pausedUntil: before }, verdicts).pausedUntil;
    expect(until(undefined, busy(5_000))).toBe(NOW + 5_020_000n);
    expect(until(undefined, busy(5_000), busy(1_000))).toBe(NOW + 5_020_000n);
    expect(until(undefined, busy(5_000), busy(6_000))).toBe(NOW + 7_020_000n);
    expect(until(NOW, busy(5_000))).toBe(NOW + 5_020_000n);
  });

  it("rule 66: a pause that is as long already stays as it is, since a replay may lift it meanwhile", () => {
    expect(changesOf({ pausedUntil: NOW + DAY }, [busy(5_000)]).pausedUntil).toBeUndefined();
    expect(changesOf({ pausedUntil: NOW + DAY }, [failed, delivered]).pausedUntil).toBeUndefined();
  });

  it("rule 66: 100 failures in a row over three days disable, unless the last attempt was delivered", () => {
    const before = { failures: 99, failingSince: NOW - 3n * DAY };
    expect(changesOf(before, [failed]).disable).toBe("FAILING");
    expect(changesOf(before, [gone]).disable).toBe("GONE");
    expect(changesOf(before, []).disable).toBeUndefined();
    expect(changesOf(before, [failed, delivered]).disable).toBeUndefined();
    expect(changesOf({ ...before, failingSince: NOW - 3n * DAY + 1n }, [failed]).disable).toBeUndefined();
    expect(changesOf({ failures: 100, failingSince: NOW - 3n * DAY }, [undefined]).disable).toBe("FAILING");
  });
});
