// The rules of the entity as pure functions: tables, and properties over random histories.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { changedFields, changedValues } from "../../src/domain/changed-fields.ts";
import {
  type EntityPatch,
  type NewEntity,
  newEntity,
  recheckTaxId,
  remove,
  undelete,
  update,
} from "../../src/domain/entity.ts";
import { type Change, type EntityState, type EntityStatus, primaryOf } from "../../src/domain/entity-state.ts";
import { DomainError } from "../../src/domain/errors.ts";
import { addExternalIds, assignExternalId, changeExternalId, orderExternalIds } from "../../src/domain/external-ids.ts";
import { canonicalJson, type JsonObject, type JsonValue } from "../../src/domain/json.ts";
import { LIMITS } from "../../src/domain/limits.ts";
import { instantToText } from "../../src/domain/time.ts";
import { entries, mapPatch, NOW, patch, step, stored } from "./histories.ts";

const person = (input: Partial<NewEntity> = {}, reason = "x"): EntityState =>
  stored(newEntity({ type: "person", countryCode: "AR", name: "Ana", ...input }, reason, NOW).values);
const company = (input: Partial<NewEntity> = {}): EntityState => person({ type: "company", ...input });

/** The reason and the field of the refusal. */
function refused(act: () => unknown): { reason: string; field: string | undefined; message: string } {
  try {
    act();
  } catch (error) {
    if (error instanceof DomainError)
      return { reason: error.reason, field: error.metadata.field, message: error.message };
    throw error;
  }
  throw new Error("it was not refused");
}

const ALL: EntityStatus[] = ["pending", "under_review", "active", "inactive", "suspended", "blocked", "rejected"];
const RESTRICTED: EntityStatus[] = ["suspended", "blocked", "rejected"];

describe("status", () => {
  const pairs = ALL.flatMap((from) => ALL.map((to) => [from, to] as const));

  it.each(pairs)("rules 40 to 42: from %s to %s", (from, to) => {
    const entity = person({ status: from });
    const attempt = (reason: string) => update(entity, { status: to }, reason);
    if (from === to) {
      expect(attempt("")).toBeNull();
      expect(attempt("a reason")).toBeNull();
    } else if (to === "pending") {
      expect(refused(() => attempt("a reason"))).toMatchObject({ reason: "VALIDATION_ERROR", field: "entity.status" });
    } else if (RESTRICTED.includes(to)) {
      expect(refused(() => attempt(""))).toMatchObject({
        reason: "STATUS_REASON_REQUIRED",
        message: `Changing status to '${to}' requires a reason for audit purposes.`,
      });
      expect(attempt("r")).toMatchObject({ type: "ATTRIBUTE_CHANGED", reason: "r", values: { status: to } });
    } else {
      expect(attempt("")?.values.status).toBe(to);
    }
  });

  it.each(ALL)("rule 15: creation as %s", (status) => {
    const make = (reason: string) => newEntity({ type: "person", countryCode: "AR", name: "A", status }, reason, NOW);
    if (RESTRICTED.includes(status)) expect(refused(() => make("")).reason).toBe("STATUS_REASON_REQUIRED");
    else expect(make("").values.status).toBe(status);
    expect(make("r").values.status).toBe(status);
  });
});

describe("creation", () => {
  it.each(["type", "countryCode", "name"] as const)("rule 14: without %s is refused", (field) => {
    const whole: NewEntity = { type: "person", countryCode: "AR", name: "A" };
    expect(refused(() => newEntity({ ...whole, [field]: undefined }, "", NOW)).reason).toBe("VALIDATION_ERROR");
  });

  it("rule 18a: tells every value that is set and no other", () => {
    const { values } = newEntity({ type: "person", countryCode: "AR", name: "A", externalId: "e" }, "", NOW);
    const fields = changedFields(null, values);
    expect(fields).toEqual(["type", "countryCode", "externalId", "externalIds", "name", "status"]);
    expect(changedValues(null, values, fields)).toEqual({
      previousValues: {},
      newValues: {
        type: "person",
        countryCode: "AR",
        externalId: "e",
        externalIds: [{ externalId: "e", designation: "primary", attachedAt: instantToText(NOW) }],
        name: "A",
        status: "pending",
      },
    });
  });
});

