// Requests that have begun and are not complete. Each holds some kilobytes, even if nothing but its headers has come, and
// those of a connection that ends all end in one turn of the event loop. So there is a bound; honest callers send theirs
// within milliseconds.
import { type DomainError, overloaded } from "../domain/errors.ts";
import { createPlaces, type Places, type Waiting } from "./places.ts";

export interface Arriving extends Waiting {
  /** Ends the call: its request took too long to come. */
  fail(error: DomainError): void;
}

export type Arrivals = Places<Arriving>;

const MAX_ARRIVING = 1_000;

export const createArrivals = (max = MAX_ARRIVING): Arrivals =>
  createPlaces(max, (late) => late.fail(overloaded("Too many requests are on their way at once")));
