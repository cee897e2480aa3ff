// How the page of a list ends: after as many items as were asked for, or before they take more than LIMITS.pageBytes.
import type { DescMessage, MessageInitShape } from "@bufbuild/protobuf";
import type { Bound, Part } from "../db/bytes.ts";
import { LIMITS } from "../domain/limits.ts";
import { wireBytes } from "./message.ts";
import { toPageToken } from "./request.ts";

/** What to read for a page: one row more tells whether there is another page. */
export const boundOf = (pageSize: number): Bound => ({ rows: pageSize + 1, bytes: LIMITS.pageBytes });

/** Rows of which all that were asked for have come. */
export const whole = <Row>(rows: Row[]): Part<Row> => ({ rows, isCut: false });

/** A value of a list takes this many times as much as a message than as a row at most: a number of one digit. */
const WIRE_PER_ROW_BYTE = 8;
/** All of a row that its bytes do not count. */
const ROW_BYTES = 3_000;

/** The items of the page and where the next one begins: `cursor` is that of the page's last row. */
export function pageOf<Row, Desc extends DescMessage>(
  { rows, isCut, bytes }: Part<Row>,
  {
    query,
    pageSize,
    item,
    present,
    cursor,
  }: {
    query: string;
    pageSize: number;
    item: Desc;
    present: (row: Row) => MessageInitShape<Desc>;
    cursor: (last: Row) => string[];
  },
): { items: MessageInitShape<Desc>[]; nextPageToken: string } {
  // Most are far from the bound, and need not be measured.
  const mayEnd = bytes === undefined || bytes * WIRE_PER_ROW_BYTE + rows.length * ROW_BYTES > LIMITS.pageBytes;
  const items: MessageInitShape<Desc>[] = [];
  let room: number = LIMITS.pageBytes;
  for (const row of rows.slice(0, pageSize)) {
    const message = present(row);
    if (mayEnd) room -= wireBytes(item, message);
    if (room < 0 && items.length > 0) break;
    items.push(message);
  }
  const last = rows[items.length - 1];
  const isMore = last !== undefined && (isCut || items.length < rows.length);
  return { items, nextPageToken: isMore ? toPageToken(query, cursor(last)) : "" };
}