describe("update", () => {
  it.each([
    ["type", { type: "company" as const }, "Field 'type' cannot be changed after entity creation"],
    ["countryCode", { countryCode: "BR" }, "Field 'countryCode' cannot be changed after entity creation"],
  ])("rule 22: refuses another %s and takes the same", (_, patch, message) => {
    expect(refused(() => update(person(), { ...patch, name: "B" }, "r"))).toMatchObject({
      reason: "IMMUTABLE_FIELD",
      message,
    });
    expect(update(person(), { type: "person", countryCode: "AR" }, "")).toBeNull();
  });

  it("rules 33, 43: an empty patch, and a reason alone, is no change", () => {
    expect(update(person(), {}, "")).toBeNull();
    expect(update(person(), {}, "a reason")).toBeNull();
  });

  it.each<[string, Partial<EntityPatch>]>([
    ["entity_data", { entityData: null }],
    ["entity_data, per key", { entityData: { kind: "person", replace: false, entries: { email: null } } }],
    ["entity_data, whole", { entityData: { kind: "person", replace: true, entries: {} } }],
    ["attributes", { attributes: { replace: true, entries: {} } }],
    ["metadata, per key", { metadata: { replace: false, entries: { none: null } } }],
    ["tax_id", { taxId: null }],
    ["nationality", { nationality: null }],
    ["risk_matrix_id", { riskMatrixId: null }],
  ])("rule 33: clearing %s where it is not set is no change", (_, patch) => {
    expect(update(person(), patch, "")).toBeNull();
  });

  it.each<["person" | "company", "person" | "company"]>([
    ["person", "company"],
    ["company", "person"],
  ])("rule 26: of a %s refuses data of a %s, whatever it holds", (type, kind) => {
    const sent: JsonObject[] = [{}, { nationality: "UY" }, { x: null }];
    for (const entries of sent) {
      for (const replace of [false, true]) {
        expect(refused(() => update(person({ type }), { entityData: { kind, replace, entries } }, ""))).toMatchObject({
          reason: "VALIDATION_ERROR",
          field: `entity.entity_data.${kind}`,
        });
      }
    }
  });

  it.each<[string | null | undefined, JsonValue | undefined, string | null]>([
    [undefined, undefined, "AR"],
    ["BR", undefined, "BR"],
    [null, undefined, null],
    [undefined, "uy", "UY"],
    [undefined, "UY", "UY"],
    [undefined, "Uruguay", "AR"],
    [undefined, null, "AR"],
    [undefined, " UY", "AR"],
    ["BR", "UY", "BR"],
    [null, "UY", null],
    ["BR", "Uruguay", "BR"],
  ])("rule 28: root %j and nested %j make %j of AR", (root, nested, wanted) => {
    const entity = person({ nationality: "AR" });
    const patch: EntityPatch = {
      ...(root === undefined ? {} : { nationality: root }),
      ...(nested === undefined
        ? {}
        : { entityData: { kind: "person", replace: false, entries: { nationality: nested } } }),
    };
    expect((update(entity, patch, "")?.values ?? entity).nationality).toBe(wanted);
  });

  it("rule 28: unlisted nationality of a company is only data", () => {
    const entity = company({ nationality: "AR" });
    const change = update(
      entity,
      { entityData: { kind: "company", replace: false, entries: { nationality: "UY" } } },
      "",
    );
    expect(change?.values.nationality).toBe("AR");
  });

  it("rules 7, 8, 19: tax_id_check follows the tax id and the country", () => {
    expect(person({ taxId: "20-12345678-6" }).taxIdCheck).toBe("valid");
    expect(person({ taxId: "20-12345678-9" }).taxIdCheck).toBe("checksum_failed");
    expect(person({ taxId: "20-12345678-6", countryCode: "ZZ" }).taxIdCheck).toBe("unknown_format");
    expect(update(person({ taxId: "20-12345678-6" }), { taxId: "20-12345678-9" }, "")?.values.taxIdCheck).toBe(
      "checksum_failed",
    );
    expect(update(person({ taxId: "20-12345678-6" }), { taxId: null }, "")?.values).toMatchObject({
      taxId: null,
      taxIdCheck: null,
    });
  });

  it("rule 155: a tax id keeps its check until another one is written, whatever the validators now say of it", () => {
    // As the validators of another day may have said.
    const old: EntityState = { ...person({ taxId: "20-12345678-6" }), taxIdCheck: "unknown_format" };
    expect(update(old, {}, "")).toBeNull();
    expect(update(old, { taxId: "20-12345678-6" }, "")).toBeNull();
    expect(update(old, { name: "Ana B" }, "")?.values).toMatchObject({ name: "Ana B", taxIdCheck: "unknown_format" });
    expect(update(old, { taxId: "20 12345678 6" }, "")?.values.taxIdCheck).toBe("valid");
  });

  it("rule 77: a deleted entity refuses every change, and each refusal says what helps", () => {
    const change = remove(person({ externalId: "e" }), "r", NOW);
    const gone = stored(change!.values, 2);
    for (const act of [
      () => update(gone, {}, ""),
      () =>
        changeExternalId(
          gone,
          { newExternalId: "e", reason: "r", keepPreviousAsAlias: false },
          "MUTABLE_WITH_REASON",
          NOW,
        ),
      () => assignExternalId(gone, { externalId: "e", reason: "" }, NOW),
      () => addExternalIds(gone, { externalIds: [], reason: "" }, NOW),
    ]) {
      expect(refused(act).reason).toBe("ENTITY_DELETED");
    }
    expect(remove(gone, "again", NOW + 1n)).toBeNull();
    const back = undelete(gone, "r");
    expect(changedFields(stored(back!.values, 3), person({ externalId: "e" }))).toEqual([]);
    expect(undelete(person(), "r")).toBeNull();
  });

  it("rule 73: limits hold for what would be stored", () => {
    const keys = (n: number) => Object.fromEntries(Array.from({ length: n }, (_, i) => [`k${i}`, 1]));
    const entity = person({ attributes: { replace: false, entries: keys(LIMITS.structKeys) } });
    expect(refused(() => update(entity, { attributes: { replace: false, entries: { more: 1 } } }, ""))).toMatchObject({
      field: "entity.attributes",
    });
    expect(update(entity, { attributes: { replace: false, entries: { more: 1, k0: null } } }, "")).not.toBeNull();
    expect(update(entity, { attributes: { replace: true, entries: { more: 1 } } }, "")).not.toBeNull();
  });

  it("rule 74: __proto__ is merged, changed and removed like any key", () => {
    const proto = (value: JsonValue): JsonObject =>
      Object.fromEntries([
        ["__proto__", value],
        ["constructor", value],
      ]);
    const entity = person({ attributes: { replace: false, entries: proto({ a: 1 }) } });
    expect(Object.entries(entity.attributes)).toEqual([
      ["__proto__", { a: 1 }],
      ["constructor", { a: 1 }],
    ]);
    expect(update(entity, { attributes: { replace: false, entries: proto({ a: 1 }) } }, "")).toBeNull();
    const changed = update(entity, { attributes: { replace: false, entries: proto(2) } }, "");
    expect(Object.entries(changed?.values.attributes ?? {})).toEqual([
      ["__proto__", 2],
      ["constructor", 2],
    ]);
    expect(update(entity, { attributes: { replace: false, entries: proto(null) } }, "")?.values.attributes).toEqual({});
    expect(({} as { a?: number }).a).toBeUndefined();
  });
});

