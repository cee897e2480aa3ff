// OrganizationService: the API keys of organizations, through MikroORM's unit of work.
import { timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import { LockMode } from "@mikro-orm/core";
import { OrganizationService } from "../../clients/typescript/gen/entity/v1/organization_service_pb.ts";
import { DEFAULT_ORGANIZATION_ID } from "../db/across.ts";
import { digestOf, newApiKeySecret, SCOPES } from "../db/api-keys.ts";
import { assertOrganization } from "../db/organizations.ts";
import { ApiKeyRow } from "../db/schema.ts";
import { newId } from "../db/uuid.ts";
import { DomainError, notFound } from "../domain/errors.ts";
import type { JsonObject } from "../domain/json.ts";
import { closePage, openPage, whole } from "./page.ts";
import { parseDisplayName, parseOptionalUuid, requireUuid } from "./request.ts";
import { Violations } from "./violations.ts";
import {
  assertReachable,
  type Deps,
  idempotent,
  isOperator,
  parseOrganizationId,
  readInTurn,
  recordAdministration,
  writeInTurn,
} from "./write.ts";

export function apiKeyRpcs(deps: Deps & { forgetCallers: () => void }) {
  return {
    async createApiKey(request, ctx) {
      const violations = new Violations();
      const organizationId = parseOrganizationId(ctx, request.organizationId, violations);
      const displayName = parseDisplayName(request.displayName, "display_name", violations);
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

      const secret = newApiKeySecret();
      const row = await writeInTurn(deps, ctx, { organizationId, validateOnly: request.validateOnly }, async (em) => {
        await assertOrganization(em, organizationId);
        const key = em.create(ApiKeyRow, {
          organizationId,
          id: newId(),
          digest: digestOf(secret),
          displayName,
          scopes,
          expiresAt: expiresAt ?? null,
        });
        await em.persist(key).flush();
        await recordAdministration(em, ctx, organizationId, {
          ...{ type: "API_KEY_CREATED", subjectId: key.id },
          ...{ before: {}, after: valuesOf(key) },
        });
        return key;
      });
      return { apiKey: toProto(row), secret: request.validateOnly ? "" : secret };
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
        await assertOrganization(em, organizationId);
        return em.find(ApiKeyRow, after === undefined ? { organizationId } : { organizationId, id: { $gt: after } }, {
          orderBy: { id: "asc" },
          limit: page.bound.rows,
        });
      });
      const { items, nextPageToken } = closePage(page, whole(rows), {
        present: toProto,
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
            const before = valuesOf(key);
            key.revokedAt = new Date(deps.clock());
            await em.flush();
            await recordAdministration(em, ctx, organizationId, {
              ...{ type: "API_KEY_REVOKED", subjectId: id, requestId },
              ...{ before, after: valuesOf(key) },
            });
          }
          return { apiKey: toProto(key), changed };
        },
      );
      deps.forgetCallers();
      return response;
    },
  } satisfies Partial<ServiceImpl<typeof OrganizationService>>;
}

/** What the trail records of a key. */
const valuesOf = ({ displayName, scopes, expiresAt, revokedAt }: ApiKeyRow): JsonObject => ({
  displayName,
  scopes,
  expiresAt: expiresAt?.toISOString() ?? null,
  revokedAt: revokedAt?.toISOString() ?? null,
});

const toProto = (row: ApiKeyRow) => ({
  id: row.id,
  organizationId: row.organizationId,
  displayName: row.displayName,
  scopes: row.scopes,
  createdAt: timestampFromDate(row.createdAt),
  expiresAt: row.expiresAt ? timestampFromDate(row.expiresAt) : undefined,
  revokedAt: row.revokedAt ? timestampFromDate(row.revokedAt) : undefined,
});
