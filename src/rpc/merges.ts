// EntityService: merge two entities, undo that, and list what was merged.
import { fromJson, type MessageInitShape } from "@bufbuild/protobuf";
import { type Value, ValueSchema } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import {
  EntityService,
  type MergeEntitiesRequest,
  type UnmergeEntitiesRequest,
} from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import {
  type EntityMergeSchema,
  LostExternalIdCause,
  type MergeConflictSchema,
  type MergedRowsSchema,
  MergeKept,
} from "../../clients/typescript/gen/entity/v1/merge_pb.ts";
import { newId } from "../db/uuid.ts";
import type { EntityState } from "../domain/entity-state.ts";
import { notFound } from "../domain/errors.ts";
import type { JsonValue } from "../domain/json.ts";
import { type ActivityRows, type Conflict, conflictsOf, type MergeFacts, merge } from "../domain/merge.ts";
import { type LostExternalId, type Unmerged, type UnmergeFacts, unmerge } from "../domain/unmerge.ts";
import type { Command, Outcome } from "../entities/command.ts";
import { ordered, recordDistinct } from "../entities/distinct.ts";
import {
  findMerge,
  listMerges,
  type Merge,
  readMergeFacts,
  readUnmergeFacts,
  recordMerge,
  recordUnmerge,
  refusalOf,
  toRecord,
} from "../entities/merges.ts";
import { toProto } from "./entity-message.ts";
import { closePage, openPage, whole } from "./page.ts";
import { parseLookup, parseReason, requireUuid, toTimestamp } from "./request.ts";
import { Violations } from "./violations.ts";
import {
  authorOf,
  type Deps,
  existing,
  findEntityId,
  organizationOf,
  parseWrite,
  readInTurn,
  writeSeveral,
} from "./write.ts";

export function mergeRpcs(deps: Deps) {
  return {
    async mergeEntities(request, ctx) {
      const { command, present } = mergeOf(ctx, request);
      return writeSeveral(deps, ctx, { method: EntityService.method.mergeEntities, request }, command, present);
    },

    async unmergeEntities(request, ctx) {
      const { command, present } = await unmergeOf(deps, ctx, request);
      return writeSeveral(deps, ctx, { method: EntityService.method.unmergeEntities, request }, command, present);
    },

    async listMerges(request, ctx) {
      const lookup = request.lookup === undefined ? undefined : parseLookup(request.lookup);
      const organizationId = organizationOf(ctx);
      const page = openPage(EntityService.method.listMerges, request, {
        organizationId,
        cursor: { mergedAt: "instant", id: "id" },
      });
      const entityId = lookup === undefined ? undefined : await findEntityId(deps, ctx, lookup);
      const merges = await readInTurn(deps, ctx, organizationId, (em) =>
        listMerges(em, organizationId, { entityId, before: page.cursor, rows: page.bound.rows }),
      );
      const { items, nextPageToken } = closePage(page, whole(merges), {
        present: mergeToProto,
        cursorOf: ({ mergedAt, id }) => ({ mergedAt, id }),
      });
      return { merges: items, nextPageToken };
    },
  } satisfies Partial<ServiceImpl<typeof EntityService>>;
}

