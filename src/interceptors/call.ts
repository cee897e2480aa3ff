// What the service knows about the call at hand, beside its message.
import { type ContextValues, createContextKey, type HandlerContext } from "@connectrpc/connect";

/** Who calls: one API key of one organization, with the scopes that it was given. */
export interface Caller {
  organizationId: string;
  apiKeyId: string;
  scopes: ReadonlySet<string>;
}

/** Set by the request gate before the body is read. */
export interface CallContext {
  caller: Caller;
  /** `x-actor-id`: on whose behalf the caller acts. */
  actor: string | undefined;
  /** `x-source`: the system that the change came from. */
  source: string | undefined;
  /** Made here for each call: in its log lines, in INTERNAL errors and in the header `x-request-id`. Not the request_id of a request message. */
  requestId: string;
  /** The IP address that the call came from: that of a proxy if there is one, whose headers are not trusted. */
  peer: string;
}

/** Undefined for health and reflection, which need no key. */
export const callContext = createContextKey<CallContext | undefined>(undefined, { description: "callContext" });

/** Set for every call, open ones as well. */
export const requestIdKey = createContextKey("", { description: "requestId" });

/** The IP address that a call came from, for every call. */
export const peerKey = createContextKey("", { description: "peer" });

/** Whether a call is over before its answer, and why: what its signal says, for code that polls. */
export type Departure = Pick<AbortSignal, "aborted" | "reason">;

/** Set where the call itself knows: for most calls no AbortController is created. */
export const departureKey = createContextKey<Departure | undefined>(undefined, { description: "departure" });

export const departureOf = (ctx: HandlerContext): Departure => ctx.values.get(departureKey) ?? ctx.signal;

/** The context of a call that passed the gate. Throws where there is none: an RPC was served without the gate. */
export function callOf(values: ContextValues): CallContext {
  const call = values.get(callContext);
  if (call === undefined) throw new Error("the request gate did not run");
  return call;
}

/** The connection that the call came on: callers without a key are told apart by it. */
export const connectionKey = createContextKey<object | undefined>(undefined, { description: "connection" });

/** Bytes of the request, where it has arrived as a whole. */
export const requestBytesKey = createContextKey(0, { description: "requestBytes" });

/** Whose work a call is: its organization's; without a key, its connection's. */
export const workOwnerOf = (call: ContextValues): string | object =>
  call.get(callContext)?.caller.organizationId ?? call.get(connectionKey) ?? NOBODY;

const NOBODY = {};
