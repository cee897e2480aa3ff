// Random changes of an entity, by the rules.
import fc from "fast-check";
import { type EntityPatch, remove, undelete, update } from "../../src/domain/entity.ts";
import type { Change, EntityState, EntityStatus, EntityValues } from "../../src/domain/entity-state.ts";
import { addExternalIds, changeExternalId, releaseExternalId } from "../../src/domain/external-ids.ts";
import type { JsonObject, JsonValue } from "../../src/domain/json.ts";

export const NOW = 1_700_000_000_000_000n;

/** A version as it is stored. */
export function stored(values: EntityValues, version = 1): EntityState {
  const at = NOW + BigInt(version);
  return { ...values, id: "0190", organizationId: "0", version, etag: String(version), createdAt: NOW, updatedAt: at };
}
const key = fc.constantFrom("a", "b", "c", "__proto__", "constructor", "nationality", "email", "address");
const value: fc.Arbitrary<JsonValue> = fc.oneof(
  fc.constantFrom<JsonValue>(null, true, false, "", "x", "AR", "uy", 0, 1, -1.5),
  fc.array(fc.constantFrom<JsonValue>(null, 1, "x"), { maxLength: 2 }),
  fc
    .array(fc.tuple(key, fc.constantFrom<JsonValue>(null, 1, "x")), { maxLength: 2 })
    .map((entries) => Object.fromEntries(entries)),
);
export const entries = fc
  .array(fc.tuple(key, value), { maxLength: 4 })
  .map((pairs): JsonObject => Object.fromEntries(pairs));
export const mapPatch = fc.record({ replace: fc.boolean(), entries });
const optional = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined, freq: 2 });

export const patch = fc
  .record({
    name: optional(fc.constantFrom("Ana", "Bea")),
    taxId: optional(fc.constantFrom(null, "1", "20-12345678-6", "20123456786")),
    status: optional(fc.constantFrom<EntityStatus>("under_review", "active", "blocked")),
    nationality: optional(fc.constantFrom(null, "AR", "BR")),
    riskMatrixId: optional(fc.constantFrom(null, "550e8400-e29b-41d4-a716-446655440000")),
    entityData: optional(
      fc.oneof(
        fc.constant(null),
        mapPatch.map((one) => ({ ...one, kind: "person" as const })),
      ),
    ),
    attributes: optional(mapPatch),
    metadata: optional(mapPatch),
  })
  .map((all) => Object.fromEntries(Object.entries(all).filter(([, one]) => one !== undefined)) as EntityPatch);

/** A change of an entity, null where it changes nothing; it may throw a DomainError. */
export type Step = (entity: EntityState, now: bigint) => Change | null;
const externalId = fc.constantFrom("e1", "e2", "e3", "e4");
export const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: patch.map(
      (one): Step =>
        (entity) =>
          update(entity, one, "r"),
    ),
  },
  fc.tuple(externalId, fc.boolean()).map(
    ([id, keep]): Step =>
      (entity, now) =>
        changeExternalId(
          entity,
          { newExternalId: id, reason: "r", keepPreviousAsAlias: keep },
          "MUTABLE_WITH_REASON",
          now,
        ),
  ),
  fc.tuple(externalId, fc.constantFrom("", "cif"), fc.boolean()).map(
    ([id, type, primary]): Step =>
      (entity, now) =>
        addExternalIds(entity, { externalIds: [{ externalId: id, type, primary }], reason: "" }, now),
  ),
  fc.tuple(externalId, fc.boolean()).map(
    ([id, force]): Step =>
      (entity, now) =>
        releaseExternalId(entity, { externalId: id, reason: "r", force }, "MUTABLE_WITH_REASON", now),
  ),
  fc.constant<Step>((entity, now) => remove(entity, "r", now)),
  { weight: 2, arbitrary: fc.constant<Step>((entity) => undelete(entity, "r")) },
);
