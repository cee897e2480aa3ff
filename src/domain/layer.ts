// What a survivor has by itself, apart from what the entities that were merged into it add: so a merge can be undone in
// any order and after any edit, and nothing of it depends on the log (rules 89, 101 to 104).

import type { EntityStatus, EntityValues, Held, Layer, LayeredValues } from "./entity-state.ts";
import { type JsonObject, type JsonValue, sameJson } from "./json.ts";
import { nextTaxIdCheck } from "./tax-id.ts";

const SCALARS = ["name", "taxId", "status", "nationality", "riskMatrixId", "riskScore"] as const;
const MAPS = ["entityData", "attributes", "metadata"] as const;
type MapName = (typeof MAPS)[number];

/** The values that a merged entity had, and the ordinal of its merge. */
export interface Contribution {
  readonly ordinal: number;
  readonly values: LayeredValues;
}

export function layeredOf(values: LayeredValues): LayeredValues {
  const { name, taxId, status, nationality, riskMatrixId, riskScore, entityData, attributes, metadata } = values;
  return { name, taxId, status, nationality, riskMatrixId, riskScore, entityData, attributes, metadata };
}

/** Decision 6: the more severe of two is kept. Those of one severity are no reason to change. */
const SEVERITY: Record<EntityStatus, number> = {
  blocked: 4,
  rejected: 3,
  suspended: 2,
  under_review: 1,
  pending: 0,
  active: 0,
  inactive: 0,
};

/** The more severe status; of two that are equally severe, the first. */
export const moreSevere = (first: EntityStatus, second: EntityStatus): EntityStatus =>
  SEVERITY[second] > SEVERITY[first] ? second : first;

/** The higher of two decimals; the only one, where the other is missing. */
const higher = (first: string | null, second: string | null): string | null =>
  first === null || (second !== null && Number(second) > Number(first)) ? second : first;

/** How many merges had been made when the path was last edited. */
export const heldAt = (held: Held, path: string): number => (Object.hasOwn(held, path) ? (held[path] as number) : 0);

/**
 * Rule 102: what one sees of a survivor. For each path its own value, else that of the first contribution, in the order
 * of the merges, which came after the last edit of the path and has one. Status and risk score are the most severe of
 * all these, trading names their union. Maps to which nothing is added are the same objects.
 */
export function survive(own: LayeredValues, held: Held, contributions: readonly Contribution[]): LayeredValues {
  const first = (name: "taxId" | "nationality" | "riskMatrixId") =>
    own[name] ?? counted(name).find((values) => values[name] !== null)?.[name] ?? null;
  const counted = (path: string) =>
    contributions.filter(({ ordinal }) => ordinal > heldAt(held, path)).map(({ values }) => values);
  const entityData = filled("entityData", own.entityData ?? {}, held, contributions);
  return {
    name: own.name,
    taxId: first("taxId"),
    status: counted("status").reduce((status, values) => moreSevere(status, values.status), own.status),
    nationality: first("nationality"),
    riskMatrixId: first("riskMatrixId"),
    riskScore: counted("riskScore").reduce((score, values) => higher(score, values.riskScore), own.riskScore),
    entityData: own.entityData === null && Object.keys(entityData).length === 0 ? null : entityData,
    attributes: filled("attributes", own.attributes, held, contributions),
    metadata: filled("metadata", own.metadata, held, contributions),
  };
}

/** A map with what contributions have under keys that it lacks. */
function filled(name: MapName, own: JsonObject, held: Held, contributions: readonly Contribution[]): JsonObject {
  const entries = new Map<string, JsonValue>(Object.entries(own));
  for (const { ordinal, values } of contributions) {
    for (const [key, value] of Object.entries(values[name] ?? {})) {
      const path = `${name}.${key}`;
      if (ordinal <= heldAt(held, path)) continue;
      const before = entries.get(key);
      if (before === undefined) entries.set(key, value);
      else if (path === TRADING_NAMES) entries.set(key, united(before, value));
    }
  }
  const isSame = entries.size === Object.keys(own).length && [...entries].every(([key, value]) => own[key] === value);
  // Object.fromEntries makes own properties of any key, __proto__ included.
  return isSame ? own : Object.fromEntries(entries);
}

