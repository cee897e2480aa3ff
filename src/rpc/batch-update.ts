// EntityService: many updates in one transaction.
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import {
  type BatchUpdateEntitiesRequest,
  EntityService,
  type UpdateEntityRequest,
} from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { DomainError, inItem, invalidField } from "../domain/errors.ts";
import { latestDate } from "../domain/time.ts";
import { type Batch, writeBatch } from "../entities/batch.ts";
import { type Outcome, toOneEntity } from "../entities/command.ts";
import { departureOf } from "../interceptors/call.ts";
import type { Slots } from "../slots.ts";
import { updateOf } from "./entity-update.ts";
import { parseOptionalUuid, requestHash } from "./request.ts";
import { Violations } from "./violations.ts";
import { authorOf, type Deps, organizationOf } from "./write.ts";

const METHOD = EntityService.method.batchUpdateEntities;

export interface BatchUpdateDeps {
  /** Bounds what writes much at a time, in the turns of the organizations. */
  importSlots: Slots;
}

export function batchUpdateRpcs(deps: Deps & BatchUpdateDeps) {
  const { orm, importSlots, bell } = deps;
  return {
    async batchUpdateEntities(request, ctx) {
      const organizationId = organizationOf(ctx);
      const { validateOnly } = request;
      const batch = batchOf(deps, ctx, request);
      const { signal } = ctx;
      const run = () => writeBatch(orm, organizationId, batch, { validateOnly, signal });
      const written = await importSlots(organizationId, run, { signal });
      if (!validateOnly) bell.ring(organizationId);
      if (written.kind === "done") return { results: [...written.results] };
      ctx.responseHeader.set("idempotent-replay", "true");
      return fromBinary(METHOD.output, written.answer);
    },
  } satisfies Partial<ServiceImpl<typeof EntityService>>;
}

function batchOf({ aliasUse, clock }: Deps, ctx: HandlerContext, request: BatchUpdateEntitiesRequest) {
  const { requests } = request;
  const requestId = checkWhole(request);
  const today = latestDate(clock());
  const updates = requests.map((one, index) => updateInBatch(one, today, index));
  const [author, organizationId] = [authorOf(ctx), organizationOf(ctx)];
  const batch: Batch<ReturnType<typeof resultOf>> = {
    commands: updates.map(({ command }) =>
      toOneEntity({
        ...command,
        author,
        requestId,
        named: (lookup, entity) => aliasUse.named(organizationId, lookup, entity),
      }),
    ),
    request:
      requestId === undefined
        ? undefined
        : {
            principal: author.principal,
            method: METHOD.name,
            requestId,
            hash: requestHash(METHOD.input, request),
            answer: (results) => toBinary(METHOD.output, create(METHOD.output, { results: [...results] })),
          },
    present: (outcome, index) => resultOf(outcome, updates[index]?.ignored ?? []),
    refusal: (error, index) => inItem(error, "requests", index),
    signal: departureOf(ctx),
  };
  return batch;
}

/** What concerns the batch as a whole. Answers its request_id. */
function checkWhole({ requests, requestId }: BatchUpdateEntitiesRequest): string | undefined {
  if (requests.length < 1) throw invalidField("requests", "must have at least 1 item");
  const violations = new Violations();
  const id = parseOptionalUuid(requestId, "request_id", violations);
  requests.forEach((one, i) => {
    if (one.requestId !== "") violations.add(`requests[${i}].request_id`, "is that of the batch: give it there");
    if (one.validateOnly) violations.add(`requests[${i}].validate_only`, "is that of the batch: give it there");
  });
  violations.throwIfAny();
  return id;
}

function updateInBatch(request: UpdateEntityRequest, today: string, index: number) {
  try {
    return updateOf(request, today);
  } catch (error) {
    throw error instanceof DomainError ? inItem(error, "requests", index) : error;
  }
}

const resultOf = ({ before, after, updatedFields, redirectedFrom }: Outcome, ignored: readonly string[]) => ({
  entityId: after.id,
  redirectedFrom,
  etag: after.etag,
  updatedFields: before === null ? [] : [...updatedFields],
  ignoredFields: [...ignored],
  created: before === null,
});
