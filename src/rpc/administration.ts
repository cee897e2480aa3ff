// OrganizationService: the trail of administration.
import type { ServiceImpl } from "@connectrpc/connect";
import { AdministrationEventType } from "../../clients/typescript/gen/entity/v1/administration_event_pb.ts";
import { OrganizationService } from "../../clients/typescript/gen/entity/v1/organization_service_pb.ts";
import { type ListedAdministrationEvent, listAdministrationEvents } from "../db/administration.ts";
import { assertOrganization } from "../db/organizations.ts";
import { closePage, openPage } from "./page.ts";
import { fromTimestamp, parseOptionalUuid, toTimestamp } from "./request.ts";
import { Violations } from "./violations.ts";
import { assertReachable, type Deps, parseOrganizationId, readInTurn } from "./write.ts";

export function administrationRpcs(deps: Deps) {
  return {
    async listAdministrationEvents(request, ctx) {
      const violations = new Violations();
      const organizationId = parseOrganizationId(ctx, request.organizationId, violations);
      const subjectId = parseOptionalUuid(request.subjectId, "subject_id", violations);
      const principal = parseOptionalUuid(request.principal, "principal", violations);
      const page = openPage(OrganizationService.method.listAdministrationEvents, request, {
        organizationId,
        cursor: { recordedAt: "instant", id: "id" },
        violations,
      });
      assertReachable(ctx, organizationId);
      const rows = await readInTurn(deps, ctx, organizationId, async (em) => {
        await assertOrganization(em, organizationId);
        return listAdministrationEvents(em, organizationId, {
          subjectId,
          principal,
          from: request.from === undefined ? undefined : fromTimestamp(request.from),
          to: request.to === undefined ? undefined : fromTimestamp(request.to),
          before: page.cursor,
          bound: page.bound,
        });
      });
      const { items, nextPageToken } = closePage(page, rows, {
        present: (event) => toProto(organizationId, event),
        cursorOf: ({ recordedAt, id }) => ({ recordedAt, id }),
      });
      return { events: items, nextPageToken };
    },
  } satisfies Partial<ServiceImpl<typeof OrganizationService>>;
}

const toProto = (organizationId: string, event: ListedAdministrationEvent) => ({
  ...event,
  organizationId,
  type: AdministrationEventType[event.type],
  recordedAt: toTimestamp(event.recordedAt),
});