/** The write of MergeEntities, and its answer. */
function mergeOf(ctx: HandlerContext, request: MergeEntitiesRequest) {
  const [primary, secondary] = [parseLookup(request.primary, "primary"), parseLookup(request.secondary, "secondary")];
  const violations = new Violations();
  const reason = parseReason(request.reason, violations, true);
  const { etag, ...common } = parseWrite(request, violations);
  violations.throwIfAny();
  const secondaryEtag = request.secondaryEtag === "" ? undefined : request.secondaryEtag;
  const mergeId = newId();
  let facts: MergeFacts | undefined;
  let conflicts: Conflict[] = [];
  const command: Omit<Command, "author" | "request"> = {
    targets: [
      { lookup: primary, etag, field: "primary" },
      { lookup: secondary, etag: secondaryEtag, field: "secondary" },
    ],
    isReversed: true,
    decide: (entities, { now, redirectedFrom }) => {
      const [into, from] = entities.map(existing) as [EntityState, EntityState];
      const changes = merge(
        into,
        from,
        { mergeId, reason, secondaryRedirectedFrom: redirectedFrom[1] ?? "" },
        factsOf(facts),
        now,
      );
      conflicts = conflictsOf(into, from, changes[0].values);
      return changes;
    },
    alone: {
      async prepare(db, organizationId, { entities: [into, from], layers }) {
        facts = undefined;
        if (!into || !from) return;
        const found = await readMergeFacts(db, organizationId, { primaryId: into.id, secondaryId: from.id });
        facts = { ...found, primaryLayer: layers.get(into.id) };
      },
    },
    record(db, organizationId, outcomes) {
      const [into, from] = outcomes as [Outcome, Outcome];
      const { actor, principal, source } = authorOf(ctx);
      recordMerge(db, organizationId, {
        ...{ id: mergeId, primaryId: into.after.id, secondaryId: from.after.id },
        ordinal: factsOf(facts).lastOrdinal + 1,
        externalIds: from.before?.externalIds ?? [],
        primaryExternalId: into.before?.externalIds.find((id) => id.primary)?.externalId ?? null,
        ...{ reason, actor, principal, source, requestId: common.requestId ?? null },
        mergedAt: into.after.updatedAt,
      });
    },
    ...{ occurredAt: common.occurredAt },
  };
  const present = (outcomes: readonly Outcome[]) => {
    const [into, from] = outcomes as [Outcome, Outcome];
    return {
      entity: toProto(into.after),
      secondary: toProto(from.after),
      mergeId: request.validateOnly ? "" : mergeId,
      conflicts: conflicts.map(conflictToProto),
      rows: rowsToProto(factsOf(facts).rows),
      redirectedFrom: into.redirectedFrom,
    };
  };
  return { command: { ...command, requestId: common.requestId }, present };
}

/** The write of UnmergeEntities, and its answer. */
async function unmergeOf(deps: Deps, ctx: HandlerContext, request: UnmergeEntitiesRequest) {
  const violations = new Violations();
  const mergeId = requireUuid(request.mergeId, "merge_id", violations);
  const reason = parseReason(request.reason, violations, true);
  const { etag, requestId, occurredAt } = parseWrite(request, violations);
  violations.throwIfAny();
  const [primaryId, secondaryId] = await entitiesOf(deps, ctx, mergeId);
  const distinctId = request.markDistinct ? newId() : undefined;
  let facts: UnmergeFacts | undefined;
  let refusal: Error | undefined;
  let done: Unmerged | undefined;
  const command: Omit<Command, "author" | "request"> & { requestId: string | undefined } = {
    requestId,
    occurredAt,
    targets:
      primaryId === undefined || secondaryId === undefined
        ? []
        : [
            { lookup: { by: "entity_id", key: primaryId }, etag, isRow: true },
            { lookup: { by: "entity_id", key: secondaryId }, isRow: true },
          ],
    decide: (entities, { now }) => {
      // Not before: a request that was answered is answered again first (rule 13).
      if (entities.length === 0) throw notFound("merge_id", "Merge");
      const [survivor, secondary] = entities.map(existing) as [EntityState, EntityState];
      if (refusal !== undefined) throw refusal;
      done = unmerge(survivor, secondary, { reason, distinctId }, factsOf(facts), now);
      return done.changes;
    },
    alone: {
      async prepare(db, organizationId, { entities: [survivor], layers }) {
        [facts, refusal] = [undefined, undefined];
        if (!survivor) return;
        const found = await findMerge(db, organizationId, mergeId);
        if (found === undefined) throw new Error("a merge is gone");
        const made = toRecord(found);
        refusal = await refusalOf(db, organizationId, made, survivor);
        if (refusal !== undefined) return;
        const layer = layers.get(survivor.id);
        if (layer === undefined) throw new Error("a survivor has no layer");
        facts = { merge: made, layer, ...(await readUnmergeFacts(db, organizationId, made)) };
      },
    },
    record(db, organizationId, [survivor]) {
      const { merge: made, members } = factsOf(facts);
      const { updatedAt: at, etag: eventId } = (survivor as Outcome).after;
      recordUnmerge(db, organizationId, { merge: made, members, author: authorOf(ctx), reason, at });
      if (distinctId === undefined) return;
      recordDistinct(db, organizationId, {
        ...{ organizationId, id: distinctId, ...ordered(made.primaryId, made.secondaryId) },
        ...{ markedAt: at, markEventId: eventId, liftedAt: null, liftEventId: null },
      });
    },
  };
  const present = (outcomes: readonly Outcome[]) => {
    const [survivor, secondary] = outcomes as [Outcome, Outcome];
    const { kept, returned, lost, carried } = factsOf(done);
    return {
      entity: toProto(survivor.after),
      secondary: toProto(secondary.after),
      kept: kept.map(({ path, ...values }) => ({
        path,
        survivorValue: toValue(values.survivor),
        secondaryValue: toValue(values.secondary),
      })),
      returned: [...returned],
      lost: lost.map(({ externalId, why }) => ({ externalId, cause: LOST[why] })),
      carried: [...carried],
      rows: rowsToProto(factsOf(facts).rows),
      distinctId: distinctId === undefined || request.validateOnly ? "" : distinctId,
    };
  };
  return { command, present };
}

