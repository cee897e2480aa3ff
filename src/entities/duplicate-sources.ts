// How the candidates of each rule of duplicates are found: the values that entities share, and who has one, by an index.
import { type DuplicateRule, foldedExternalId, nameDateKey, nameNumberKey } from "../domain/duplicates.ts";
import { type EntityState, taxIdCanonicalOf, taxIdKeyOf } from "../domain/entity-state.ts";
import { digestOf } from "./words.ts";

/** Which entities are suggested. */
export const LIVE = "e.deleted_at is null and e.merged_into is null";

/** How the candidates of a rule are found. `members` are the live entities of the value that an expression gives. */
export interface Source {
  /** The first `limit` values, those of several entities several times; `behind` leaves out what is not behind $2. */
  keys: (behind: boolean, limit: number) => string;
  /** A value that one row has may be shared with rows that have no value of their own. */
  mayBeShared?: (key: string) => string;
  members: (key: string) => string;
  keyType: "text" | "uuid";
  cost: number;
  keysOf: (entity: EntityState) => string[];
}

const present = (key: string | null) => (key === null || key === "" ? [] : [key]);

const keysIn = (column: string, keyType: "text" | "uuid", behind: boolean): string =>
  `select e.${column} as key from entity e where e.organization_id = $1 and e.${column} is not null
   and ${LIVE} ${behind ? `and e.${column} > $2::${keyType}` : ""} order by e.${column}, e.id`;

const membersIn = (column: string, keyType: "text" | "uuid", key: string): string =>
  `select e.id from entity e where e.organization_id = $1 and e.${column} = ${key}::${keyType} and ${LIVE}`;

const ofColumn = (column: string, keyType: "text" | "uuid", keysOf: Source["keysOf"]): Source => ({
  keys: (behind) => keysIn(column, keyType, behind),
  members: (key) => membersIn(column, keyType, key),
  keyType,
  cost: 1,
  keysOf,
});

export const SOURCES: Record<DuplicateRule, Source> = {
  SAME_TAX_ID: {
    // A form that is the key itself is not stored: no row is a member twice.
    keys: (behind, limit) => {
      const parts = ["tax_id_key", "tax_id_canonical"].map(
        (column) => `(${keysIn(column, "text", behind)} limit ${limit})`,
      );
      return `select p.key from (${parts.join(" union all ")}) p order by p.key`;
    },
    members: (key) =>
      ["tax_id_key", "tax_id_canonical"].map((column) => membersIn(column, "text", key)).join(" union all "),
    keyType: "text",
    cost: 1,
    keysOf: (entity) => [...present(taxIdKeyOf(entity)), ...present(taxIdCanonicalOf(entity))],
  },
  SAME_EXTERNAL_ID: {
    keys: (behind) =>
      `select x.folded as key from external_id x where x.organization_id = $1 and x.folded is not null
       ${behind ? "and x.folded > $2" : ""} order by x.folded, x.external_id`,
    mayBeShared: (key) => `exists (select from external_id x where x.organization_id = $1 and x.external_id = ${key})`,
    members: (key) =>
      `select x.entity_id as id from external_id x where x.organization_id = $1 and x.folded = ${key}
       union select x.entity_id from external_id x where x.organization_id = $1 and x.external_id = ${key}`,
    keyType: "text",
    cost: 3,
    keysOf: ({ externalIds }) => [...new Set(externalIds.map(({ externalId }) => foldedExternalId(externalId)))],
  },
  SAME_NAME_AND_REGISTRATION_NUMBER: ofColumn("name_number_key", "uuid", (entity) =>
    present(digestOf(nameNumberKey(entity))),
  ),
  SAME_NAME_AND_DATE: ofColumn("name_date_key", "uuid", (entity) => present(digestOf(nameDateKey(entity)))),
};
