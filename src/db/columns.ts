// The columns of schema.ts for statements that are written by hand: what they select, what they send as arrays, and the
// values that their rows become. Names and types are MikroORM's metadata, so that no statement lists them again.
import { type EntitySchema, type InferEntity, MikroORM } from "@mikro-orm/core";
import { PostgreSqlDriver } from "@mikro-orm/postgresql";
import type { JsonText, JsonValue } from "../domain/json.ts";
import { byteaArray, jsonbArray, jsonText } from "./binary-arrays.ts";
import { TABLES } from "./schema.ts";
import { ColumnType } from "./types.ts";

export interface Column {
  /** Of the row, as schema.ts names it. */
  property: string;
  /** In the database. */
  name: string;
  /** In the database: `timestamptz`, `text[]`. */
  type: string;
  /** Undefined where the driver gives and takes the value as it is. */
  converts: ColumnType<unknown, unknown> | undefined;
  /** False: written, to be searched by, and never read. */
  isRead: boolean;
}

/** Read from the schema alone: nothing is connected. */
const metadata = new MikroORM({
  driver: PostgreSqlDriver,
  dbName: "none",
  entities: TABLES,
  logger: () => {},
}).getMetadata();

/** The columns of a table in the order of the schema. */
export function columnsOf(table: EntitySchema): Column[] {
  return metadata.get(table).props.map((property) => ({
    property: property.name,
    name: property.fieldNames[0] as string,
    type: (property.columnTypes[0] as string).replace(/\(.*\)/, ""),
    converts: property.customType instanceof ColumnType ? property.customType : undefined,
    isRead: property.hydrate !== false,
  }));
}

/** What a statement selects of the table that it calls `alias`; `instead` has expressions for some properties. */
export const selected = (columns: readonly Column[], alias: string, instead: Record<string, string> = {}): string =>
  columns
    .filter(({ isRead }) => isRead)
    .map(({ property, name }) => (property in instead ? `${instead[property]} as ${name}` : `${alias}.${name}`))
    .join(", ");

/** A row of the table as it is read: a column that is nullable is null where there is nothing. */
export type RowOf<Table extends EntitySchema> = {
  [Property in keyof InferEntity<Table> & string]: Exclude<InferEntity<Table>[Property], undefined>;
};

/** Makes the values of a row that the driver read: those of the columns, and of no others. */
export function hydrator<Table extends EntitySchema>(columns: readonly Column[]): (row: unknown) => RowOf<Table> {
  const read = columns.filter(({ isRead }) => isRead);
  // V8 makes a slow dictionary of an object that gets more than a dozen properties by computed names: a copy of one that
  // has them all keeps its form.
  const form = JSON.parse(JSON.stringify(Object.fromEntries(read.map(({ property }) => [property, null]))));
  return (row) => {
    const values: Record<string, unknown> = { ...form };
    for (const { property, name, converts } of read) {
      const stored = (row as Record<string, unknown>)[name];
      values[property] = converts === undefined || stored === null ? stored : converts.fromStored(stored);
    }
    return values as RowOf<Table>;
  };
}

/** A statement with its values, as `send` and `execute` take them. */
export type Statement = [text: string, values: unknown[]];

/** Makes the values of rows for a statement that is written once. */
export interface RowsTable<Row> {
  /** `unnest(...) as v(...)`, of the parameters from $2 on. Its text is the same for any number of rows. */
  table: string;
  /** Its columns in their order, to be selected from it. */
  select: string;
  /** The parameters: one array for each column. */
  arraysOf(rows: readonly Row[]): unknown[];
  /** The same of a single row, as parameters from $2 on, in the order of the columns. */
  single: string[];
  valuesOf(row: Row): unknown[];
}

