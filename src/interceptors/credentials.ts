// Who calls, and may they: decided from the headers, before a byte of the body is read.
import { type DescMethod, type DescService, getOption } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import { required_scope } from "../../clients/typescript/gen/entity/v1/options_pb.ts";
import { DomainError, invalidField } from "../domain/errors.ts";
import { type Caller, callContext, requestIdKey } from "./call.ts";
import { within } from "./deadline.ts";

/** Answers null for a key that is unknown, expired or revoked; throws when the database does not answer. */
export type FindCaller = (secret: string) => Promise<Caller | null>;

/** token68 of RFC 9110: a comma, by which two headers are joined, is not in it. */
const BEARER = /^Bearer +([A-Za-z0-9._~+/=-]{1,256})$/i;
// gRPC metadata is printable ASCII; a byte beyond has no agreed meaning in a header.
const VISIBLE = /^[\x20-\x7e]+$/;
const BASE64 = /^[A-Za-z0-9+/_-]*={0,2}$/;

/** Time for findCaller to answer, where the caller names no shorter one, in milliseconds. */
const LOOKUP_TIMEOUT_MS = 5_000;

/**
 * Refuses a call with UNAUTHENTICATED, PERMISSION_DENIED, VALIDATION_ERROR or DATABASE_UNAVAILABLE, in
 * this order, or sets `callContext`. The scope of each RPC is its option (entity.v1.required_scope); an
 * RPC without one is refused. `open` services need no key.
 */
export function credentials(options: {
  findCaller: FindCaller;
  services: Iterable<DescService>;
  open: Iterable<DescService>;
}): (context: HandlerContext) => Promise<void> {
  const open = new Set(Array.from(options.open, (service) => service.typeName));
  const scopes = new Map<DescMethod, string>();
  for (const service of options.services) {
    for (const method of service.methods) scopes.set(method, getOption(method, required_scope));
  }

  return async (context) => {
    if (!open.has(context.service.typeName)) {
      const caller = await authenticate(context, options.findCaller);
      authorize(caller, scopes.get(context.method) ?? "");
      context.values.set(callContext, {
        caller,
        actor: actorOf(context.requestHeader),
        source: sourceOf(context.requestHeader),
        requestId: context.values.get(requestIdKey),
      });
    }
    checkBinaryMetadata(context.requestHeader);
  };
}

async function authenticate(context: HandlerContext, findCaller: FindCaller): Promise<Caller> {
  const secret = BEARER.exec(context.requestHeader.get("authorization") ?? "")?.[1];
  if (secret === undefined) {
    throw new DomainError("UNAUTHENTICATED", "An API key is needed, in the header authorization: Bearer <key>");
  }
  const timeoutMs = Math.min(context.timeoutMs() ?? LOOKUP_TIMEOUT_MS, LOOKUP_TIMEOUT_MS);
  let caller: Caller | null;
  try {
    caller = await within(findCaller(secret), timeoutMs, () => new Error("the lookup of the API key took too long"));
  } catch (cause) {
    throw new DomainError(
      "DATABASE_UNAVAILABLE",
      "The API key cannot be checked at the moment: retry",
      { retry_after_ms: "1000" },
      [],
      { cause },
    );
  }
  if (caller === null) throw new DomainError("UNAUTHENTICATED", "The API key is unknown, expired or revoked");
  return caller;
}

function authorize(caller: Caller, scope: string): void {
  if (scope === "") throw new DomainError("PERMISSION_DENIED", "The RPC is not open to any API key", { scope });
  const held = caller.scopes.has(scope) || (scope === "admin" && caller.scopes.has("operator"));
  if (!held) throw new DomainError("PERMISSION_DENIED", `The API key has not the scope ${scope}`, { scope });
}

function actorOf(header: Headers): string | undefined {
  const actor = header.get("x-actor-id")?.trim();
  if (actor === undefined) return undefined;
  if (!VISIBLE.test(actor) || actor.length > 255) {
    throw invalidField("x-actor-id", "must be 1 to 255 visible ASCII characters", { limit: "255" });
  }
  return actor;
}

/** The source is a hint: one that cannot be used is as good as none. */
function sourceOf(header: Headers): string | undefined {
  const source = header.get("x-source")?.trim();
  return source !== undefined && VISIBLE.test(source) && source.length <= 64 ? source : undefined;
}

function checkBinaryMetadata(header: Headers): void {
  for (const [name, value] of header) {
    if (!name.endsWith("-bin")) continue;
    if (value.split(",").every((part) => BASE64.test(part.trim()))) continue;
    // The name of a header is the caller's to choose, so it is not repeated.
    throw invalidField("metadata", "binary metadata (a header named ...-bin) must be base64");
  }
}
