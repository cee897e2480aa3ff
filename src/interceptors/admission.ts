// Sheds load early: a call too many is refused before it costs anything, and says when to come back. Organizations,
// and keys within them, have shares of the places (domain/shares.ts): however much one sends, another finds room.
// Streams without an end have places of their own, and so have callers without a key: health and reflection.
import { type ContextValues, createContextKey } from "@connectrpc/connect";
import { callerLeft, overloaded } from "../domain/errors.ts";
import { createShares, type Owner, type Shares } from "../domain/shares.ts";
import { callContext, connectionKey, requestBytesKey } from "./call.ts";

/** Any organization may have this many calls in flight while a place is free: small limits are not divided. */
const LEAST = 4;
/** Bytes of the requests in flight. */
const MAX_REQUEST_BYTES = 128 * 1024 * 1024;
/** For callers without a key: calls, and streams, at once. A connection has a share, as an organization has of the others. */
const KEYLESS_CALLS = 128;
const KEYLESS_STREAMS = 64;

/** What a call holds. */
interface Place {
  owner: Owner;
  shares: Shares;
  /** Of its request, in the shares of bytes. */
  bytes: number;
}

/** A caller may leave while its key is looked up: no place is given to a call that was released. */
const placeKey = createContextKey<Place | "released" | undefined>(undefined, { description: "place" });

/**
 * At most maxInFlight calls at once, and maxWatches streams without an end, divided into shares. `admit` throws
 * OVERLOADED; `release` may be called for any call, and more than once. A call is known by its context values,
 * which say whose it is.
 */
export function admission({ maxInFlight, maxWatches }: { maxInFlight: number; maxWatches: number }): {
  admit(call: ContextValues, isEndless: boolean): void;
  release(call: ContextValues): void;
  /** Calls that are being answered, of one organization or of all; streams without an end, and calls without a key, are not counted. */
  inFlight(organizationId?: string): number;
} {
  const calls = createShares(maxInFlight, LEAST);
  const watches = createShares(maxWatches, LEAST);
  const bytes = createShares(MAX_REQUEST_BYTES);
  const keylessCalls = createShares(KEYLESS_CALLS, LEAST);
  const keylessStreams = createShares(KEYLESS_STREAMS, LEAST);
  const nobody = {};

  const wantedBy = (call: ContextValues, isEndless: boolean): [Owner, Shares, what: string] => {
    const caller = call.get(callContext)?.caller;
    if (caller === undefined) {
      const owner = { organization: call.get(connectionKey) ?? nobody };
      return isEndless
        ? [owner, keylessStreams, "Too many streams without an API key are open"]
        : [owner, keylessCalls, "Too many calls without an API key are in flight"];
    }
    const owner = { organization: caller.organizationId, part: caller.apiKeyId };
    return isEndless ? [owner, watches, "Too many callers watch"] : [owner, calls, "Too many calls are in flight"];
  };

  return {
    admit(call, isEndless) {
      if (call.get(placeKey) === "released") throw callerLeft();
      const [owner, shares, what] = wantedBy(call, isEndless);
      const size = call.get(requestBytesKey);
      if (!shares.take(owner)) throw overloaded(what);
      if (size > 0 && !bytes.take(owner, size)) {
        shares.give(owner);
        throw overloaded("Too many bytes of requests are in hand");
      }
      call.set(placeKey, { owner, shares, bytes: size });
    },
    release(call) {
      const place = call.get(placeKey);
      call.set(placeKey, "released");
      if (place === undefined || place === "released") return;
      place.shares.give(place.owner);
      if (place.bytes > 0) bytes.give(place.owner, place.bytes);
    },
    inFlight: (organizationId) => calls.used(organizationId),
  };
}
