// An entity of an export as a row that `import` takes: what callers set, and no more.
import { toJson } from "@bufbuild/protobuf";
import {
  Designation,
  type Entity,
  EntitySchema,
  EntityStatus,
  EntityStatusSchema,
} from "../../clients/typescript/index.ts";
import { parseCountryCode } from "../domain/country.ts";
import type { JsonObject, JsonValue } from "../domain/json.ts";

const SET_FIELDS = [
  ...["externalId", "type", "countryCode", "name", "taxId", "status", "nationality", "riskMatrixId"],
  ...["entityData", "attributes", "metadata"],
];

/** All that an update may write: what the row leaves unset stays unset. */
const EVERYTHING = SET_FIELDS.filter((field) => field !== "externalId").join();

/** Rule 154. `reason` is for a status that needs one. */
export function exportRowOf(entity: Entity, reason: string | undefined): JsonObject {
  const json = jsonOf(entity);
  const row: Record<string, JsonValue> = {};
  for (const field of SET_FIELDS) {
    const value = json[field];
    if (value !== undefined) row[field] = value;
  }
  const externalIds = entity.externalIds.map(({ externalId, type, designation }) => ({
    externalId,
    ...(type !== "" && { type }),
    ...(designation === Designation.PRIMARY && { designation: "DESIGNATION_PRIMARY" }),
  }));
  // The primary alone, without a label, is said by externalId.
  if (entity.externalIds.length > 1 || entity.externalIds[0]?.type) row.externalIds = externalIds;
  if (RESTRICTED.has(entity.status)) {
    row.reason = reason ?? `exported with the status ${EntityStatusSchema.value[entity.status]?.localName}`;
  }
  if (wouldBeCalculated(entity)) row.updateMask = EVERYTHING;
  return row;
}

/** The whole entity, as every command prints it. */
export const jsonOf = (entity: Entity): JsonObject => toJson(EntitySchema, entity) as JsonObject;

const RESTRICTED = new Set<EntityStatus>([EntityStatus.BLOCKED, EntityStatus.SUSPENDED, EntityStatus.REJECTED]);

/** Rule 28: a nationality that was cleared would come back from that of the person's data. */
const wouldBeCalculated = ({ nationality, entityData }: Entity): boolean =>
  nationality === undefined &&
  entityData?.kind.case === "person" &&
  parseCountryCode(entityData.kind.value.nationality ?? "") !== null;
