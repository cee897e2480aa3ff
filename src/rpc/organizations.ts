// OrganizationService: organizations and their API keys, through MikroORM's unit of work.
import { create } from "@bufbuild/protobuf";
import { timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import { LockMode } from "@mikro-orm/core";
import { ExternalIdPolicy, OrganizationSchema } from "../../clients/typescript/gen/entity/v1/organization_pb.ts";
import { OrganizationService } from "../../clients/typescript/gen/entity/v1/organization_service_pb.ts";
import { DEFAULT_ORGANIZATION_ID, digestOf, newSecret, SCOPES } from "../db/api-keys.ts";
import { holdPruning } from "../db/retention.ts";
import { ApiKeyRow, OrganizationRow } from "../db/schema.ts";
import { newId } from "../db/uuid.ts";
import { DomainError, notFound } from "../domain/errors.ts";
import type { JsonObject } from "../domain/json.ts";
import { LIMITS } from "../domain/limits.ts";
import { nameProblem, trim } from "../domain/text.ts";
import { closePage, openPage, whole } from "./page.ts";
import { parseOptionalUuid, requireUuid } from "./request.ts";
import { Violations } from "./violations.ts";
import {
  assertReachable,
  type Deps,
  idempotent,
  isOperator,
  organizationOf,
  parseOrganizationId,
  readInTurn,
  recordAdministration,
  writeInTurn,
} from "./write.ts";

const POLICIES = {
  MUTABLE_WITH_REASON: ExternalIdPolicy.MUTABLE_WITH_REASON,
  IMMUTABLE: ExternalIdPolicy.IMMUTABLE,
} as const;
type Policy = keyof typeof POLICIES;
/** What UpdateOrganization writes. */
const PATHS = ["display_name", "external_id_policy", "event_retention_days"];

export function organizationRpcs(deps: Deps & { forgetCallers: () => void }) {
  return {
    async createOrganization(request, ctx) {
      const violations = new Violations();
      const organization = request.organization ?? create(OrganizationSchema);
      const displayName = parseName(organization.displayName, "organization.display_name", violations);
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
            externalIdPolicy: policyFromProto(organization.externalIdPolicy) ?? "MUTABLE_WITH_REASON",
            eventRetentionDays,
            etag: newId(),
          } as never);
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
      const row = await readInTurn(deps, ctx, organizationId, (em) => em.findOne(OrganizationRow, { organizationId }));
      if (row === null) throw notFound("organization_id", "Organization");
      return { organization: toProto(row) };
    },

    async listOrganizations(request, ctx) {
      const organizationId = organizationOf(ctx);
      const page = openPage(OrganizationService.method.listOrganizations, request, {
        organizationId,
        cursor: { id: "id" },
      });
      const rows = await readInTurn(deps, ctx, organizationId, async (em) => {
        const found = await em.execute<Record<string, unknown>[]>(
          "select * from list_organizations($1::uuid, $2::int)",
          [page.cursor?.id ?? null, page.bound.rows],
        );
        return found.map((row) => em.map(OrganizationRow, row as never));
      });
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
      const paths = new Set(request.updateMask?.paths);
      for (const path of paths) {
        if (!PATHS.includes(path)) {
          violations.add("update_mask", `has a path that cannot be written: use ${PATHS.join(", ")}`);
        }
      }
      const named = (path: string, populated: boolean) => (paths.size === 0 ? populated : paths.has(path));
      const displayName = named("display_name", organization.displayName !== "")
        ? parseName(organization.displayName, "organization.display_name", violations)
        : undefined;
      const wantsPolicy = named("external_id_policy", organization.externalIdPolicy !== ExternalIdPolicy.UNSPECIFIED);
      const policy = wantsPolicy ? policyFromProto(organization.externalIdPolicy) : undefined;
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
          if (eventRetentionDays !== undefined) await holdPruning(em);
          const row = await em.findOne(OrganizationRow, { organizationId }, { lockMode: LockMode.PESSIMISTIC_WRITE });
          if (row === null) throw notFound("organization_id", "Organization");
          if (request.etag !== "" && request.etag !== row.etag) {
            throw new DomainError(
              "ETAG_MISMATCH",
              "The organization has changed since it was read: read it again, then retry",
              { etag: row.etag },
            );
          }
          const changes =
            (displayName !== undefined && displayName !== row.displayName) ||
            (policy !== undefined && policy !== row.externalIdPolicy) ||
            (eventRetentionDays !== undefined && eventRetentionDays !== (row.eventRetentionDays ?? null));
          if (changes) {
            const before = valuesOf(row);
            row.displayName = displayName ?? row.displayName;
            row.externalIdPolicy = policy ?? row.externalIdPolicy;
            if (eventRetentionDays !== undefined) row.eventRetentionDays = eventRetentionDays;
            row.etag = newId();
            row.updatedAt = new Date(Math.max(deps.clock(), row.updatedAt.getTime() + 1));
            await em.flush();
            await recordAdministration(em, ctx, organizationId, {
              ...{ type: "ORGANIZATION_UPDATED", subjectId: organizationId, requestId },
              ...{ before, after: valuesOf(row) },
            });
          }
          return { organization: toProto(row) };
        },
      );
    },

    async createApiKey(request, ctx) {
      const violations = new Violations();
      const organizationId = parseOrganizationId(ctx, request.organizationId, violations);
      const displayName = parseName(request.displayName, "display_name", violations);
      const scopes = [...new Set(request.scopes)];
      if (scopes.length === 0) violations.add("scopes", "must have at least one scope");
      scopes.forEach((scope, i) => {
        if (!(SCOPES as readonly string[]).includes(scope)) {
          violations.add(`scopes[${i}]`, `must be one of ${SCOPES.join(", ")}`);
        }
      });
      if (scopes.includes("operator") && organizationId !== DEFAULT_ORGANIZATION_ID) {
        violations.add("scopes", "operator is for keys of the organization default alone");
      }
      const expiresAt = request.expiresAt === undefined ? undefined : timestampDate(request.expiresAt);
      if (expiresAt !== undefined && expiresAt.getTime() <= deps.clock()) {
        violations.add("expires_at", "must be in the future");
      }
      violations.throwIfAny();
      assertReachable(ctx, organizationId);
      if (scopes.includes("operator") && !isOperator(ctx)) {
        throw new DomainError("PERMISSION_DENIED", "Only an operator can give the scope operator", {
          scope: "operator",
        });
      }

      const secret = newSecret();
      const row = await writeInTurn(
        deps,
        ctx,
        { organizationId: organizationId, validateOnly: request.validateOnly },
        async (em) => {
          if ((await em.count(OrganizationRow, { organizationId })) === 0)
            throw notFound("organization_id", "Organization");
          const key = em.create(ApiKeyRow, {
            organizationId,
            id: newId(),
            digest: digestOf(secret),
            displayName,
            scopes,
            expiresAt: expiresAt ?? null,
          } as never);
          await em.persist(key).flush();
          await recordAdministration(em, ctx, organizationId, {
            ...{ type: "API_KEY_CREATED", subjectId: key.id },
            ...{ before: {}, after: keyValuesOf(key) },
          });
          return key;
        },
      );
      return { apiKey: keyToProto(row), secret: request.validateOnly ? "" : secret };
    },

    async listApiKeys(request, ctx) {
      const violations = new Violations();
      const organizationId = parseOrganizationId(ctx, request.organizationId, violations);
      violations.throwIfAny();
      const page = openPage(OrganizationService.method.listApiKeys, request, {
        organizationId,
        cursor: { id: "id" },
      });
      const after = page.cursor?.id;
      assertReachable(ctx, organizationId);
      const rows = await readInTurn(deps, ctx, organizationId, async (em) => {
        if ((await em.count(OrganizationRow, { organizationId })) === 0)
          throw notFound("organization_id", "Organization");
        return em.find(ApiKeyRow, after === undefined ? { organizationId } : { organizationId, id: { $gt: after } }, {
          orderBy: { id: "asc" },
          limit: page.bound.rows,
        });
      });
      const { items, nextPageToken } = closePage(page, whole(rows), {
        present: keyToProto,
        cursorOf: ({ id }) => ({ id }),
      });
      return { apiKeys: items, nextPageToken };
    },

    async revokeApiKey(request, ctx) {
      const violations = new Violations();
      const organizationId = parseOrganizationId(ctx, request.organizationId, violations);
      const id = requireUuid(request.apiKeyId, "api_key_id", violations);
      const requestId = parseOptionalUuid(request.requestId, "request_id", violations);
      violations.throwIfAny();
      assertReachable(ctx, organizationId);
      const response = await idempotent(
        deps,
        ctx,
        { method: OrganizationService.method.revokeApiKey, request, requestId, organizationId },
        async (em) => {
          const key = await em.findOne(ApiKeyRow, { organizationId, id }, { lockMode: LockMode.PESSIMISTIC_WRITE });
          if (key === null) throw notFound("api_key_id", "API key");
          const changed = key.revokedAt === null || key.revokedAt === undefined;
          if (changed) {
            const before = keyValuesOf(key);
            key.revokedAt = new Date(deps.clock());
            await em.flush();
            await recordAdministration(em, ctx, organizationId, {
              ...{ type: "API_KEY_REVOKED", subjectId: id, requestId },
              ...{ before, after: keyValuesOf(key) },
            });
          }
          return { apiKey: keyToProto(key), changed };
        },
      );
      deps.forgetCallers();
      return response;
    },
  } satisfies Partial<ServiceImpl<typeof OrganizationService>>;
}

