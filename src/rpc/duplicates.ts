// EntityService: pairs of entities that may be one.
import type { ServiceImpl } from "@connectrpc/connect";
import { DuplicateRule as DuplicateRuleProto } from "../../clients/typescript/gen/entity/v1/duplicate_pb.ts";
import { EntityService } from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import type { DuplicateRule } from "../domain/duplicates.ts";
import {
  parsePosition,
  type SuggestionPosition,
  suggestDuplicates,
  suggestDuplicatesOf,
} from "../entities/duplicates.ts";
import { closePage, notOfThisQuery, openPage, whole } from "./page.ts";
import { parseLookup } from "./request.ts";
import { type Deps, findEntity, organizationOf, readInTurn } from "./write.ts";

const RULES: Record<DuplicateRule, DuplicateRuleProto> = {
  SAME_TAX_ID: DuplicateRuleProto.SAME_TAX_ID,
  SAME_EXTERNAL_ID: DuplicateRuleProto.SAME_EXTERNAL_ID,
  SAME_NAME_AND_REGISTRATION_NUMBER: DuplicateRuleProto.SAME_NAME_AND_REGISTRATION_NUMBER,
  SAME_NAME_AND_DATE: DuplicateRuleProto.SAME_NAME_AND_DATE,
};

export function duplicateRpcs(deps: Deps) {
  return {
    async suggestDuplicates(request, ctx) {
      const lookup = request.lookup === undefined ? undefined : parseLookup(request.lookup);
      const organizationId = organizationOf(ctx);
      const page = openPage(EntityService.method.suggestDuplicates, request, {
        organizationId,
        cursor: { rank: "version", key: "key", first: "id", second: "id" },
      });
      const after = page.cursor && parsePosition(page.cursor);
      if (page.cursor !== undefined && after === undefined) throw notOfThisQuery();
      const entity = lookup === undefined ? undefined : await findEntity(deps, ctx, lookup);
      const bound = { after, rows: page.bound.rows };
      const { rows, end } = await readInTurn(deps, ctx, organizationId, (em) =>
        entity === undefined
          ? suggestDuplicates(em, organizationId, bound)
          : suggestDuplicatesOf(em, organizationId, entity, bound),
      );
      const { items, nextPageToken } = closePage(page, whole(rows), {
        present: ({ first, second, reasons }) => ({
          firstEntityId: first,
          secondEntityId: second,
          reasons: reasons.map(({ rule, firstPaths, secondPaths }) => ({
            rule: RULES[rule],
            firstPaths: [...firstPaths],
            secondPaths: [...secondPaths],
          })),
        }),
        cursorOf: ({ position }) => toCursor(position),
        end: end && toCursor(end),
      });
      return { suggestions: items, nextPageToken };
    },
  } satisfies Partial<ServiceImpl<typeof EntityService>>;
}

const toCursor = ({ rank, ...position }: SuggestionPosition) => ({ rank: String(rank), ...position });
