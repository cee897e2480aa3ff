// Rule 116 as a pure function: random histories of several entities, taken back to each of their moments.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { changedFields, changedValues, withShown } from "../../src/domain/changed-fields.ts";
import { newEntity } from "../../src/domain/entity.ts";
import type { Change, EntityState, EntityValues } from "../../src/domain/entity-state.ts";
import { DomainError } from "../../src/domain/errors.ts";
import type { JsonObject, JsonValue } from "../../src/domain/json.ts";
import { asKnown, type PastEntity, type PastEvent, undo } from "../../src/domain/past.ts";
import { NOW, type Step, step, stored } from "./histories.ts";

/** No rule sets it yet. */
const score = fc.constantFrom<Step>(
  (entity) => ({ values: { ...entity, riskScore: "35.00" }, type: "ATTRIBUTE_CHANGED", reason: "" }),
  (entity) => ({ values: { ...entity, riskScore: null }, type: "ATTRIBUTE_CHANGED", reason: "" }),
);
const history = fc.record({
  named: fc.boolean(),
  type: fc.constantFrom("person" as const, "company" as const),
  steps: fc.array(fc.oneof({ weight: 5, arbitrary: step }, score), { maxLength: 10 }),
});

interface Told extends PastEvent {
  newValues: JsonObject;
}

/** What the database keeps of a value: the order of keys is its own. */
const asStored = (value: JsonValue): JsonValue => {
  if (Array.isArray(value)) return value.map(asStored);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.keys(value)
      .sort()
      .map((key) => [key, asStored(value[key] as JsonValue)]),
  );
};

/** Every version of the entity `id`, oldest first, and its events. */
function play(id: string, { named, type, steps }: { named: boolean; type: EntityState["type"]; steps: Step[] }) {
  const versions: EntityState[] = [];
  const events: Told[] = [];
  const add = (before: EntityState | null, values: EntityValues) => {
    const version = versions.length + 1;
    const after = { ...stored(values, version), id, etag: `${id} ${version}` };
    const updatedFields = changedFields(before, after);
    if (updatedFields.length === 0) return;
    const told = changedValues(before, after, updatedFields);
    versions.push(after);
    events.push({
      ...{ id: after.etag, entityId: id, entityVersion: version, recordedAt: after.updatedAt, updatedFields },
      hash: new Uint8Array(32),
      previousValues: asStored(told.previousValues) as JsonObject,
      newValues: asStored(told.newValues) as JsonObject,
    });
  };
  const externalId = named ? { externalId: "e0" } : {};
  add(null, newEntity({ type, countryCode: "AR", name: "Ana", ...externalId }, "", NOW).values);
  for (const act of steps) {
    const entity = versions.at(-1) as EntityState;
    let change: Change | null = null;
    try {
      change = act(entity, NOW + BigInt(versions.length + 1));
    } catch (error) {
      expect(error).toBeInstanceOf(DomainError);
    }
    if (change !== null) add(entity, change.values);
  }
  return { versions, events };
}

/** The version of a moment. */
function versionAt(versions: readonly EntityState[], at: bigint): PastEntity | null {
  const version = versions.findLast(({ updatedAt }) => updatedAt <= at);
  return version === undefined ? null : asKnown(version);
}

