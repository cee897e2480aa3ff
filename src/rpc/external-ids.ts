// EntityService: change, assign and add external ids.
import type { ServiceImpl } from "@connectrpc/connect";
import { Designation } from "../../clients/typescript/gen/entity/v1/entity_pb.ts";
import { EntityService } from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { addExternalIds, assignExternalId, changeExternalId } from "../domain/external-ids.ts";
import { LIMITS } from "../domain/limits.ts";
import { textProblem } from "../domain/text.ts";
import { policyOf } from "../entities/command.ts";
import { presentChange } from "./entity-message.ts";
import { parseExternalId, parseLookup, parseReason } from "./request.ts";
import { Violations } from "./violations.ts";
import { type Deps, existing, parseWrite, write } from "./write.ts";

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
      const items = request.externalIds.map((item, i) => {
        const at = `external_ids[${i}]`;
        violations.check(`${at}.type`, textProblem(item.type, { max: LIMITS.externalIdType }));
        return {
          externalId: parseExternalId(item.externalId, `${at}.external_id`, violations),
          type: item.type,
          primary: item.designation === Designation.PRIMARY,
        };
      });
      const position = new Map<string, number>();
      items.forEach(({ externalId }, i) => {
        if (position.has(externalId)) violations.add(`external_ids[${i}].external_id`, "is listed twice");
        position.set(externalId, i);
      });
      if (items.filter((item) => item.primary).length > 1) {
        violations.add("external_ids", "must not have more than 1 item designated PRIMARY");
      }
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
          claims: items.map((item) => item.externalId),
          claimField: (externalId) => {
            const index = String(position.get(externalId) ?? 0);
            return { field: `external_ids[${index}].external_id`, index };
          },
          decide: (entity, { now }) => addExternalIds(existing(entity), { externalIds: items, reason }, now),
        },
        presentChange,
      );
    },
  } satisfies Partial<ServiceImpl<typeof EntityService>>;
}
