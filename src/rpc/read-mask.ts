// read_mask: which fields of an entity an answer has.
import type { FieldMask } from "@bufbuild/protobuf/wkt";
import { CompanyDataSchema, EntitySchema, PersonDataSchema } from "../../clients/typescript/gen/entity/v1/entity_pb.ts";
import { invalidField } from "../domain/errors.ts";
import { DATA_PATHS, type EntityInit } from "./entity-fields.ts";

export type ReadMask = (entity: EntityInit) => EntityInit;

/** Undefined for all of the entity. Throws VALIDATION_ERROR for an unknown path. */
export function parseReadMask(mask: FieldMask | undefined): ReadMask | undefined {
  if (mask === undefined || mask.paths.length === 0) return undefined;
  const tree = new Map<string, Set<string>>();
  for (const path of mask.paths) {
    const [top = "", ...rest] = path.split(".");
    const field = EntitySchema.fields.find((candidate) => candidate.name === top);
    const inner = rest.join(".");
    if (field === undefined || (rest.length > 0 && !DATA_PATHS.has(path))) {
      throw invalidField("read_mask", "has a path that is no field of Entity");
    }
    const paths = tree.get(field.localName) ?? new Set();
    paths.add(inner);
    tree.set(field.localName, paths);
  }
  return (entity) => {
    const source = entity as unknown as Record<string, unknown>;
    const picked: Record<string, unknown> = {};
    for (const [name, inner] of tree) {
      picked[name] = inner.has("") ? source[name] : pickData(entity, inner);
    }
    return picked as EntityInit;
  };
}

function pickData(entity: EntityInit, paths: Set<string>): EntityInit["entityData"] {
  const data = entity.entityData;
  const kind = data?.kind?.case;
  if (data === undefined || kind === undefined || paths.has(kind)) return data;
  const source = data.kind?.value as unknown as Record<string, unknown>;
  const schema = kind === "person" ? PersonDataSchema : CompanyDataSchema;
  const picked: Record<string, unknown> = {};
  for (const field of schema.fields) {
    if (paths.has(`${kind}.${field.name}`)) picked[field.localName] = source[field.localName];
  }
  if (Object.keys(picked).length === 0) return undefined;
  return { kind: { case: kind, value: picked } };
}
