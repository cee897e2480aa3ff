// Every RPC of every service, family by family: a forgotten one does not compile.
import type { DescService } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import { ActivityService } from "../clients/typescript/gen/entity/v1/activity_service_pb.ts";
import { EntityService } from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { OrganizationService } from "../clients/typescript/gen/entity/v1/organization_service_pb.ts";
import { RiskMatrixService } from "../clients/typescript/gen/entity/v1/risk_matrix_service_pb.ts";
import { WebhookService } from "../clients/typescript/gen/entity/v1/webhook_service_pb.ts";
import { activityRpcs } from "./rpc/activity.ts";
import { administrationRpcs } from "./rpc/administration.ts";
import { apiKeyRpcs } from "./rpc/api-keys.ts";
import { auditRpcs } from "./rpc/audit.ts";
import { batchUpdateRpcs } from "./rpc/batch-update.ts";
import { distinctRpcs } from "./rpc/distinct.ts";
import { duplicateRpcs } from "./rpc/duplicates.ts";
import { entityRpcs } from "./rpc/entities.ts";
import { entityEventRpcs } from "./rpc/entity-events.ts";
import { evaluationRpcs } from "./rpc/evaluations.ts";
import { exportRpcs } from "./rpc/export.ts";
import { externalIdRpcs } from "./rpc/external-ids.ts";
import { importRpcs } from "./rpc/import.ts";
import { mergeRpcs } from "./rpc/merges.ts";
import { organizationRpcs } from "./rpc/organizations.ts";
import { riskMatrixRpcs } from "./rpc/risk-matrices.ts";
import { taxIdRpcs } from "./rpc/tax-ids.ts";
import { webhookDeliveryRpcs } from "./rpc/webhook-deliveries.ts";
import { webhookEndpointRpcs } from "./rpc/webhook-endpoints.ts";
import type { Deps } from "./rpc/write.ts";

/** RPCs whose messages may be larger: batches, imports, and many checkpoints that were kept. */
export const LARGE_METHODS = [
  EntityService.method.batchGetEntities,
  EntityService.method.batchUpdateEntities,
  EntityService.method.importEntities,
  EntityService.method.verifyAuditTrail,
  ActivityService.method.recordTransactions,
  ActivityService.method.recordUserEvents,
];

/** Streams that have no end of their own, or a distant one: they end when the service does. */
export const ENDLESS_METHODS = [
  EntityService.method.watchEntities,
  EntityService.method.exportEntities,
  EntityService.method.verifyAuditTrail,
];

/** Where services are registered: the transport. */
interface ServiceRouter {
  service<T extends DescService>(service: T, implementation: Partial<ServiceImpl<T>>): void;
}

/** Registers the services. */
export function routes(
  router: ServiceRouter,
  deps: Deps &
    Parameters<typeof importRpcs>[0] &
    Parameters<typeof exportRpcs>[0] &
    Parameters<typeof auditRpcs>[0] &
    Parameters<typeof apiKeyRpcs>[0] &
    Parameters<typeof evaluationRpcs>[0] &
    Parameters<typeof riskMatrixRpcs>[0] &
    Parameters<typeof webhookEndpointRpcs>[0] &
    Parameters<typeof webhookDeliveryRpcs>[0],
): void {
  router.service(EntityService, {
    ...entityRpcs(deps),
    ...externalIdRpcs(deps),
    ...duplicateRpcs(deps),
    ...entityEventRpcs(deps),
    ...importRpcs(deps),
    ...batchUpdateRpcs(deps),
    ...exportRpcs(deps),
    ...mergeRpcs(deps),
    ...distinctRpcs(deps),
    ...auditRpcs(deps),
    ...taxIdRpcs(deps),
    ...evaluationRpcs(deps),
  } satisfies ServiceImpl<typeof EntityService>);
  router.service(ActivityService, activityRpcs(deps) satisfies ServiceImpl<typeof ActivityService>);
  router.service(OrganizationService, {
    ...organizationRpcs(deps),
    ...apiKeyRpcs(deps),
    ...administrationRpcs(deps),
  } satisfies ServiceImpl<typeof OrganizationService>);
  router.service(RiskMatrixService, riskMatrixRpcs(deps) satisfies ServiceImpl<typeof RiskMatrixService>);
  router.service(WebhookService, {
    ...webhookEndpointRpcs(deps),
    ...webhookDeliveryRpcs(deps),
  } satisfies ServiceImpl<typeof WebhookService>);
}
