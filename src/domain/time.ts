// Points in time with microseconds, as PostgreSQL has them: a Date would cut them off.

/** Microseconds since 1970-01-01T00:00:00Z. */
export type Instant = bigint;

const TEXT = /^(\d{4,})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:Z|\+00(?::?00)?)$/;

/** Reads PostgreSQL's text or JSON form of a timestamptz in a session of time zone UTC. */
export function parseInstant(text: string): Instant {
  const match = TEXT.exec(text);
  if (match === null) throw new Error("not a UTC timestamp");
  const [, year, month, day, hour, minute, second, fraction = ""] = match;
  // Date.UTC reads the years 0 to 99 as 1900 to 1999.
  const date = new Date(0);
  date.setUTCFullYear(Number(year), Number(month) - 1, Number(day));
  date.setUTCHours(Number(hour), Number(minute), Number(second));
  return BigInt(date.getTime()) * 1000n + BigInt(fraction.padEnd(6, "0"));
}

/** ISO 8601 with as many of the six decimals as needed, at least three, in UTC: what PostgreSQL and people read. */
export function instantToText(instant: Instant): string {
  const micros = ((instant % 1000n) + 1000n) % 1000n;
  const whole = new Date(Number((instant - micros) / 1000n)).toISOString().slice(0, -1);
  return micros === 0n ? `${whole}Z` : `${whole}${String(micros).padStart(3, "0")}Z`;
}

/** The latest calendar date that has begun anywhere on Earth (UTC+14) when the clock says `milliseconds`. */
export function latestDate(milliseconds: number): string {
  return new Date(milliseconds + 14 * 3_600_000).toISOString().slice(0, 10);
}
