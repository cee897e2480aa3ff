// Points in time with microseconds, as PostgreSQL has them: a Date would cut them off.

/** Microseconds since 1970-01-01T00:00:00Z. */
export type Instant = bigint;

const SECOND = /^(\d{4}-\d\d-\d\d)[ T]([01]\d|2[0-3]):([0-5]\d):([0-5]\d)$/;
const SECOND_LENGTH = 19;
const FRACTION = /^(?:\.(\d{1,6}))?(?:Z|\+00(?::?00)?)$/;

/** The second that was read last, and its day: rows that come together often have them in common. */
let last: { text: string; instant: Instant } | undefined;
let lastDate: { text: string; milliseconds: number } | undefined;

/** Reads PostgreSQL's text or JSON form of a timestamptz in a session of time zone UTC. */
export function parseInstant(text: string): Instant {
  const second = text.slice(0, SECOND_LENGTH);
  if (second !== last?.text) last = { text: second, instant: parseSecond(second) };
  const fraction = FRACTION.exec(text.slice(SECOND_LENGTH));
  if (fraction === null) throw notATime();
  return last.instant + BigInt(Number((fraction[1] ?? "").padEnd(6, "0")));
}

function parseSecond(text: string): Instant {
  const [, date = "", hours, minutes, seconds] = SECOND.exec(text) ?? [];
  if (date !== lastDate?.text) {
    const milliseconds = Date.parse(date);
    if (Number.isNaN(milliseconds)) throw notATime();
    lastDate = { text: date, milliseconds };
  }
  const ofDay = (Number(hours) * 60 + Number(minutes)) * 60 + Number(seconds);
  return BigInt((lastDate.milliseconds + ofDay * 1_000) * 1_000);
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
  const day = Math.floor((milliseconds + 14 * 3_600_000) / DAY_MS);
  if (day !== lastDay?.number) lastDay = { number: day, text: new Date(day * DAY_MS).toISOString().slice(0, 10) };
  return lastDay.text;
}

const DAY_MS = 86_400_000;
/** The day that was asked for last: every write asks for today. */
let lastDay: { number: number; text: string } | undefined;
