// Rules 138 and 139 as data: which external ids may be released, and since when aliases are tracked.
import { describe, expect, it } from "vitest";
import { newEntity, remove } from "../../src/domain/entity.ts";
import type { EntityState } from "../../src/domain/entity-state.ts";
import type { DomainError } from "../../src/domain/errors.ts";
import { addExternalIds, changeExternalId, releaseExternalId } from "../../src/domain/external-ids.ts";
import { DAY, type Instant, parseInstant } from "../../src/domain/time.ts";

const NOW = parseInstant("2026-11-28T12:00:00Z");
const REASON = "typing error";

const stateOf = (
  values: Omit<EntityState, "id" | "organizationId" | "version" | "etag" | "createdAt" | "updatedAt">,
) => ({
  ...values,
  ...{ id: "e", organizationId: "o", version: 1, etag: "1", createdAt: NOW, updatedAt: NOW },
});

/** A person with the primary "p" and the alias "a". */
function person(
  alias: { attachedAt?: Instant; trackedSince?: Instant | null; lastResolvedOn?: string | null } = {},
): EntityState {
  const { values } = newEntity(
    { type: "person", countryCode: "AR", name: "Ana", externalId: "p" },
    "",
    NOW - 400n * DAY,
  );
  const attachedAt = alias.attachedAt ?? NOW - 300n * DAY;
  const id = {
    externalId: "a",
    type: "cif",
    primary: false,
    attachedAt,
    trackedSince: attachedAt,
    lastResolvedOn: null,
    homeId: null,
  };
  return stateOf({ ...values, externalIds: [...values.externalIds, { ...id, ...alias }] });
}

const release = (
  entity: EntityState,
  externalId = "a",
  { force = false, policy = "MUTABLE_WITH_REASON" as const } = {},
) => releaseExternalId(entity, { externalId, reason: REASON, force }, policy, NOW);

function refused(work: () => unknown): Pick<DomainError, "reason" | "metadata"> {
  try {
    work();
  } catch (error) {
    const { reason, metadata } = error as DomainError;
    return { reason, metadata };
  }
  throw new Error("not refused");
}

const primaries = ({ externalIds }: Pick<EntityState, "externalIds">) =>
  externalIds.map(({ externalId, primary }) => [externalId, primary]);

