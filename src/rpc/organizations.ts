// OrganizationService: organizations, through MikroORM's unit of work.
import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import { ExternalIdPolicy, OrganizationSchema } from "../../clients/typescript/gen/entity/v1/organization_pb.ts";
import { OrganizationService } from "../../clients/typescript/gen/entity/v1/organization_service_pb.ts";
import { lockPruning } from "../db/locks.ts";
import { getOrganization, listOrganizations } from "../db/organizations.ts";
import { OrganizationRow } from "../db/schema.ts";
import { newId } from "../db/uuid.ts";
import { DomainError } from "../domain/errors.ts";
import type { JsonObject } from "../domain/json.ts";
import { LIMITS } from "../domain/limits.ts";
import { closePage, openPage, whole } from "./page.ts";
import { keyOf, parseDisplayName, parseOptionalUuid } from "./request.ts";
import { parseMask } from "./update-mask.ts";
import { Violations } from "./violations.ts";
import {
  assertReachable,
  type Deps,
  idempotent,
  organizationOf,
  parseOrganizationId,
  readInTurn,
  recordAdministration,
} from "./write.ts";

const POLICIES = {
  MUTABLE_WITH_REASON: ExternalIdPolicy.MUTABLE_WITH_REASON,
  IMMUTABLE: ExternalIdPolicy.IMMUTABLE,
} as const;
/** What UpdateOrganization writes. */
const PATHS = ["display_name", "external_id_policy", "event_retention_days"];

export function organizationRpcs(deps: Deps) {
  return {
    async createOrganization(request, ctx) {
      const violations = new Violations();
      const organization = request.organization ?? create(OrganizationSchema);
      const displayName = parseDisplayName(organization.displayName, "organization.display_name", violations);
      const eventRetentionDays = parseRetention(organization.eventRetentionDays, violations);
      const requestId = parseOptionalUuid(request.requestId, "request_id", violations);
      violations.throwIfAny();
      const organizationId = newId();
      return idempotent(
        deps,
        ctx,
        {
          method: OrganizationService.method.createOrganization,
          request,
          requestId,
          organizationId,
        },
        async (em) => {
          const row = em.create(OrganizationRow, {
            organizationId,
            displayName,
            externalIdPolicy: keyOf(POLICIES, organization.externalIdPolicy) ?? "MUTABLE_WITH_REASON",
            eventRetentionDays,
          });
          await em.persist(row).flush();
          await recordAdministration(em, ctx, organizationId, {
            ...{ type: "ORGANIZATION_CREATED", subjectId: organizationId, requestId },
            ...{ before: {}, after: valuesOf(row) },
          });
          return { organization: toProto(row) };
        },
      );
    },

    async getOrganization(request, ctx) {
      const violations = new Violations();
      const organizationId = parseOrganizationId(ctx, request.organizationId, violations);
      violations.throwIfAny();
      assertReachable(ctx, organizationId);
      const row = await readInTurn(deps, ctx, organizationId, (em) => getOrganization(em, organizationId));
      return { organization: toProto(row) };
    },

    async listOrganizations(request, ctx) {
      const organizationId = organizationOf(ctx);
      const page = openPage(OrganizationService.method.listOrganizations, request, {
        organizationId,
        cursor: { id: "id" },
      });
      const rows = await readInTurn(deps, ctx, organizationId, (em) =>
        listOrganizations(em, { after: page.cursor?.id, limit: page.bound.rows }),
      );
      const { items, nextPageToken } = closePage(page, whole(rows), {
        present: toProto,
        cursorOf: (row) => ({ id: row.organizationId }),
      });
      return { organizations: items, nextPageToken };
    },

    async updateOrganization(request, ctx) {
      const violations = new Violations();
      const organizationId = parseOrganizationId(ctx, request.organizationId, violations);
      const organization = request.organization ?? create(OrganizationSchema);
      const paths = parseMask(request.updateMask, PATHS, violations);
      const named = (path: string, populated: boolean) => (paths.size === 0 ? populated : paths.has(path));
      const displayName = named("display_name", organization.displayName !== "")
        ? parseDisplayName(organization.displayName, "organization.display_name", violations)
        : undefined;
      const wantsPolicy = named("external_id_policy", organization.externalIdPolicy !== ExternalIdPolicy.UNSPECIFIED);
      const policy = wantsPolicy ? keyOf(POLICIES, organization.externalIdPolicy) : undefined;
      if (wantsPolicy && policy === undefined) violations.add("organization.external_id_policy", "cannot be cleared");
      const eventRetentionDays = named("event_retention_days", organization.eventRetentionDays !== undefined)
        ? parseRetention(organization.eventRetentionDays, violations)
        : undefined;
      const requestId = parseOptionalUuid(request.requestId, "request_id", violations);
      violations.throwIfAny();
      assertReachable(ctx, organizationId);

      return idempotent(
        deps,
        ctx,
        {
          method: OrganizationService.method.updateOrganization,
          request,
          requestId,
          organizationId,
        },
        async (em) => {
          if (eventRetentionDays !== undefined) await lockPruning(em);
          const row = await getOrganization(em, organizationId, { lock: true });
          if (request.etag !== "" && request.etag !== row.etag) {
            throw new DomainError(
              "ETAG_MISMATCH",
              "The organization has changed since it was read: read it again, then retry",
              { etag: row.etag },
            );
          }
          const [before, { etag }] = [valuesOf(row), row];
          if (displayName !== undefined) row.displayName = displayName;
          if (policy !== undefined) row.externalIdPolicy = policy;
          if (eventRetentionDays !== undefined) row.eventRetentionDays = eventRetentionDays;
          await em.flush();
          if (row.etag !== etag) {
            await recordAdministration(em, ctx, organizationId, {
              ...{ type: "ORGANIZATION_UPDATED", subjectId: organizationId, requestId },
              ...{ before, after: valuesOf(row) },
            });
          }
          return { organization: toProto(row) };
        },
      );
    },
  } satisfies Partial<ServiceImpl<typeof OrganizationService>>;
}

/** Null: for ever. */
function parseRetention(days: number | undefined, violations: Violations): number | null {
  const { retentionDaysMin: min, retentionDaysMax: max } = LIMITS;
  if (days !== undefined && (days < min || days > max)) {
    violations.add("organization.event_retention_days", `must be from ${min} to ${max}`);
  }
  return days ?? null;
}

const toProto = (row: OrganizationRow) => ({
  id: row.organizationId,
  displayName: row.displayName,
  externalIdPolicy: POLICIES[row.externalIdPolicy],
  eventRetentionDays: row.eventRetentionDays ?? undefined,
  etag: row.etag,
  createdAt: timestampFromDate(row.createdAt),
  updatedAt: timestampFromDate(row.updatedAt),
});

/** What the trail records of an organization. */
const valuesOf = ({ displayName, externalIdPolicy, eventRetentionDays }: OrganizationRow): JsonObject => ({
  displayName,
  externalIdPolicy,
  eventRetentionDays: eventRetentionDays ?? null,
});
