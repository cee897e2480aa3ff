// EntityService: create, get, list, update, delete.
import { create } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { type EntityLookup, EntitySchema } from "../../clients/typescript/gen/entity/v1/entity_pb.ts";
import { EntityService } from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { type Status, StatusSchema } from "../../clients/typescript/gen/google/rpc/status_pb.ts";
import { newEntity, remove, undelete } from "../domain/entity.ts";
import type { EntityState } from "../domain/entity-state.ts";
import { DomainError, invalidField, notFound, withoutStack } from "../domain/errors.ts";
import { LIMITS } from "../domain/limits.ts";
import { type Lookup, redirectedFrom, resolve } from "../domain/lookup.ts";
import { taxIdKey } from "../domain/tax-id.ts";
import { latestDate } from "../domain/time.ts";
import type { PastAnswer } from "../entities/as-it-was.ts";
import type { OneEntityCommand, Outcome, World } from "../entities/command.ts";
import { listEntities } from "../entities/list.ts";
import type { FoundEntities } from "../entities/lookups.ts";
import { toStatus } from "../errors.ts";
import { departureOf } from "../interceptors/call.ts";
import type { EntityInit } from "./entity-fields.ts";
import { checkEntityFilter, toEntityFilter } from "./entity-filter.ts";
import { externalIdFromProto, fromProto, presentChange, toProto } from "./entity-message.ts";
import { updateOf } from "./entity-update.ts";
import { wireBytes } from "./message.ts";
import { closePage, openPage } from "./page.ts";
import { parseReadMask, type ReadMask } from "./read-mask.ts";
import { fromTimestamp, parseLookup, parseReason } from "./request.ts";
import { Violations } from "./violations.ts";
import { type Deps, existing, organizationOf, parseWrite, readInTurn, write } from "./write.ts";

export function entityRpcs(deps: Deps) {
  const find = (ctx: HandlerContext, lookups: readonly Lookup[]) =>
    deps.reader.find(organizationOf(ctx), lookups, departureOf(ctx));

  return {
    async createEntity(request, ctx) {
      const violations = new Violations();
      const input = fromProto(request.entity ?? create(EntitySchema), undefined, latestDate(deps.clock()), violations);
      const externalId = externalIdFromProto(request.entity, violations);
      requireFields(input.patch, violations);
      const reason = parseReason(request.reason, violations, false);
      const common = parseWrite(request, violations);
      violations.throwIfAny();

      const taxId = input.patch.taxId ?? null;
      const claims = externalId === undefined ? [] : [externalId];
      const command: Omit<OneEntityCommand, "author"> = {
        ...common,
        claims,
        claimField: () => ({ field: "entity.external_id" }),
        uniqueTaxIdKey: request.requireUniqueTaxId && taxId !== null ? taxIdKey(taxId) : undefined,
        decide: (_, { now }) => newEntity({ ...input.patch, externalId }, reason, now),
      };
      return write(
        deps,
        ctx,
        { method: EntityService.method.createEntity, request },
        { ...command, requestId: common.requestId },
        ({ after }) => ({ entity: toProto(after) }),
      );
    },

    async getEntity(request, ctx) {
      const lookup = parseLookup(request.lookup);
      const [readMask, at] = [parseReadMask(request.readMask), request.readTime];
      const { entity, redirectedFrom } =
        at === undefined ? pick(lookup, await find(ctx, [lookup])) : await asItWas(deps, ctx, lookup, at);
      return { entity: toProto(entity, readMask), redirectedFrom };
    },

    async batchGetEntities(request, ctx) {
      if (request.lookups.length < 1) throw invalidField("lookups", "must have at least 1 item");
      const lookups = request.lookups.map((lookup, i) => parseLookup(lookup, `lookups[${i}]`));
      const readMask = parseReadMask(request.readMask);
      return { results: resultsOf(lookups, await find(ctx, lookups), readMask) };
    },

    async listEntities(request, ctx) {
      const violations = new Violations();
      const readMask = parseReadMask(request.readMask);
      checkEntityFilter(request, violations);
      const organizationId = organizationOf(ctx);
      const page = openPage(EntityService.method.listEntities, request, {
        organizationId,
        cursor: { id: "id", watchPosition: "position" },
        violations,
      });
      const filter = toEntityFilter(request);
      // Before the rows: what is committed in between is in the watch, and perhaps in the list too.
      const watchPosition = page.cursor?.watchPosition ?? (await deps.feed.position(organizationId));

      const entities = await readInTurn(deps, ctx, organizationId, (em) =>
        listEntities(em, organizationId, { ...filter, after: page.cursor?.id, bound: page.bound }),
      );
      tellOfAliases(deps, organizationId, filter.externalIds, entities.rows);
      const { items, nextPageToken } = closePage(page, entities, {
        present: (entity) => toProto(entity, readMask),
        cursorOf: ({ id }) => ({ id, watchPosition }),
        end: entities.end === undefined ? undefined : { id: entities.end, watchPosition },
      });
      return { entities: items, nextPageToken, watchPosition };
    },

    async updateEntity(request, ctx) {
      const { command, ignored } = updateOf(request, latestDate(deps.clock()));
      return write(
        deps,
        ctx,
        { method: EntityService.method.updateEntity, request },
        command,
        ({ before, after, updatedFields, redirectedFrom }) => ({
          entity: toProto(after),
          redirectedFrom,
          previousEntity: before === null ? undefined : toProto(before),
          updatedFields: before === null ? [] : [...updatedFields],
          ignoredFields: ignored,
          created: before === null,
        }),
      );
    },

    async deleteEntity(request, ctx) {
      const { reason, ...command } = parseDeletion(request);
      return write(
        deps,
        ctx,
        { method: EntityService.method.deleteEntity, request },
        { ...command, decide: (entity, world) => removeAs(entity, reason, world) },
        presentDeletion,
      );
    },

    async undeleteEntity(request, ctx) {
      const { reason, ...command } = parseDeletion(request);
      return write(
        deps,
        ctx,
        { method: EntityService.method.undeleteEntity, request },
        { ...command, decide: (entity) => undelete(existing(entity), reason) },
        presentChange,
      );
    },
  } satisfies Partial<ServiceImpl<typeof EntityService>>;
}

