// What the service says of a refusal, out of an error or out of an item of a batch.
import { isMessage } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.ts";
import { type Status, StatusSchema } from "./gen/google/rpc/status_pb.ts";

/** A refusal as the contract describes it. Holds no value of the request. */
export interface EntityErrorInfo {
  /** A stable word to branch on, such as "DUPLICATE_EXTERNAL_ID". */
  reason: string;
  /** What to do about it, such as the current etag or the missing scope. */
  metadata: Record<string, string>;
  /** The fields at fault, as paths of the request; empty when no field is. */
  fieldViolations: { field: string; description: string }[];
}

/**
 * The refusal in what a call threw, or in the `error` of a result of BatchGetEntities or ImportEntities.
 * Undefined when the service gave none: the connection failed, or it is no error of a call.
 */
export function errorInfo(error: unknown): EntityErrorInfo | undefined {
  const [infos, badRequests] =
    error instanceof ConnectError
      ? [error.findDetails(ErrorInfoSchema), error.findDetails(BadRequestSchema)]
      : isMessage(error, StatusSchema)
        ? [detailsOf(error, ErrorInfoSchema), detailsOf(error, BadRequestSchema)]
        : [[], []];
  const info = infos.find(({ domain }) => domain === "entity.v1");
  if (info === undefined) return undefined;
  return {
    reason: info.reason,
    metadata: { ...info.metadata },
    fieldViolations: badRequests.flatMap((detail) =>
      detail.fieldViolations.map(({ field, description }) => ({ field, description })),
    ),
  };
}

function detailsOf<Desc extends typeof ErrorInfoSchema | typeof BadRequestSchema>(status: Status, desc: Desc) {
  return status.details.flatMap((detail) => anyUnpack<Desc>(detail, desc) ?? []);
}