export const TRADING_NAMES = "entityData.tradingNames";

/** The first list, then what only the second has; the same list where that is nothing. */
function united(first: JsonValue, second: JsonValue): JsonValue {
  // A person may have a key of this name, with anything in it.
  if (!Array.isArray(first) || !Array.isArray(second)) return first;
  const more = second.filter((value) => !first.includes(value));
  return more.length === 0 ? first : [...first, ...new Set(more)];
}

/** A path whose value differs, with the values; undefined where there is none. */
export interface Difference {
  readonly path: string;
  readonly before: JsonValue | undefined;
  readonly after: JsonValue | undefined;
}

/** The paths at which values differ, in the order of the contract, keys in that of the maps. */
export function differences(before: LayeredValues, after: LayeredValues): Difference[] {
  const scalars = SCALARS.flatMap((path) =>
    before[path] === after[path] ? [] : [{ path, before: before[path] ?? undefined, after: after[path] ?? undefined }],
  );
  const keys = MAPS.flatMap((name) => {
    const [old, now] = [before[name] ?? {}, after[name] ?? {}];
    if (old === now) return [];
    return [...new Set([...Object.keys(old), ...Object.keys(now)])].flatMap((key) => {
      const valueIn = (map: JsonObject) => (Object.hasOwn(map, key) ? map[key] : undefined);
      const [from, to] = [valueIn(old), valueIn(now)];
      const isSame = from === undefined || to === undefined ? from === to : sameJson(from, to);
      return isSame ? [] : [{ path: `${name}.${key}`, before: from, after: to }];
    });
  });
  return [...scalars, ...keys];
}

/** Rule 101: the layer after an edit of what one sees. Each path that changed is the survivor's own from now on, or unset. */
export function carry(layer: Layer, before: LayeredValues, after: LayeredValues): Layer {
  const edited = differences(before, after);
  if (edited.length === 0) return layer;
  const paths = new Set(edited.map(({ path }) => path));
  const own: LayeredValues = { ...layer.own };
  const scalars = Object.fromEntries(SCALARS.filter((name) => paths.has(name)).map((name) => [name, after[name]]));
  const maps = MAPS.flatMap((name) => {
    const entries = new Map<string, JsonValue>(Object.entries(own[name] ?? {}));
    const changed = edited.filter(({ path }) => path.startsWith(`${name}.`));
    for (const { path, after: value } of changed) {
      const key = path.slice(name.length + 1);
      if (value === undefined) entries.delete(key);
      else entries.set(key, value);
    }
    if (changed.length === 0) return [];
    return [[name, name === "entityData" && entries.size === 0 ? null : Object.fromEntries(entries)]];
  });
  return {
    own: { ...own, ...scalars, ...Object.fromEntries(maps) },
    held: { ...layer.held, ...Object.fromEntries([...paths].map((path) => [path, layer.merges])) },
    merges: layer.merges,
  };
}

/** The values of an entity with those of its layer. Maps that are equal are the same objects: rules keep what they do not change. */
export function withLayered(before: EntityValues, layered: LayeredValues): EntityValues {
  const keep = <T extends JsonObject | null>(old: T, now: T): T =>
    old === null || now === null || !sameJson(old, now) ? now : old;
  const { taxId } = layered;
  return {
    ...before,
    ...layered,
    taxIdCheck: nextTaxIdCheck(before, taxId),
    entityData: keep(before.entityData, layered.entityData),
    attributes: keep(before.attributes, layered.attributes),
    metadata: keep(before.metadata, layered.metadata),
  };
}
