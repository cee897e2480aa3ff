// The filters of a list of entities, as a request has them.
import { EntityType } from "../../clients/typescript/gen/entity/v1/entity_pb.ts";
import type { ListEntitiesRequest } from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { countryCodeProblem } from "../domain/country.ts";
import { LIMITS } from "../domain/limits.ts";
import { queryWords } from "../domain/name.ts";
import { taxIdKey } from "../domain/tax-id.ts";
import { identifierProblem, textProblem, trim } from "../domain/text.ts";
import type { EntityFilter } from "../entities/list.ts";
import { statusFromProto, typeFromProto } from "./entity-fields.ts";
import { fromTimestamp, taxIdProblem } from "./request.ts";
import type { Violations } from "./violations.ts";

/** Notes what is wrong with the filters of a request. */
export function checkEntityFilter(request: ListEntitiesRequest, violations: Violations): void {
  const { taxId, externalIds, namePrefix, nameQuery } = request;
  if (taxId !== "") violations.check("tax_id", taxIdProblem(taxId));
  externalIds.forEach((id, i) => violations.check(`external_ids[${i}]`, identifierProblem(trim(id))));
  violations.check("name_prefix", textProblem(namePrefix, { max: LIMITS.name }));
  if (nameQuery !== "") violations.check("name_query", nameQueryProblem(nameQuery));
  checkStanding(request, violations);
}

/** The filters that an export has too: where an entity is, and how it stands. */
type Standing = Pick<ListEntitiesRequest, "countryCodes" | "statuses">;

export function checkStanding({ countryCodes, statuses }: Standing, violations: Violations): void {
  countryCodes.forEach((code, i) => violations.check(`country_codes[${i}]`, countryCodeProblem(code)));
  statuses.forEach((status, i) => {
    if (statusFromProto(status) === undefined) violations.add(`statuses[${i}]`, "must be a status");
  });
}

export const standingOf = ({ countryCodes, statuses }: Standing): Pick<EntityFilter, "countryCodes" | "statuses"> => ({
  statuses: statuses.map(statusFromProto).filter((status) => status !== undefined),
  countryCodes: countryCodes.map((code) => code.toUpperCase()),
});

/** Rule 159. It is not folded before its length is known. */
const nameQueryProblem = (query: string): string | null =>
  textProblem(query, { max: LIMITS.name }) ?? (queryWords(query).length === 0 ? "must have a letter or a digit" : null);

/** The filters of a request that was checked. */
export function toEntityFilter(request: ListEntitiesRequest): Omit<EntityFilter, "after" | "bound"> {
  const { type, taxId, nameQuery, updatedAfter } = request;
  return {
    type: type === EntityType.UNSPECIFIED ? undefined : typeFromProto(type),
    ...standingOf(request),
    taxIdKey: taxId === "" ? undefined : taxIdKey(taxId),
    externalIds: request.externalIds.length === 0 ? undefined : [...new Set(request.externalIds.map(trim))],
    namePrefix: request.namePrefix,
    nameWords: nameQuery === "" ? undefined : queryWords(nameQuery),
    updatedAfter: updatedAfter === undefined ? undefined : fromTimestamp(updatedAfter),
    showDeleted: request.showDeleted,
  };
}