/** Rule 82: where the lookup named a merged entity, the rule refuses. */
const removeAs = (entity: EntityState | null, reason: string, { now, redirectedFrom: [from] }: World) =>
  remove(existing(entity), reason, now, from);

/** Never redirected. */
const presentDeletion = ({ before, after }: Outcome) => ({ entity: toProto(after), changed: before !== after });

/** Rules 115 to 120. */
function asItWas({ pastReader }: Deps, ctx: HandlerContext, lookup: Lookup, readTime: Timestamp): Promise<PastAnswer> {
  if (lookup.by === "tax_id") {
    throw invalidField("lookup.tax_id", "is no key of a past time: use entity_id or external_id");
  }
  return pastReader.find(organizationOf(ctx), lookup, fromTimestamp(readTime), ctx.signal);
}

/** Rule 138: a filter is a use of the aliases that it finds. */
function tellOfAliases(
  { aliasUse }: Deps,
  organizationId: string,
  filter: readonly string[] | undefined,
  entities: readonly EntityState[],
): void {
  if (filter === undefined) return;
  const asked = new Set(filter);
  for (const entity of entities) {
    for (const { externalId: key } of entity.externalIds) {
      if (asked.has(key)) aliasUse.named(organizationId, { by: "external_id", key }, entity);
    }
  }
}

/** The entity that the lookup names, and the merged one that led to it. */
function pick(lookup: Lookup, found: FoundEntities): { entity: EntityState; redirectedFrom: string } {
  const id = resolve(lookup, found.hits);
  if (id !== undefined && found.leftOut.has(id)) throw noRoom();
  const entity = id === undefined ? undefined : found.entities.get(id);
  if (entity === undefined) throw notFound(lookup.by);
  return { entity, redirectedFrom: redirectedFrom(lookup, entity, found.hits) };
}

/** An item for each lookup: the entity, or why not; as much as a batch has room for. */
function resultsOf(lookups: readonly Lookup[], found: FoundEntities, readMask: ReadMask | undefined) {
  // The same one twice is made once, and counted as often as it is sent.
  const made = new Map<string, { message: EntityInit; bytes: number }>();
  const make = (entity: EntityState) => {
    const message = toProto(entity, readMask);
    const one = { message, bytes: wireBytes(EntitySchema, message) };
    made.set(entity.id, one);
    return one;
  };
  const refusal = refusals();
  let room: number = LIMITS.batchAnswerBytes;
  const resultOf = (lookup: Lookup) => {
    try {
      const { entity, redirectedFrom } = pick(lookup, found);
      const { message, bytes } = made.get(entity.id) ?? make(entity);
      if (bytes > room) throw noRoom();
      room -= bytes;
      return { result: { case: "entity" as const, value: message }, redirectedFrom };
    } catch (error) {
      if (!(error instanceof DomainError)) throw error;
      const { value, bytes } = refusal(error);
      room -= bytes;
      return { result: { case: "error" as const, value } };
    }
  };
  return withoutStack(() => lookups.map(resultOf));
}

/** What refuses items of a batch, which may be all of them: the same is made once. */
function refusals() {
  const made = new Map<string, { value: Status; bytes: number }>();
  return (error: DomainError) => {
    const { reason, message, metadata, violations } = error;
    const key = JSON.stringify([reason, message, metadata, violations]);
    const known = made.get(key);
    if (known !== undefined) return known;
    const value = toStatus(error);
    const one = { value, bytes: wireBytes(StatusSchema, value) };
    made.set(key, one);
    return one;
  };
}

/** The refusal of one item of a batch. */
function noRoom(): DomainError {
  return new DomainError("MESSAGE_TOO_LARGE", "The answer has no room for this item: ask for it in another call", {
    limit_bytes: String(LIMITS.batchAnswerBytes),
  });
}

function requireFields(patch: { type?: unknown; countryCode?: unknown; name?: unknown }, violations: Violations): void {
  if (patch.type === undefined) violations.add("entity.type", "is required: ENTITY_TYPE_PERSON or ENTITY_TYPE_COMPANY");
  if (patch.countryCode === undefined) violations.add("entity.country_code", "is required");
  if (patch.name === undefined) violations.add("entity.name", "is required");
}

function parseDeletion(
  request: Parameters<typeof parseWrite>[0] & { lookup?: EntityLookup; reason: string; etag: string },
) {
  const lookup = parseLookup(request.lookup);
  const violations = new Violations();
  const reason = parseReason(request.reason, violations, true);
  const common = parseWrite(request, violations);
  violations.throwIfAny();
  return { ...common, lookup, reason };
}