describe("releaseExternalId", () => {
  it("rule 139: an alias that nobody used for more than 30 days goes, and says why it went", () => {
    const change = release(person());
    expect(change).toMatchObject({ type: "EXTERNAL_ID_CHANGED", reason: REASON, detaches: "RELEASED" });
    expect(primaries(change.values)).toEqual([["p", true]]);
  });

  it.each([
    ["attached", { attachedAt: NOW - 30n * DAY }],
    ["tracked", { trackedSince: NOW - 30n * DAY }],
    ["looked up", { lastResolvedOn: "2026-10-29" }],
    ["tracked since nobody knows when", { trackedSince: null }],
  ])("rule 139: one that was %s within 30 days is EXTERNAL_ID_IN_USE, unless by force", (_, alias) => {
    const { reason, metadata } = refused(() => release(person(alias)));
    expect(reason).toBe("EXTERNAL_ID_IN_USE");
    expect(metadata.allowed).toBe("force");
    expect(metadata.last_resolved_on).toBe("lastResolvedOn" in alias ? alias.lastResolvedOn : undefined);
    expect(primaries(release(person(alias), "a", { force: true }).values)).toEqual([["p", true]]);
  });

  it.each([
    { attachedAt: NOW - 30n * DAY - 1n },
    { trackedSince: NOW - 30n * DAY - 1n },
    { lastResolvedOn: "2026-10-28" },
  ])("rule 139: the 30 days end: %o", (alias) => {
    expect(primaries(release(person(alias)).values)).toEqual([["p", true]]);
  });

  it("rule 139: an id that the entity does not have is NOT_FOUND, by force too", () => {
    for (const force of [false, true]) {
      expect(refused(() => release(person(), "A", { force }))).toEqual({
        reason: "NOT_FOUND",
        metadata: { lookup: "external_id" },
      });
    }
  });

  it("rule 139: the primary is VALIDATION_ERROR, by force too", () => {
    for (const force of [false, true]) {
      expect(refused(() => release(person(), "p", { force }))).toMatchObject({
        reason: "VALIDATION_ERROR",
        metadata: { field: "external_id" },
      });
    }
  });

  it("rule 139: under the policy IMMUTABLE nothing is released, of a deleted entity neither", () => {
    const deleted = stateOf(remove(person(), REASON, NOW)?.values as EntityState);
    for (const entity of [person(), deleted]) {
      const call = () => releaseExternalId(entity, { externalId: "a", reason: REASON, force: true }, "IMMUTABLE", NOW);
      expect(refused(call)).toMatchObject({ reason: "EXTERNAL_ID_IMMUTABLE" });
    }
  });

  it("rule 139: of a deleted entity every id goes, used or not; without its primary the oldest alias becomes it", () => {
    const used = person({ lastResolvedOn: "2026-11-28" });
    const { externalIds } = used;
    const younger = { ...externalIds[1], externalId: "b", attachedAt: NOW } as (typeof externalIds)[number];
    const deleted = stateOf({ ...used, externalIds: [...externalIds, younger], deletedAt: NOW });
    expect(primaries(release(deleted).values)).toEqual([
      ["p", true],
      ["b", false],
    ]);
    const { values } = release(deleted, "p");
    expect(primaries(values)).toEqual([
      ["a", true],
      ["b", false],
    ]);
    expect(values.externalIds[0]).toMatchObject({ trackedSince: null, lastResolvedOn: null });
    const last = stateOf({ ...deleted, externalIds: deleted.externalIds.slice(0, 1) });
    expect(release(last, "p").values.externalIds).toEqual([]);
  });
});

describe("since when an alias is tracked", () => {
  const trackedOf = (entity: Pick<EntityState, "externalIds">) =>
    entity.externalIds.map(({ externalId, trackedSince, lastResolvedOn }) => [
      externalId,
      trackedSince,
      lastResolvedOn,
    ]);

  it("rule 138: an alias from when it is attached, the primary not at all", () => {
    const added = addExternalIds(
      person(),
      { externalIds: [{ externalId: "b", type: "", primary: false }], reason: "" },
      NOW,
    );
    expect(trackedOf(added?.values as EntityState)).toEqual([
      ["p", null, null],
      ["a", NOW - 300n * DAY, null],
      ["b", NOW, null],
    ]);
  });

  it("rule 138: a primary that becomes an alias from then on; an alias that becomes the primary no longer", () => {
    const used = person({ lastResolvedOn: "2026-11-01" });
    const command = { newExternalId: "a", reason: REASON, keepPreviousAsAlias: true };
    const changed = changeExternalId(used, command, "MUTABLE_WITH_REASON", NOW);
    expect(trackedOf(changed?.values as EntityState)).toEqual([
      ["a", null, null],
      ["p", NOW, null],
    ]);
    // What it was used for before, nobody knows.
    const demoted = stateOf(changed?.values as EntityState);
    expect(
      refused(() =>
        releaseExternalId(demoted, { externalId: "p", reason: REASON, force: false }, "MUTABLE_WITH_REASON", NOW + DAY),
      ).reason,
    ).toBe("EXTERNAL_ID_IN_USE");
  });

  it("rule 138: another label, or the same id listed again, forgets nothing of an alias", () => {
    const used = person({ lastResolvedOn: "2026-11-01" });
    const relabelled = [{ externalId: "a", type: "other", primary: false }];
    const change = addExternalIds(used, { externalIds: relabelled, reason: "" }, NOW);
    expect(change?.values.externalIds[1]).toEqual({ ...used.externalIds[1], type: "other" });
  });
});
