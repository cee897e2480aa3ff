// The pages of a list: `openPage` says what to read for a request, `closePage` what to answer. A page ends after as many
// items as were asked for, or before they take more than LIMITS.pageBytes.
import { createHash } from "node:crypto";
import { type DescMessage, type DescMethodUnary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import type { Bound, Part } from "../db/bytes.ts";
import { invalidField } from "../domain/errors.ts";
import { LIMITS } from "../domain/limits.ts";
import { identifierProblem, parseUuid, textProblem } from "../domain/text.ts";
import type { Instant } from "../domain/time.ts";
import { wireBytes } from "./message.ts";
import type { Violations } from "./violations.ts";

/** What the values of a cursor may be, each with its check: a token is no secret, and anybody can make one. */
const KINDS = {
  id: (text: string) => parseUuid(text) !== null,
  /** Looked into where it is used, as WatchEntities does with any. */
  position: (text: string) => /^[A-Za-z0-9_-]+$/.test(text),
  version: (text: string) => /^\d{1,18}$/.test(text),
  /** Any text by which rows are in order. */
  key: (text: string) => textProblem(text, { max: LIMITS.externalId * 4 }) === null,
  /** Microseconds, of the years 1 to 9999. */
  externalId: (text: string) => identifierProblem(text) === null,
  instant: (text: string) =>
    /^-?\d{1,18}$/.test(text) && BigInt(text) >= -62_135_596_800_000_000n && BigInt(text) < 253_402_300_800_000_000n,
};

/** The values of a list's cursor, by name, in the order in which its tokens have them. */
type CursorKinds = Readonly<Record<string, keyof typeof KINDS>>;
type Cursor<Kinds extends CursorKinds> = { [Name in keyof Kinds]: Kinds[Name] extends "instant" ? Instant : string };

/** What a request asks for of a list. */
export interface Page<Kinds extends CursorKinds> {
  size: number;
  /** What to read: one row more tells whether there is another page. */
  bound: Bound;
  /** The last row of the page before; undefined at the beginning. */
  cursor: Cursor<Kinds> | undefined;
  kinds: Kinds;
  /** What the tokens of the list are bound to. */
  query: string;
  /** The message of the items; undefined where the answer has none. */
  item: DescMessage | undefined;
}

/**
 * The page that a request of `method` asks for. The last check of a request: throws VALIDATION_ERROR for the page size,
 * else for what `violations` has noted, else for a token that is not one of the same request by the same organization.
 */
export function openPage<I extends DescMessage, const Kinds extends CursorKinds>(
  { input, output }: DescMethodUnary<I>,
  request: MessageShape<I> & { pageSize: number; pageToken: string },
  { organizationId, cursor: kinds, violations }: { organizationId: string; cursor: Kinds; violations?: Violations },
): Page<Kinds> {
  const size = parsePageSize(request.pageSize);
  violations?.throwIfAny();
  const query = queryOf(input, request, organizationId);
  return {
    size,
    bound: { rows: size + 1, bytes: LIMITS.pageBytes },
    cursor: parseToken(query, request.pageToken, kinds),
    kinds,
    query,
    item: output.fields.find(({ fieldKind }) => fieldKind === "list")?.message,
  };
}

/** Rows that are complete: none was left out for its bytes. */
export const whole = <Row>(rows: Row[]): Part<Row> => ({ rows, isCut: false });

/** A value of a list takes this many times as much as a message than as a row at most: a number of one digit. */
const WIRE_PER_ROW_BYTE = 8;
/** The part of a row that its bytes do not count. */
const ROW_BYTES = 3_000;

/** The items of the page, and the token of the next one, which begins behind the last of them. */
export function closePage<Row, Item extends object, Kinds extends CursorKinds>(
  page: Page<Kinds>,
  { rows, isCut, bytes }: Part<Row>,
  {
    present,
    cursorOf,
    end,
  }: {
    present: (row: Row) => Item;
    cursorOf: (last: Row) => Cursor<Kinds>;
    /** Set where the list was not looked through to its end: the rest is behind this. */
    end?: Cursor<Kinds> | undefined;
  },
): { items: Item[]; nextPageToken: string } {
  // Most are far from the bound, and need not be measured.
  const mayEnd = bytes === undefined || bytes * WIRE_PER_ROW_BYTE + rows.length * ROW_BYTES > LIMITS.pageBytes;
  const measured = mayEnd ? page.item : undefined;
  const items: Item[] = [];
  let room: number = LIMITS.pageBytes;
  for (const row of rows.slice(0, page.size)) {
    const message = present(row);
    if (measured !== undefined) room -= wireBytes(measured, message);
    if (room < 0 && items.length > 0) break;
    items.push(message);
  }
  const last = rows[items.length - 1];
  const isMore = last !== undefined && (isCut || items.length < rows.length);
  const next = isMore ? cursorOf(last) : end;
  return { items, nextPageToken: next === undefined ? "" : toToken(page, next) };
}

/** Rule 76: 0 is the default, more than the maximum is the maximum. */
function parsePageSize(value: number): number {
  if (value < 0) throw invalidField("page_size", "must not be negative");
  return value === 0 ? LIMITS.pageSizeDefault : Math.min(value, LIMITS.pageSize);
}

// --- Tokens -------------------------------------------------------------------------------------

/** The request without its page, and whose it is. */
function queryOf<Desc extends DescMessage>(desc: Desc, request: MessageShape<Desc>, organizationId: string): string {
  const bytes = toBinary(desc, { ...request, pageSize: 0, pageToken: "" });
  return `${organizationId} ${desc.typeName} ${Buffer.from(bytes).toString("base64")}`;
}

/** The values of the cursor as texts, behind a digest that binds them to the query. */
function toToken<Kinds extends CursorKinds>({ query, kinds }: Page<Kinds>, cursor: Cursor<Kinds>): string {
  const text = JSON.stringify(Object.keys(kinds).map((name) => String(cursor[name])));
  return Buffer.from(`${digest(query, text)}${text}`).toString("base64url");
}

/** The cursor of a token, undefined without one. Throws VALIDATION_ERROR for one of another query, or an edited one. */
function parseToken<Kinds extends CursorKinds>(query: string, token: string, kinds: Kinds): Cursor<Kinds> | undefined {
  if (token === "") return undefined;
  const decoded = Buffer.from(token, "base64url").toString();
  const text = decoded.slice(DIGEST_LENGTH);
  // Decoding passes over characters that are not base64url: written again, the token must be what came.
  const isWhole = token.length <= LIMITS.string && Buffer.from(decoded).toString("base64url") === token;
  const values = isWhole && decoded.slice(0, DIGEST_LENGTH) === digest(query, text) ? parseTexts(text) : undefined;
  const named = Object.entries(kinds);
  if (values?.length !== named.length || !named.every(([, kind], i) => KINDS[kind](values[i] ?? ""))) {
    throw notOfThisQuery();
  }
  const cursor = named.map(([name, kind], i) => [name, kind === "instant" ? BigInt(values[i] ?? "") : values[i]]);
  return Object.fromEntries(cursor);
}

export const notOfThisQuery = () => invalidField("page_token", "is not a token of this query: begin again without one");

function parseTexts(text: string): string[] | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return Array.isArray(value) && value.every((item) => typeof item === "string") ? value : undefined;
  } catch {
    return undefined;
  }
}

const DIGEST_LENGTH = 16;
const digest = (...parts: string[]) =>
  createHash("sha256").update(JSON.stringify(parts)).digest("base64url").slice(0, DIGEST_LENGTH);
