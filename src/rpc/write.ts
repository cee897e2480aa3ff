// From a request to the unit of work and back: what every write RPC has in common.
import {
  create,
  type DescMessage,
  type DescMethodUnary,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import type { HandlerContext } from "@connectrpc/connect";
import type { EntityManager } from "@mikro-orm/postgresql";
import type { Bell } from "../bell.ts";
import { insertAdministrationEvent } from "../db/administration.ts";
import type { Orm } from "../db/orm.ts";
import { setOrganization } from "../db/tenant.ts";
import { read, transaction } from "../db/transaction.ts";
import { type AdministrationEventName, changedValues } from "../domain/administration.ts";
import type { EntityState } from "../domain/entity-state.ts";
import { notFound } from "../domain/errors.ts";
import type { JsonObject } from "../domain/json.ts";
import { type Lookup, resolve } from "../domain/lookup.ts";
import type { AliasUse } from "../entities/alias-use.ts";
import type { PastReader } from "../entities/as-it-was.ts";
import {
  type Author,
  type Command,
  type OneEntityCommand,
  type Outcome,
  onlyOutcome,
  toOneEntity,
} from "../entities/command.ts";
import type { Reader } from "../entities/reader.ts";
import { claimRequests, rememberAnswers } from "../entities/requests.ts";
import type { Writer } from "../entities/writer.ts";
import { inTurn } from "../in-turn.ts";
import { callOf, departureOf, requestBytesKey } from "../interceptors/call.ts";
import type { Feed } from "../log/watch.ts";
import type { Slots } from "../slots.ts";
import { fromTimestamp, parseOptionalUuid, requestHash } from "./request.ts";
import type { Violations } from "./violations.ts";

/** What the families need. */
export interface Deps {
  orm: Orm;
  /** Told of every alias that names an entity. The reader tells it by itself. */
  aliasUse: Pick<AliasUse, "named" | "namedParty">;
  /** Reads entities, joined with other reads. */
  reader: Reader;
  /** Reads one entity as it was. */
  pastReader: PastReader;
  /** Writes entities, together with other writes. */
  writer: Writer;
  /** The events, as they are committed. */
  feed: Feed;
  /** Rung by what writes past the writer. */
  bell: Bell;
  /** Bounds the writes that run alone and may wait for locks: use `writeInTurn`. */
  slots: Slots;
  /** Bounds the reads that run alone: use `readInTurn`. */
  readSlots: Slots;
  /** Milliseconds since 1970, for checks of what the caller says of the future. What is stored is timed by the database. */
  clock: () => number;
}

/** The fields that every write of entities has. */
interface WriteRequest {
  requestId: string;
  occurredAt?: Timestamp | undefined;
  /** For writes to an entity that exists. */
  etag?: string;
}

export function authorOf(ctx: HandlerContext): Author {
  const { caller, actor, source } = callOf(ctx.values);
  return {
    principal: caller.apiKeyId,
    actor: actor ?? caller.apiKeyId,
    source: source ?? "api",
  };
}

/** Writes down what the call changed, in the transaction of the change. */
export async function recordAdministration(
  em: EntityManager,
  ctx: HandlerContext,
  organizationId: string,
  act: {
    type: AdministrationEventName;
    subjectId: string;
    before: JsonObject;
    after: JsonObject;
    requestId?: string | undefined;
  },
): Promise<void> {
  const { type, subjectId, before, after, requestId } = act;
  const { requestId: callId, peer } = callOf(ctx.values);
  const values = changedValues(before, after);
  await insertAdministrationEvent(em, organizationId, {
    ...authorOf(ctx),
    ...{ requestId, callId, peer, type, subjectId, ...values },
  });
}

export const organizationOf = (ctx: HandlerContext): string => callOf(ctx.values).caller.organizationId;

/**
 * Reads of one organization, in the turn of the caller's; dropped if the caller disconnects before that. What was read may be
 * a page of some MiB: the next is not read before this one has its turn of the event loop.
 */
export function readInTurn<T>(
  { orm, readSlots }: Deps,
  ctx: HandlerContext,
  organizationId: string,
  work: (em: EntityManager) => Promise<T>,
): Promise<T> {
  const owner = organizationOf(ctx);
  const run = async () => {
    const found = await read(orm, organizationId, work);
    await inTurn.enter(owner);
    return found;
  };
  return readSlots(owner, run, { signal: ctx.signal });
}

/**
 * A write that runs alone and may wait for locked rows: one transaction of `organizationId`, in the turn of the
 * caller's. The wait for its turn shortens its wait for locks; it is dropped if the caller disconnects.
 */
export function writeInTurn<T>(
  { orm, slots }: Deps,
  ctx: HandlerContext,
  { organizationId = organizationOf(ctx), validateOnly }: { organizationId?: string; validateOnly: boolean },
  work: (em: EntityManager) => Promise<T>,
): Promise<T> {
  const { signal } = ctx;
  const since = performance.now();
  const run = () =>
    transaction(orm, organizationId, work, { validateOnly, signal, waitedMs: performance.now() - since });
  return slots(organizationOf(ctx), run, { signal });
}

export const isOperator = (ctx: HandlerContext): boolean => callOf(ctx.values).caller.scopes.has("operator");

/** The organization that a request names: the caller's own when empty. */
export function parseOrganizationId(ctx: HandlerContext, organizationId: string, violations: Violations): string {
  return parseOptionalUuid(organizationId, "organization_id", violations) ?? organizationOf(ctx);
}

/** An organization other than the caller's own is visible to operators only. After validation (rule 13). */
export function assertReachable(ctx: HandlerContext, organizationId: string): void {
  if (organizationId !== organizationOf(ctx) && !isOperator(ctx)) throw notFound("organization_id", "Organization");
}

/** The entity that a lookup names now, deleted or not. */
export async function findEntity({ reader }: Deps, ctx: HandlerContext, lookup: Lookup): Promise<EntityState> {
  const { hits, entities } = await reader.find(organizationOf(ctx), [lookup], departureOf(ctx));
  const entity = entities.get(resolve(lookup, hits) ?? "");
  if (entity === undefined) throw notFound(lookup.by);
  return entity;
}

export const findEntityId = async (deps: Deps, ctx: HandlerContext, lookup: Lookup): Promise<string> =>
  (await findEntity(deps, ctx, lookup)).id;

/** A command with a lookup and without allowMissing always has its entity. */
export function existing(entity: EntityState | null): EntityState {
  if (entity === null) throw new Error("a rule was asked about no entity");
  return entity;
}

/** The parts of a command that come from fields which every write has. */
export function parseWrite(
  request: WriteRequest,
  violations: Violations,
): Pick<OneEntityCommand, "occurredAt" | "etag"> & { requestId: string | undefined } {
  return {
    etag: request.etag === "" ? undefined : request.etag,
    requestId: parseOptionalUuid(request.requestId, "request_id", violations),
    occurredAt: request.occurredAt === undefined ? undefined : fromTimestamp(request.occurredAt),
  };
}

/** A method that writes, and a request of it. */
interface WriteCall<I extends DescMessage, O extends DescMessage> {
  /** Such as `EntityService.method.updateEntity`: a request or an answer of another method does not compile. */
  method: DescMethodUnary<I, O>;
  request: MessageShape<I> & { validateOnly: boolean; requestId: string };
}

/** Runs one command on one entity and answers; a request seen before is answered as it was then. */
export function write<I extends DescMessage, O extends DescMessage>(
  deps: Deps,
  ctx: HandlerContext,
  call: WriteCall<I, O>,
  { requestId, ...command }: Omit<OneEntityCommand, "author" | "request"> & { requestId: string | undefined },
  present: (outcome: Outcome) => MessageInitShape<O>,
): Promise<MessageInitShape<O>> {
  const several = toOneEntity({ ...command, author: authorOf(ctx) });
  return writeSeveral(deps, ctx, call, { ...several, requestId }, (outcomes) => present(onlyOutcome(outcomes)));
}

/** The same for a command on several entities. */
export async function writeSeveral<I extends DescMessage, O extends DescMessage>(
  { writer, aliasUse }: Deps,
  ctx: HandlerContext,
  { method, request }: WriteCall<I, O>,
  { requestId, ...command }: Omit<Command, "author" | "request"> & { requestId: string | undefined },
  present: (outcomes: readonly Outcome[]) => MessageInitShape<O>,
): Promise<MessageInitShape<O>> {
  const { name, input, output } = method;
  const organizationId = organizationOf(ctx);
  const result = await writer.write(
    organizationId,
    {
      ...command,
      named: command.named ?? ((lookup, entity) => aliasUse.named(organizationId, lookup, entity)),
      author: authorOf(ctx),
      signal: departureOf(ctx),
      bytes: ctx.values.get(requestBytesKey),
      request:
        requestId === undefined
          ? undefined
          : {
              method: name,
              requestId,
              hash: requestHash(input, request),
              answer: (outcomes) => toBinary(output, create(output, present(outcomes))),
            },
    },
    request.validateOnly || command.alone !== undefined
      ? { validateOnly: request.validateOnly, signal: ctx.signal }
      : {},
  );
  if (result.kind === "refused") throw result.error;
  if (result.kind === "done") return present(result.outcomes);
  ctx.responseHeader.set("idempotent-replay", "true");
  return fromBinary(output, result.answer);
}

/**
 * A write that is no change of an entity: `work` in one transaction, in the caller's organization or in
 * `organizationId`, remembered under its request_id like any other. The record is the caller's own, whatever
 * organization the request names: with another one it is another request, and a new one is not there yet.
 */
export async function idempotent<I extends DescMessage, O extends DescMessage>(
  deps: Deps,
  ctx: HandlerContext,
  call: WriteCall<I, O> & { requestId: string | undefined; organizationId?: string },
  work: (em: EntityManager) => Promise<MessageInitShape<O>>,
): Promise<MessageShape<O>> {
  const { method, request, requestId } = call;
  const { name, input, output } = method;
  const own = organizationOf(ctx);
  const organizationId = call.organizationId ?? own;
  const { principal } = authorOf(ctx);
  const enter = async (em: EntityManager, id: string) => {
    if (organizationId !== own) await setOrganization((text, values) => em.execute(text, values), id);
  };
  const key =
    requestId === undefined ? undefined : { principal, method: name, requestId, hash: requestHash(input, request) };
  return writeInTurn(deps, ctx, { organizationId: own, validateOnly: request.validateOnly }, async (em) => {
    const [claim] = await claimRequests(em, own, [key]);
    if (typeof claim === "object" && "refused" in claim) throw claim.refused;
    if (typeof claim === "object") {
      ctx.responseHeader.set("idempotent-replay", "true");
      return fromBinary(output, claim.answer);
    }
    await enter(em, organizationId);
    const answer = create(output, await work(em));
    await enter(em, own);
    if (key !== undefined) await rememberAnswers(em, own, [{ key, answer: toBinary(output, answer) }]);
    return answer;
  });
}

/**
 * What is found before an idempotent write: its work calls the result, which throws where that was refused. So a repetition
 * has the answer that is stored (rule 39), whatever would be found now.
 */
export const outcomeOf = <T>(promised: Promise<T>): Promise<() => T> =>
  promised.then(
    (value) => () => value,
    (error: unknown) => () => {
      throw error;
    },
  );