/** Rows as a table `v` of a statement whose $1 is the organization. `derived` computes the columns that are no property of the row. */
export function rowsTable<Row>(
  columns: readonly Column[],
  derived: Record<string, (row: Row) => unknown> = {},
): RowsTable<Row> {
  const readers = columns.map(({ property, converts }) => {
    const read = derived[property] ?? ((row: Row) => row[property as keyof Row] ?? null);
    return (row: Row): unknown => {
      const value = read(row);
      return converts === undefined || value === null ? value : converts.toStored(value);
    };
  });
  return {
    table: `unnest(${columns.map(({ type }, i) => `$${i + 2}::${parameterType(type)}[]`).join(", ")}) as v(${namesOf(columns)})`,
    select: columns.map(({ name, type }) => (isArray(type) ? `v.${name}::${type}` : `v.${name}`)).join(", "),
    arraysOf: (rows) =>
      columns.map(({ type }, i) => {
        const values = rows.map(readers[i] as (row: Row) => unknown);
        if (type === "jsonb")
          return jsonbArray(values.map((value) => (value === null ? undefined : (value as JsonText | JsonValue))));
        if (type === "bytea") return byteaArray(values as (Buffer | null)[]);
        return isArray(type) ? (values as string[][]).map(arrayLiteral) : values;
      }),
    single: columns.map(({ type }, i) => `$${i + 2}::${type}`),
    valuesOf: (row) =>
      columns.map(({ type }, i) => {
        const value = (readers[i] as (row: Row) => unknown)(row);
        if (value === null) return null;
        if (type === "jsonb") return jsonText(value as JsonText | JsonValue);
        return isArray(type) ? arrayLiteral(value as string[]) : value;
      }),
  };
}

/** The statement that writes rows of one organization, and its values. */
export type Write<Row> = (organizationId: string, rows: readonly Row[]) => Statement;

/** One row has a form of its own: an array for each of its columns costs the server two thirds more. */
function writeOf<Row>(text: { one: string; many: string }, { arraysOf, valuesOf }: RowsTable<Row>): Write<Row> {
  return (organizationId, rows) =>
    rows.length === 1
      ? [text.one, [organizationId, ...valuesOf(rows[0] as Row)]]
      : [text.many, [organizationId, ...arraysOf(rows)]];
}

/** Inserts rows; `rest` goes on with a condition, or with what a conflict does. */
export function insertOf<Row>(
  into: string,
  columns: readonly Column[],
  { derived = {}, rest = "" }: { derived?: Record<string, (row: Row) => unknown>; rest?: string } = {},
): Write<Row> {
  const own = columns.filter(({ property }) => property !== "organizationId");
  const rowsOf = rowsTable(own, derived);
  const { table, select, single } = rowsOf;
  const begin = `insert into ${into} (organization_id, ${namesOf(own)}) select $1::uuid,`;
  const many = `${begin} ${select} from ${table} ${rest}`;
  const one = `${begin} ${single.join(", ")} ${rest}`;
  return writeOf({ one, many }, rowsOf);
}

/** Changes rows, by their ids. The properties `leftNull` stay null in a row where they are null. */
export function updateOf<Row extends { id: string }>(
  tableName: string,
  id: Column,
  columns: readonly Column[],
  { derived = {}, leftNull = [] }: { derived?: Record<string, (row: Row) => unknown>; leftNull?: string[] } = {},
): Write<Row> {
  const rowsOf = rowsTable([id, ...columns], derived);
  const { table, single } = rowsOf;
  const set = (values: readonly string[]) =>
    columns
      .map(({ name, property }, i) => {
        const value = leftNull.includes(property) ? `case when t.${name} is not null then ${values[i]} end` : values[i];
        return `${name} = ${value}`;
      })
      .join(", ");
  const many = `update ${tableName} t set ${set(columns.map(({ name }) => `v.${name}`))} from ${table}
     where t.organization_id = $1 and t.id = v.id`;
  const [its, ...values] = single;
  const one = `update ${tableName} t set ${set(values)}
     where t.organization_id = $1 and t.id = ${its}`;
  return writeOf({ one, many }, rowsOf);
}

const namesOf = (columns: readonly Column[]): string => columns.map(({ name }) => name).join(", ");

const isArray = (type: string) => type.endsWith("[]");

/** The arrays of unnest cannot hold arrays of different lengths: those are sent as texts. */
const parameterType = (type: string) => (isArray(type) ? "text" : type);

const arrayLiteral = (items: readonly string[]) =>
  `{${items.map((item) => `"${item.replaceAll(/["\\]/g, "\\$&")}"`).join(",")}}`;
