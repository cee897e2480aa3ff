// EntityService: change, assign, add and release external ids, and tell who had one when.
import type { ServiceImpl } from "@connectrpc/connect";
import { ExternalIdDetachCause } from "../../clients/typescript/gen/entity/v1/entity_pb.ts";
import { EntityService } from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import type { DetachCause } from "../domain/entity-state.ts";
import { addExternalIds, assignExternalId, changeExternalId, releaseExternalId } from "../domain/external-ids.ts";
import { identifierProblem, trim } from "../domain/text.ts";
import { policyOf } from "../entities/command.ts";
import { type ExternalIdPeriod, listPeriods } from "../entities/external-id-past.ts";
import { presentChange } from "./entity-message.ts";
import { closePage, openPage, whole } from "./page.ts";
import { invalidLookup, parseExternalId, parseExternalIds, parseLookup, parseReason, toTimestamp } from "./request.ts";
import { Violations } from "./violations.ts";
import { type Deps, existing, findEntityId, organizationOf, parseWrite, readInTurn, write } from "./write.ts";

export function externalIdRpcs(deps: Deps) {
  return {
    async changeExternalId(request, ctx) {
      const lookup = parseLookup(request.lookup);
      const violations = new Violations();
      const newExternalId = parseExternalId(request.newExternalId, "new_external_id", violations);
      const reason = parseReason(request.reason, violations, true);
      const common = parseWrite(request, violations);
      violations.throwIfAny();
      const { keepPreviousAsAlias } = request;
      return write(
        deps,
        ctx,
        { method: EntityService.method.changeExternalId, request },
        {
          ...common,
          lookup,
          claims: [newExternalId],
          claimField: () => ({ field: "new_external_id" }),
          needsPolicy: true,
          decide: (entity, world) =>
            changeExternalId(
              existing(entity),
              { newExternalId, reason, keepPreviousAsAlias },
              policyOf(world),
              world.now,
            ),
        },
        (outcome) => ({ success: true, ...presentChange(outcome) }),
      );
    },

    async assignExternalId(request, ctx) {
      const lookup = parseLookup(request.lookup);
      const violations = new Violations();
      const externalId = parseExternalId(request.externalId, "external_id", violations);
      const reason = parseReason(request.reason, violations, false);
      const common = parseWrite(request, violations);
      violations.throwIfAny();
      return write(
        deps,
        ctx,
        { method: EntityService.method.assignExternalId, request },
        {
          ...common,
          lookup,
          claims: [externalId],
          claimField: () => ({ field: "external_id" }),
          decide: (entity, { now }) => assignExternalId(existing(entity), { externalId, reason }, now),
        },
        presentChange,
      );
    },

    async addExternalIds(request, ctx) {
      const lookup = parseLookup(request.lookup);
      const violations = new Violations();
      if (request.externalIds.length < 1) violations.add("external_ids", "must have at least 1 item");
      const { externalIds, places } = parseExternalIds(request.externalIds, violations);
      const reason = parseReason(request.reason, violations, false);
      const common = parseWrite(request, violations);
      violations.throwIfAny();
      return write(
        deps,
        ctx,
        { method: EntityService.method.addExternalIds, request },
        {
          ...common,
          lookup,
          claims: externalIds.map((item) => item.externalId),
          claimField: (externalId) => {
            const index = String(places.get(externalId) ?? 0);
            return { field: `external_ids[${index}].external_id`, index };
          },
          decide: (entity, { now }) => addExternalIds(existing(entity), { externalIds, reason }, now),
        },
        presentChange,
      );
    },

    async releaseExternalId(request, ctx) {
      const lookup = parseLookup(request.lookup);
      const violations = new Violations();
      const externalId = parseExternalId(request.externalId, "external_id", violations);
      const reason = parseReason(request.reason, violations, true);
      const common = parseWrite(request, violations);
      violations.throwIfAny();
      const { force } = request;
      return write(
        deps,
        ctx,
        { method: EntityService.method.releaseExternalId, request },
        {
          ...common,
          lookup,
          needsPolicy: true,
          // The look-up of the call itself is no use of what it releases.
          named: (by, entity) => by.key !== externalId && deps.aliasUse.named(organizationOf(ctx), by, entity),
          decide: (entity, world) =>
            releaseExternalId(existing(entity), { externalId, reason, force }, policyOf(world), world.now),
        },
        presentChange,
      );
    },

    async listExternalIdHistory(request, ctx) {
      const isByExternalId = request.externalId !== "";
      if (isByExternalId && request.lookup !== undefined) {
        throw invalidLookup("external_id", "must not be given beside a lookup");
      }
      const lookup = isByExternalId ? undefined : parseLookup(request.lookup);
      const externalId = trim(request.externalId);
      if (isByExternalId && externalId === "") throw invalidLookup("external_id", "must not be blank");
      const violations = new Violations();
      if (isByExternalId) violations.check("external_id", identifierProblem(externalId));
      const organizationId = organizationOf(ctx);
      const page = openPage(EntityService.method.listExternalIdHistory, request, {
        organizationId,
        cursor: { attachedAt: "instant", externalId: "externalId" },
        violations,
      });
      const of = lookup === undefined ? { externalId } : { entityId: await findEntityId(deps, ctx, lookup) };
      const periods = await readInTurn(deps, ctx, organizationId, (em) =>
        listPeriods(em, organizationId, of, { before: page.cursor, rows: page.bound.rows }),
      );
      const { items, nextPageToken } = closePage(page, whole(periods), {
        present: periodToProto,
        cursorOf: ({ attachedAt, externalId }) => ({ attachedAt, externalId }),
      });
      return { periods: items, nextPageToken };
    },
  } satisfies Partial<ServiceImpl<typeof EntityService>>;
}

const CAUSES: Record<DetachCause, ExternalIdDetachCause> = {
  CHANGED: ExternalIdDetachCause.CHANGED,
  RELEASED: ExternalIdDetachCause.RELEASED,
  MOVED: ExternalIdDetachCause.MOVED,
  MERGED: ExternalIdDetachCause.MERGED,
  UNMERGED: ExternalIdDetachCause.UNMERGED,
};

function periodToProto({ attachedAt, detachedAt, cause, ...period }: ExternalIdPeriod) {
  return {
    externalId: period.externalId,
    entityId: period.entityId,
    type: period.type ?? "",
    attachedAt: toTimestamp(attachedAt),
    detachedAt: detachedAt === null ? undefined : toTimestamp(detachedAt),
    cause: cause === null ? ExternalIdDetachCause.UNSPECIFIED : CAUSES[cause],
    eventId: period.eventId ?? "",
  };
}