// --- Properties -----------------------------------------------------------------------------------

/** The values as the events show them, read off the state by hand: what a fold must come to. */
function shown(entity: EntityState): JsonObject {
  const ids = entity.externalIds.map((id) => ({
    externalId: id.externalId,
    ...(id.type === "" ? {} : { type: id.type }),
    ...(id.primary ? { designation: "primary" } : {}),
    attachedAt: instantToText(id.attachedAt),
  }));
  const all: [string, JsonValue | null][] = [
    ["type", entity.type],
    ["countryCode", entity.countryCode],
    ["externalId", ids.find((id) => "designation" in id)?.externalId ?? null],
    ["externalIds", ids.length === 0 ? null : ids],
    ["name", entity.name],
    ["taxId", entity.taxId],
    ["taxIdCheck", entity.taxIdCheck],
    ["status", entity.status],
    ["nationality", entity.nationality],
    ["riskMatrixId", entity.riskMatrixId],
    ["riskScore", entity.riskScore],
    ["entityData", entity.entityData === null ? null : { [entity.type]: entity.entityData }],
    ["attributes", Object.keys(entity.attributes).length === 0 ? null : entity.attributes],
    ["metadata", Object.keys(entity.metadata).length === 0 ? null : entity.metadata],
    ["deletedAt", entity.deletedAt === null ? null : instantToText(entity.deletedAt)],
  ];
  return Object.fromEntries(all.filter(([, one]) => one !== null));
}