describe("undo", () => {
  it("rule 116: gives every version of every entity of a page back, however the events are cut into parts", () => {
    fc.assert(
      fc.property(
        fc.array(history, { minLength: 1, maxLength: 3 }),
        fc.integer({ min: 0, max: 12 }),
        fc.integer({ min: 1, max: 5 }),
        (histories, back, size) => {
          const played = histories.map((one, index) => play(`entity ${index}`, one));
          const at = NOW + BigInt(back);
          const newestFirst = played
            .flatMap(({ events }) => events)
            .sort((a, b) => b.entityVersion - a.entityVersion || (a.entityId < b.entityId ? -1 : 1));
          let page = new Map<string, PastEntity | null>(
            played.map(({ versions }) => [versions[0]?.id ?? "", asKnown(versions.at(-1) as EntityState)]),
          );
          for (let from = 0; from < newestFirst.length; from += size) {
            page = undo(page, newestFirst.slice(from, from + size), ({ recordedAt }) => recordedAt > at);
          }
          expect([...page.values()]).toEqual(played.map(({ versions }) => versionAt(versions, at)));
        },
      ),
      { numRuns: 500 },
    );
  });

  it("rule 117: where the event that made the version is not there, etag and time are unknown, and nothing else", () => {
    fc.assert(
      fc.property(history, (one) => {
        const { versions, events } = play("one", one);
        for (const version of versions.slice(0, -1)) {
          const later = events.filter(({ entityVersion }) => entityVersion > version.version).toReversed();
          const past = undo(new Map([["one", asKnown(versions.at(-1) as EntityState)]]), later, () => true);
          expect(past.get("one")).toEqual({ ...asKnown(version), etag: "", updatedAt: null });
        }
      }),
      { numRuns: 200 },
    );
  });

  it("rule 117: the id of an event from before they were sealed is no etag, its time is known", () => {
    const rename: Step = (entity) => ({ values: { ...entity, name: "B" }, type: "ATTRIBUTE_CHANGED", reason: "" });
    const { versions, events } = play("one", { named: true, type: "person", steps: [rename] });
    const [first, second] = versions as [EntityState, EntityState];
    const unsealed = events.map((event) => ({ ...event, hash: null })).toReversed();
    const past = undo(new Map([["one", asKnown(second)]]), unsealed, ({ entityVersion }) => entityVersion === 2);
    expect(past.get("one")).toEqual({ ...asKnown(first), etag: "" });
  });

  it("rule 121: forward, the events come to the same versions", () => {
    fc.assert(
      fc.property(history, (one) => {
        const { versions, events } = play("one", one);
        // Nothing of it remains: the first event tells of every value.
        let values = newEntity({ type: "person", countryCode: "ZZ", name: "?", externalId: "?" }, "", 0n).values;
        values = withShown(values, ["externalIds"], {});
        events.forEach(({ updatedFields, newValues }, index) => {
          values = withShown(values, updatedFields, newValues);
          expect(asKnown(versions[index] as EntityState)).toMatchObject(values);
        });
      }),
      { numRuns: 200 },
    );
  });

  it("rule 116: an entity that has not changed since keeps the etag and the time that it has", () => {
    const { versions, events } = play("one", { named: true, type: "person", steps: [] });
    const old = { ...(versions[0] as EntityState), etag: "from before" };
    expect(undo(new Map([["one", old]]), events, () => false).get("one")).toEqual(old);
  });

  it("rule 116: passes over nothing: a gap, another order, a field that it does not know, a value of another form", () => {
    const rename =
      (name: string): Step =>
      (entity) => ({
        values: { ...entity, name },
        type: "ATTRIBUTE_CHANGED",
        reason: "",
      });
    const steps = [rename("B"), rename("C"), rename("D")];
    const { versions, events } = play("one", { named: true, type: "person", steps });
    const [first, second, third, fourth] = events as [Told, Told, Told, Told];
    const back = (...undone: PastEvent[]) =>
      undo(new Map([["one", versions.at(-1) as EntityState]]), undone, () => true);
    expect(back(fourth, third, second, first).get("one")).toBeNull();
    for (const wrong of [
      [third],
      [fourth, second],
      [third, fourth],
      [fourth, third, second, first, first],
      [{ ...fourth, updatedFields: ["shoeSize"] }],
      [{ ...fourth, updatedFields: ["toString"] }],
      [{ ...fourth, previousValues: {} }],
      [{ ...fourth, previousValues: { name: 1 } }],
      [{ ...fourth, entityId: "another" }],
    ]) {
      expect(() => back(...wrong)).toThrow(Error);
    }
  });
});
