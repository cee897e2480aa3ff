// Points in time with microseconds, as PostgreSQL has them: a Date would cut them off.

/** Microseconds since 1970-01-01T00:00:00Z. */
export type Instant = bigint;

const DATE = /^\d{4}-\d\d-\d\d$/;
const DATE_LENGTH = 10;
const SECOND_LENGTH = 19;
const ZONES = ["+00", "Z", "+00:00", "+0000"];

/** The date that was read last: most rows that come together have it in common. */
let last: { text: string; instant: Instant } | undefined;

/**
 * Reads PostgreSQL's text or JSON form of a timestamptz in a session of time zone UTC. Every entity that is read has three of
 * them at least, and regular expressions take several times as long.
 */
export function parseInstant(text: string): Instant {
  const date = text.slice(0, DATE_LENGTH);
  if (date !== last?.text) last = { text: date, instant: parseDate(date) };
  const [hours, minutes, seconds] = [twoDigits(text, 11), twoDigits(text, 14), twoDigits(text, 17)];
  const isTime = (text[10] === " " || text[10] === "T") && text[13] === ":" && text[16] === ":";
  if (!isTime || !(hours < 24 && minutes < 60 && seconds < 60)) throw notATime();
  let end = SECOND_LENGTH;
  let fraction = 0;
  if (text[end] === ".") {
    const first = end + 1;
    for (end = first; digit(text, end) >= 0; end++) fraction = fraction * 10 + digit(text, end);
    if (end === first || end > first + 6) throw notATime();
    fraction *= 10 ** (first + 6 - end);
  }
  if (!ZONES.includes(text.slice(end))) throw notATime();
  return last.instant + BigInt(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction);
}

/** NaN where there is none. */
function digit(text: string, at: number): number {
  const value = text.charCodeAt(at) - 48;
  return value >= 0 && value <= 9 ? value : Number.NaN;
}

const twoDigits = (text: string, at: number): number => digit(text, at) * 10 + digit(text, at + 1);

function parseDate(text: string): Instant {
  const milliseconds = DATE.test(text) ? Date.parse(`${text}T00:00:00Z`) : Number.NaN;
  if (Number.isNaN(milliseconds)) throw notATime();
  return BigInt(milliseconds) * 1_000n;
}

const notATime = () => new Error("not a UTC timestamp");

/** ISO 8601 with as many of the six decimals as needed, at least three, in UTC: what PostgreSQL and people read. */
export function instantToText(instant: Instant): string {
  const [second, micros] = secondOf(instant);
  if (second !== lastWritten?.second) {
    lastWritten = { second, text: new Date(second * 1_000).toISOString().slice(0, SECOND_LENGTH) };
  }
  const [decimals, places] = micros % 1_000 === 0 ? [micros / 1_000, 3] : [micros, 6];
  return `${lastWritten.text}.${String(decimals).padStart(places, "0")}Z`;
}

/** The second, and the microseconds in it. */
function secondOf(instant: Instant): [second: number, micros: number] {
  const number = Number(instant);
  // Until the year 2255: arithmetic of bigints would allocate each result.
  if (Number.isSafeInteger(number)) {
    const second = Math.floor(number / 1_000_000);
    return [second, number - second * 1_000_000];
  }
  const micros = Number(((instant % SECOND_MICROS) + SECOND_MICROS) % SECOND_MICROS);
  return [Number((instant - BigInt(micros)) / SECOND_MICROS), micros];
}

const SECOND_MICROS = 1_000_000n;
/** The second that was written last: the times of what is written together have it in common. */
let lastWritten: { second: number; text: string } | undefined;

/** The latest calendar date that has begun anywhere on Earth (UTC+14) when the clock says `milliseconds`. */
export function latestDate(milliseconds: number): string {
  return dateOf(milliseconds + 14 * 3_600_000);
}

/** The UTC date, YYYY-MM-DD, when the clock says `milliseconds`. */
export function dateOf(milliseconds: number): string {
  const day = Math.floor(milliseconds / DAY_MS);
  const found = lastDays.find(({ number }) => number === day);
  if (found !== undefined) return found.text;
  const text = new Date(day * DAY_MS).toISOString().slice(0, 10);
  lastDays = [{ number: day, text }, ...lastDays.slice(0, 1)];
  return text;
}

/** The end of a UTC date, YYYY-MM-DD. */
export const endOfDate = (date: string): Instant => parseInstant(`${date}T00:00:00Z`) + DAY;

const DAY_MS = 86_400_000;
/** A day, in microseconds. */
export const DAY = 1_000n * BigInt(DAY_MS);
/** The two days that were asked for last: every write, and every lookup by an alias, asks for today. */
let lastDays: { number: number; text: string }[] = [];