describe("random histories", () => {
  it("rules 18a, 33, 60, 61: the fold of the events is the state; each says exactly what differs; none says nothing", () => {
    fc.assert(
      fc.property(fc.boolean(), fc.array(step, { maxLength: 12 }), (named, steps) => {
        const log = new Map<string, JsonValue>();
        const tell = (before: EntityState | null, after: EntityState) => {
          const fields = changedFields(before, after);
          expect(fields.length).toBeGreaterThan(0);
          const { previousValues, newValues } = changedValues(before, after, fields);
          expect(Object.keys(newValues)).toEqual(fields);
          for (const field of fields) {
            expect(previousValues[field]).toEqual(log.get(field));
            const now = newValues[field] as JsonValue;
            expect(canonicalJson(now)).not.toBe(canonicalJson(log.get(field) ?? null));
            if (now === null) log.delete(field);
            else log.set(field, now);
          }
          expect(Object.keys(previousValues).every((field) => (fields as string[]).includes(field))).toBe(true);
        };
        let entity = stored(
          newEntity({ type: "person", countryCode: "AR", name: "Ana", ...(named ? { externalId: "e0" } : {}) }, "", NOW)
            .values,
        );
        tell(null, entity);
        for (const act of steps) {
          let change: Change | null;
          try {
            change = act(entity, NOW + BigInt(entity.version + 1));
          } catch (error) {
            expect(error).toBeInstanceOf(DomainError); // ENTITY_DELETED
            continue;
          }
          if (change === null) continue;
          const after = stored(change.values, entity.version + 1);
          tell(entity, after);
          entity = after;
          expect(canonicalJson(Object.fromEntries(log))).toBe(canonicalJson(shown(entity)));
        }
      }),
      { numRuns: 500 },
    );
  });

  it("rules 24, 33: a map after a patch is what a plain model says, and the same patch again changes nothing", () => {
    fc.assert(
      fc.property(entries, mapPatch, (start, change) => {
        const entity = person({ attributes: { replace: false, entries: start } });
        const model = new Map(change.replace ? [] : Object.entries(start).filter(([, one]) => one !== null));
        for (const [name, one] of Object.entries(change.entries)) {
          if (one === null) model.delete(name);
          else model.set(name, one);
        }
        const after = update(entity, { attributes: change }, "")?.values.attributes ?? entity.attributes;
        expect(canonicalJson(after)).toBe(canonicalJson(Object.fromEntries(model)));
        expect(update(stored({ ...entity, attributes: after }), { attributes: change }, "")).toBeNull();
      }),
    );
  });

  it("rule 33: any update again, right after itself, changes nothing", () => {
    fc.assert(
      fc.property(patch, patch, (first, second) => {
        const entity = stored(update(person(), first, "r")?.values ?? person());
        const once = stored(update(entity, second, "r")?.values ?? entity, 2);
        expect(update(once, second, "r")).toBeNull();
      }),
    );
  });

  it("rules 52, 56: whatever is done to its external ids, an entity has exactly one primary as soon as it has any, and it is first", () => {
    fc.assert(
      fc.property(fc.boolean(), fc.array(step, { maxLength: 12 }), (named, steps) => {
        let entity = person(named ? { externalId: "e0" } : {});
        for (const act of steps) {
          try {
            const change = act(entity, NOW + BigInt(entity.version + 1));
            if (change !== null) entity = stored(change.values, entity.version + 1);
          } catch (error) {
            expect(error).toBeInstanceOf(DomainError);
          }
          expect(entity.externalIds.filter((id) => id.primary)).toHaveLength(entity.externalIds.length === 0 ? 0 : 1);
          expect(primaryOf(entity)).toBe(entity.externalIds[0]);
          expect(orderExternalIds(entity.externalIds)).toEqual(entity.externalIds);
          expect(new Set(entity.externalIds.map((id) => id.externalId)).size).toBe(entity.externalIds.length);
        }
      }),
      { numRuns: 300 },
    );
  });
});

describe("rule 157: the check of a tax id anew", () => {
  // As validators of another time have left it.
  const checked = { ...person({ taxId: "20-12345678-6", countryCode: "AR" }), taxIdCheck: "unknown_format" as const };

  it("is a change of a live entity alone, without a reason, and of nothing else", () => {
    const { taxIdCheck: _, ...values } = checked;
    expect(recheckTaxId(checked)).toMatchObject({ values, type: "ATTRIBUTE_CHANGED", source: "tax_ids_recheck" });
    expect(recheckTaxId({ ...checked, deletedAt: NOW })).toBeNull();
    expect(recheckTaxId({ ...checked, mergedInto: "00000000-0000-7000-8000-000000000001" })).toBeNull();
    expect(recheckTaxId(person({ taxId: "20-12345678-6" }))).toBeNull();
  });
});
