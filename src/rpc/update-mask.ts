// update_mask: which paths an update may name; and of an entity, which fields it writes.
import type { FieldMask } from "@bufbuild/protobuf/wkt";
import { type Entity, EntitySchema } from "../../clients/typescript/gen/entity/v1/entity_pb.ts";
import { DATA_PATHS } from "./entity-fields.ts";
import type { Violations } from "./violations.ts";

/** The paths of a mask that may name `writable` alone; empty without a mask. */
export function parseMask(
  mask: FieldMask | undefined,
  writable: readonly string[],
  violations: Violations,
): Set<string> {
  const paths = new Set(mask?.paths);
  for (const path of paths) {
    if (!writable.includes(path)) {
      violations.add("update_mask", `has a path that cannot be written: use ${writable.join(", ")}`);
    }
  }
  return paths;
}

// --- Of an entity -------------------------------------------------------------------------------

/** Output-only, and external_id, which has its own RPCs: ignored in an update (rules 21, 23). */
const IGNORED_PATHS = [
  "id",
  "organization_id",
  "external_id",
  "external_ids",
  "tax_id_check",
  "risk_score",
  "created_at",
  "updated_at",
  "deleted_at",
  "merged_into",
] as const;

/** Paths that update_mask may name, beside those that are ignored. */
const WRITABLE_PATHS = new Set([
  ...["type", "country_code", "name", "tax_id", "status", "nationality", "risk_matrix_id", "attributes", "metadata"],
  ...DATA_PATHS,
]);

/** Reports each path that cannot be written, and a path that is named beside one inside it. */
export function checkUpdateMask(paths: Set<string>, violations: Violations): void {
  for (const path of paths) {
    if (WRITABLE_PATHS.has(path) || path === "etag" || (IGNORED_PATHS as readonly string[]).includes(path)) continue;
    const known = /^[a-z_]+(\.[a-z_]+)*$/.test(path) && path.length <= 128;
    violations.add(
      "update_mask",
      known ? `${path} is not a path that can be written` : "has a path that is no field of Entity",
    );
  }
  for (const kind of ["person", "company"] as const) {
    const inner = [...paths].filter((path) => path.startsWith(`entity_data.${kind}.`));
    if (inner.length > 0 && (paths.has("entity_data") || paths.has(`entity_data.${kind}`))) {
      violations.add("update_mask", `names entity_data.${kind} and a path inside it`);
    }
  }
}

/** The paths that were sent, in the mask or, without one, as fields, and that an update ignores. */
export function ignoredPaths(entity: Entity, paths: Set<string> | undefined): string[] {
  return IGNORED_PATHS.filter((path) => (paths === undefined ? isPopulated(entity, path) : paths.has(path)));
}

const IGNORED_FIELDS = new Map(
  IGNORED_PATHS.map((path) => [path, EntitySchema.fields.find(({ name }) => name === path)]),
);

function isPopulated(entity: Entity, path: (typeof IGNORED_PATHS)[number]): boolean {
  const value = (entity as unknown as Record<string, unknown>)[IGNORED_FIELDS.get(path)?.localName ?? path];
  return !(value === undefined || value === "" || value === 0 || (Array.isArray(value) && value.length === 0));
}
