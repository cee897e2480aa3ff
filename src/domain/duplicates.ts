// Why two entities may be one (rules 161 to 163): the keys by which such pairs are found, and the values that they share.
import type { EntityState, EntityType, EntityValues } from "./entity-state.ts";
import { hasTaxId, taxIdKeyOf } from "./entity-state.ts";
import { foldedName } from "./name.ts";

/** The most certain first. */
export const DUPLICATE_RULES = [
  "SAME_TAX_ID",
  "SAME_EXTERNAL_ID",
  "SAME_NAME_AND_REGISTRATION_NUMBER",
  "SAME_NAME_AND_DATE",
] as const;
export type DuplicateRule = (typeof DUPLICATE_RULES)[number];

/** Two values that a rule takes for the same: paths of the entity, as `entityData.dateOfBirth`. */
export interface DuplicateReason {
  readonly rule: DuplicateRule;
  readonly firstPaths: readonly string[];
  readonly secondPaths: readonly string[];
}

/** An external id without case and blanks. */
export const foldedExternalId = (externalId: string): string =>
  externalId.normalize("NFKC").replace(/\s+/gu, "").toUpperCase().toLowerCase();

/** What is stored of it: null where the id is its own. */
export function externalIdFold(externalId: string): string | null {
  const folded = foldedExternalId(externalId);
  return folded === externalId ? null : folded;
}

type Named = Pick<EntityValues, "type" | "name" | "entityData">;

const DATES: Record<EntityType, string> = { person: "dateOfBirth", company: "incorporationDate" };

/** The name together with the date of birth or incorporation; null where either is missing. */
export function nameDateKey(entity: Named): string | null {
  return keyOf(entity, textOf(entity, DATES[entity.type]));
}

/** The name together with the number of the company's register, by its letters and digits. */
export function nameNumberKey(entity: Named): string | null {
  if (entity.type !== "company") return null;
  return keyOf(
    entity,
    textOf(entity, "registrationNumber")
      ?.normalize("NFKC")
      .toUpperCase()
      .replace(/[^\p{L}\p{N}]/gu, ""),
  );
}

function textOf({ entityData }: Named, key: string): string | undefined {
  const value = entityData?.[key];
  return typeof value === "string" ? value : undefined;
}

function keyOf({ type, name }: Named, value: string | undefined): string | null {
  if (value === undefined || value === "") return null;
  const folded = foldedName(name);
  return folded === "" ? null : `${type} ${value} ${folded}`;
}

/** All that the two share; nothing where their types differ: nobody could merge them. */
export function duplicateReasons(first: EntityState, second: EntityState): DuplicateReason[] {
  if (first.type !== second.type) return [];
  const reasons: DuplicateReason[] = [];
  const same = (rule: DuplicateRule, keyOf: (entity: EntityState) => string | null, paths: readonly string[]) => {
    const key = keyOf(first);
    if (key !== null && key === keyOf(second)) reasons.push({ rule, firstPaths: paths, secondPaths: paths });
  };
  if (isSameTaxId(first, second)) reasons.push({ rule: "SAME_TAX_ID", firstPaths: ["taxId"], secondPaths: ["taxId"] });
  const shared = sameExternalIds(first, second);
  if (shared !== undefined) reasons.push(shared);
  same("SAME_NAME_AND_REGISTRATION_NUMBER", nameNumberKey, ["name", "entityData.company.registrationNumber"]);
  same("SAME_NAME_AND_DATE", nameDateKey, ["name", `entityData.${first.type}.${DATES[first.type]}`]);
  return reasons;
}

/** By the key, whatever the countries; within one country by its canonical form too. */
function isSameTaxId(first: EntityState, second: EntityState): boolean {
  const [key, other] = [taxIdKeyOf(first), taxIdKeyOf(second)];
  if (!key || !other) return false;
  return key === other || (first.countryCode === second.countryCode && hasTaxId(first, other));
}

function sameExternalIds(first: EntityState, second: EntityState): DuplicateReason | undefined {
  const others = second.externalIds.map(({ externalId }) => foldedExternalId(externalId));
  const firstPaths: string[] = [];
  const secondPaths: string[] = [];
  first.externalIds.forEach(({ externalId }, i) => {
    const at = others.indexOf(foldedExternalId(externalId));
    if (at < 0) return;
    firstPaths.push(`externalIds[${i}].externalId`);
    secondPaths.push(`externalIds[${at}].externalId`);
  });
  return firstPaths.length === 0 ? undefined : { rule: "SAME_EXTERNAL_ID", firstPaths, secondPaths };
}