/** What a step before has left. */
function factsOf<T>(facts: T | undefined): T {
  if (facts === undefined) throw new Error("a rule is asked before its facts are read");
  return facts;
}

/** The primary and the secondary of a merge, which never change; none where there is no such merge. */
async function entitiesOf(
  deps: Deps,
  ctx: HandlerContext,
  mergeId: string,
): Promise<[primaryId: string, secondaryId: string] | []> {
  const organizationId = organizationOf(ctx);
  const found = await readInTurn(deps, ctx, organizationId, (em) => findMerge(em, organizationId, mergeId));
  return found === undefined ? [] : [found.primaryId, found.secondaryId];
}

// --- Responses ----------------------------------------------------------------------------------

const toValue = (value: JsonValue): Value => fromJson(ValueSchema, value);

const KEPT: Record<Conflict["kept"], MergeKept> = {
  PRIMARY: MergeKept.PRIMARY,
  SECONDARY: MergeKept.SECONDARY,
  BOTH: MergeKept.BOTH,
};

const LOST: Record<LostExternalId["why"], LostExternalIdCause> = {
  RELEASED: LostExternalIdCause.RELEASED,
  TAKEN: LostExternalIdCause.TAKEN,
};

const conflictToProto = ({
  path,
  primary,
  secondary,
  kept,
}: Conflict): MessageInitShape<typeof MergeConflictSchema> => ({
  path,
  primaryValue: toValue(primary),
  secondaryValue: toValue(secondary),
  kept: KEPT[kept],
});

const rowsToProto = ({ transactions, userEvents }: ActivityRows): MessageInitShape<typeof MergedRowsSchema> => ({
  transactions: BigInt(transactions),
  userEvents: BigInt(userEvents),
});

function mergeToProto(merge: Merge): MessageInitShape<typeof EntityMergeSchema> {
  const { id, primaryId, secondaryId, reason, actor, principal, source, undoneAt } = merge;
  return {
    ...{ id, primaryId, secondaryId, reason, actor, principal, source },
    requestId: merge.requestId ?? "",
    mergedAt: toTimestamp(merge.mergedAt),
    undoneAt: undoneAt === null ? undefined : toTimestamp(undoneAt),
    undoneReason: merge.undoneReason ?? "",
    undoneActor: merge.undoneActor ?? "",
    undonePrincipal: merge.undonePrincipal ?? "",
    undoneSource: merge.undoneSource ?? "",
  };
}
