// Who calls, and may they: decided from the headers, before a byte of the body is read.
import { type DescMethod, type DescService, getOption } from "@bufbuild/protobuf";
import type { ContextValues } from "@connectrpc/connect";
import { also_required_scope, required_scope } from "../../clients/typescript/gen/entity/v1/options_pb.ts";
import { DomainError, invalidField, type Reason, withoutStack } from "../domain/errors.ts";
import { type Caller, callContext, peerKey, requestIdKey } from "./call.ts";
import { within } from "./deadline.ts";

/**
 * Answers null for a key that is unknown, expired or revoked; throws when the database does not answer, and OVERLOADED
 * where too many ask. A lookup whose caller has left may be given up.
 */
export type FindCaller = ((secret: string, hasLeft?: () => boolean) => Promise<Caller | null>) & {
  /** The caller where the answer is known and positive. */
  known?: (secret: string) => Caller | undefined;
};

/** Headers, as little as is asked of them. */
export interface HeaderSource {
  get(name: string): string | null;
  /** The names, those of pseudo-headers perhaps among them. */
  keys(): Iterable<string>;
}

/** What is known of a call before its body. */
export interface CallHead {
  readonly service: DescService;
  readonly method: DescMethod;
  readonly values: ContextValues;
  readonly header: HeaderSource;
  /** Milliseconds that are left, where the caller names a deadline. */
  timeoutMs(): number | undefined;
  /** The call is over: its key is no longer needed. */
  hasLeft?(): boolean;
}

/** token68 of RFC 9110: a comma, by which two headers are joined, is not in it. */
const BEARER = /^Bearer +([A-Za-z0-9._~+/=-]{1,256})$/i;
// gRPC metadata is printable ASCII; a byte beyond has no agreed meaning in a header.
const VISIBLE = /^[\x20-\x7e]+$/;
const BASE64 = /^[A-Za-z0-9+/_-]*={0,2}$/;

/** Refusals of a lookup that are no failure of the database. */
const PASSED_ON: ReadonlySet<Reason> = new Set(["OVERLOADED", "CANCELLED", "DEADLINE_EXCEEDED"]);

/** Time for findCaller to answer, where the caller names no shorter one, in milliseconds. */
const LOOKUP_TIMEOUT_MS = 5_000;

/**
 * Refuses a call with UNAUTHENTICATED, PERMISSION_DENIED, VALIDATION_ERROR, DATABASE_UNAVAILABLE or OVERLOADED, in
 * this order, or sets `callContext`. The scopes of each RPC are its options (entity.v1.required_scope) and
 * (entity.v1.also_required_scope); an RPC without the first is refused. `open` services need no key.
 */
export function credentials(options: {
  findCaller: FindCaller;
  services: Iterable<DescService>;
  open: Iterable<DescService>;
}): (call: CallHead) => Promise<void> | void {
  const open = new Set(Array.from(options.open, (service) => service.typeName));
  const scopes = new Map<DescMethod, string[]>();
  for (const service of options.services) {
    for (const method of service.methods) {
      const also = getOption(method, also_required_scope);
      scopes.set(method, [getOption(method, required_scope), ...(also === "" ? [] : [also])]);
    }
  }

  const admit = (call: CallHead, caller: Caller) => {
    for (const scope of scopes.get(call.method) ?? [""]) authorize(caller, scope);
    call.values.set(callContext, {
      caller,
      actor: actorOf(call.header),
      source: sourceOf(call.header),
      requestId: call.values.get(requestIdKey),
      peer: call.values.get(peerKey),
    });
    checkBinaryMetadata(call.header);
  };

  return (call) => {
    if (open.has(call.service.typeName)) return checkBinaryMetadata(call.header);
    const secret = secretOf(call.header);
    const known = options.findCaller.known?.(secret);
    if (known !== undefined) return admit(call, known);
    return authenticate(secret, call, options.findCaller).then((caller) => admit(call, caller));
  };
}

const unauthenticated = (text: string) => withoutStack(() => new DomainError("UNAUTHENTICATED", text));

function secretOf(header: HeaderSource): string {
  const secret = BEARER.exec(header.get("authorization") ?? "")?.[1];
  if (secret === undefined) {
    throw unauthenticated("An API key is needed, in the header authorization: Bearer <key>");
  }
  return secret;
}

async function authenticate(secret: string, call: CallHead, findCaller: FindCaller): Promise<Caller> {
  const left = call.timeoutMs() ?? Number.POSITIVE_INFINITY;
  const expired = () =>
    left <= LOOKUP_TIMEOUT_MS
      ? new DomainError("DEADLINE_EXCEEDED", "The deadline passed while the API key was checked")
      : new Error("the lookup of the API key took too long");
  let caller: Caller | null;
  try {
    const lookup = findCaller(secret, () => call.hasLeft?.() ?? false);
    caller = await within(lookup, Math.min(left, LOOKUP_TIMEOUT_MS), expired);
  } catch (cause) {
    if (cause instanceof DomainError && PASSED_ON.has(cause.reason)) throw cause;
    throw new DomainError(
      "DATABASE_UNAVAILABLE",
      "The API key cannot be checked at the moment: retry",
      { retry_after_ms: "1000" },
      [],
      { cause },
    );
  }
  if (caller === null) throw unauthenticated("The API key is unknown, expired or revoked");
  return caller;
}

function authorize(caller: Caller, scope: string): void {
  if (scope === "") throw new DomainError("PERMISSION_DENIED", "The RPC is not open to any API key", { scope });
  const held = caller.scopes.has(scope) || (scope === "admin" && caller.scopes.has("operator"));
  if (!held) throw new DomainError("PERMISSION_DENIED", `The API key has not the scope ${scope}`, { scope });
}

function actorOf(header: HeaderSource): string | undefined {
  const actor = header.get("x-actor-id")?.trim();
  if (actor === undefined) return undefined;
  if (!VISIBLE.test(actor) || actor.length > 255) {
    throw invalidField("x-actor-id", "must be 1 to 255 visible ASCII characters", { limit: "255" });
  }
  return actor;
}

/** The source is a hint: an unusable one counts as none. */
function sourceOf(header: HeaderSource): string | undefined {
  const source = header.get("x-source")?.trim();
  return source !== undefined && VISIBLE.test(source) && source.length <= 64 ? source : undefined;
}

function checkBinaryMetadata(header: HeaderSource): void {
  for (const name of header.keys()) {
    if (!name.endsWith("-bin")) continue;
    const value = header.get(name) ?? "";
    if (value.split(",").every((part) => BASE64.test(part.trim()))) continue;
    // The name of a header is the caller's to choose, so it is not repeated.
    throw invalidField("metadata", "binary metadata (a header named ...-bin) must be base64");
  }
}
