// Rows that are bounded by their bytes, not by their number alone: the database stops sending at the bound. What it
// sends takes memory here, so a column that is stored compressed counts with its decompressed size.

/** What the columns of a row hold: cheap where they are not compressed, as it is in a row of less than 2 kB. */
export const bytesOf = (table: string, columns: readonly string[]): string =>
  columns
    .map((name) => `${table}.${name}`)
    .map(
      (column) => `coalesce(case when pg_column_compression(${column}) is null then pg_column_size(${column})
        else octet_length(${column}::text) end, 0)`,
    )
    .join(" + ");

/** About how many times as much a column holds as it takes where it is stored compressed. */
const COMPRESSION = 20;

/** The same at a guess, at which nothing is decompressed that is not read after all. */
export const roughBytesOf = (table: string, columns: readonly string[]): string =>
  columns
    .map((name) => `${table}.${name}`)
    .map(
      (column) =>
        `coalesce(pg_column_size(${column}) * case when pg_column_compression(${column}) is null then 1 else ${COMPRESSION} end, 0)`,
    )
    .join(" + ");

/** How much is read at once. */
export interface Bound {
  rows: number;
  /** The row that reaches them is the last. */
  bytes: number;
}

/** Some rows, and whether there are more that the bytes had no room for. */
export interface Part<T> {
  rows: T[];
  isCut: boolean;
  /** The bytes that the rows hold; undefined where they were not measured. */
  bytes?: number;
}

/**
 * The rows of `select`, each with its `bytes`, in its order, up to the one that reaches `bytes`: one in any case. To be
 * read by `partOf`; nothing is decompressed of a row that does not come, beyond measuring it.
 */
export const withinBytes = (select: string, bytes: number, order = ""): string =>
  `select * from (
     select q.*, sum(q.bytes) over (rows unbounded preceding) - q.bytes as bytes_before, count(*) over () as row_count
     from (${select}) q) q
   where q.bytes_before < ${Math.ceil(bytes)} ${order === "" ? "" : `order by ${order}`}`;

export function partOf<T>(rows: readonly unknown[], toRow: (row: never) => T): Part<T> {
  const measured = rows as { row_count: string; bytes: number | string }[];
  return {
    rows: rows.map((row) => toRow(row as never)),
    isCut: Number(measured[0]?.row_count ?? 0) > rows.length,
    bytes: measured.reduce((sum, { bytes }) => sum + Number(bytes), 0),
  };
}

/**
 * How many rows to ask for behind a part of `asked`, at most `most`: where the bytes cut it, few more than they have room
 * for, since the rest is measured for nothing.
 */
export const nextRows = (asked: number, { rows, isCut }: Part<unknown>, most: number): number =>
  Math.min(isCut ? rows.length * 2 : asked * 4, most);
