// EntityService: what is stored of tax ids, computed anew.
import type { ServiceImpl } from "@connectrpc/connect";
import type { EntityService } from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { recheckTaxId } from "../domain/entity.ts";
import type { Author, Command } from "../entities/command.ts";
import { recheckTaxIds, type TaxIdRecheck } from "../entities/recheck-tax-ids.ts";
import { writeGroup } from "../entities/write-group.ts";
import { taxIdCheckToProto } from "./entity-fields.ts";
import { parseOptionalUuid } from "./request.ts";
import { Violations } from "./violations.ts";
import { authorOf, type Deps, existing, organizationOf } from "./write.ts";

/** Checks that one transaction writes: locks are to be short. */
const GROUP = 100;

export function taxIdRpcs(deps: Deps) {
  return {
    async recheckTaxIds({ apply, afterEntityId }, ctx) {
      const violations = new Violations();
      const after = parseOptionalUuid(afterEntityId, "after_entity_id", violations);
      violations.throwIfAny();
      const organizationId = organizationOf(ctx);
      const { signal } = ctx;
      const inTurn = <T>(work: () => Promise<T>) => deps.slots(organizationId, work, { signal });

      const step = await inTurn(() => recheckTaxIds(deps.orm, organizationId, { after, apply }));
      const checks = step.changes.filter(({ previousCheck, check }) => previousCheck !== check);
      const unwritten = new Set<TaxIdRecheck>();
      for (let from = 0; apply && from < checks.length; from += GROUP) {
        const group = checks.slice(from, from + GROUP);
        const commands = group.map(({ entityId }) => checkCommand(authorOf(ctx), entityId));
        const results = await inTurn(() => writeGroup(deps.orm, organizationId, commands, { signal }));
        deps.bell.ring(organizationId);
        results.forEach((result, i) => {
          if (result.kind === "failed") throw result.error;
          if (result.kind === "refused") unwritten.add(group[i] as TaxIdRecheck);
        });
      }
      // A check whose entity others hold is told of by the next run.
      const changes = step.changes.map((one) =>
        toProto(unwritten.has(one) ? { ...one, check: one.previousCheck } : one),
      );
      return { changes, entities: step.entities, lastEntityId: step.lastId ?? "" };
    },
  } satisfies Partial<ServiceImpl<typeof EntityService>>;
}

const checkCommand = (author: Author, entityId: string): Command => ({
  author,
  targets: [{ lookup: { by: "entity_id", key: entityId }, isRow: true }],
  decide: ([entity = null]) => [recheckTaxId(existing(entity))],
});

const toProto = ({ entityId, holders, keys, check, ...previous }: TaxIdRecheck) => ({
  ...{ entityId, holders, keys, taxIdCheck: taxIdCheckToProto(check) },
  previousKeys: previous.previousKeys,
  previousHolders: previous.previousHolders,
  previousTaxIdCheck: taxIdCheckToProto(previous.previousCheck),
});