function parseName(value: string, field: string, violations: Violations): string {
  const name = trim(value);
  violations.check(field, name === "" ? "is required" : nameProblem(name, LIMITS.name));
  return name;
}

/** Null: for ever. */
function parseRetention(days: number | undefined, violations: Violations): number | null {
  const { retentionDaysMin: min, retentionDaysMax: max } = LIMITS;
  if (days !== undefined && (days < min || days > max)) {
    violations.add("organization.event_retention_days", `must be from ${min} to ${max}`);
  }
  return days ?? null;
}

const policyFromProto = (policy: ExternalIdPolicy): Policy | undefined =>
  (Object.keys(POLICIES) as Policy[]).find((name) => POLICIES[name] === policy);

const toProto = (row: OrganizationRow) => ({
  id: row.organizationId,
  displayName: row.displayName,
  externalIdPolicy: POLICIES[row.externalIdPolicy],
  eventRetentionDays: row.eventRetentionDays ?? undefined,
  etag: row.etag,
  createdAt: timestampFromDate(row.createdAt),
  updatedAt: timestampFromDate(row.updatedAt),
});

/** What the trail tells of an organization. */
const valuesOf = ({ displayName, externalIdPolicy, eventRetentionDays }: OrganizationRow): JsonObject => ({
  displayName,
  externalIdPolicy,
  eventRetentionDays: eventRetentionDays ?? null,
});

/** What the trail tells of a key. */
const keyValuesOf = ({ displayName, scopes, expiresAt, revokedAt }: ApiKeyRow): JsonObject => ({
  displayName,
  scopes,
  expiresAt: expiresAt?.toISOString() ?? null,
  revokedAt: revokedAt?.toISOString() ?? null,
});

const keyToProto = (row: ApiKeyRow) => ({
  id: row.id,
  organizationId: row.organizationId,
  displayName: row.displayName,
  scopes: row.scopes,
  createdAt: timestampFromDate(row.createdAt),
  expiresAt: row.expiresAt ? timestampFromDate(row.expiresAt) : undefined,
  revokedAt: row.revokedAt ? timestampFromDate(row.revokedAt) : undefined,
});
