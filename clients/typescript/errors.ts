// What the service says of a refusal, out of an error or out of an item of a batch.
import { type DescMessage, isMessage, type MessageShape } from "@bufbuild/protobuf";
import { anyUnpack, durationMs } from "@bufbuild/protobuf/wkt";
import { ConnectError } from "@connectrpc/connect";
import type { ErrorReason } from "./gen/entity/v1/error_pb.ts";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "./gen/google/rpc/status_pb.ts";

/** The reasons that this version of the client knows; a newer service may have more. */
export type Reason = Exclude<keyof typeof ErrorReason, "UNSPECIFIED">;

/** A refusal as the contract describes it. Holds no value of the request. */
export interface EntityErrorInfo {
  /** A stable word to branch on, such as "DUPLICATE_EXTERNAL_ID". */
  reason: Reason | (string & {});
  /** What to do about it, such as the current etag or the missing scope. */
  metadata: Record<string, string>;
  /** The fields at fault, as paths of the request; empty when no field is. */
  fieldViolations: { field: string; description: string }[];
  /** After so many milliseconds a retry makes sense, where the service says so. */
  retryAfterMs?: number;
}

/**
 * The refusal in what a call threw, or in the `error` of a result of BatchGetEntities or ImportEntities.
 * Undefined when the service gave none: the connection failed, or it is no error of a call.
 */
export function errorInfo(error: unknown): EntityErrorInfo | undefined {
  const find = finder(error);
  const info = find(ErrorInfoSchema).find(({ domain }) => domain === "entity.v1");
  if (info === undefined) return undefined;
  const delay = find(RetryInfoSchema)[0]?.retryDelay;
  const retryAfterMs = delay === undefined ? Number(info.metadata["retry_after_ms"] ?? Number.NaN) : durationMs(delay);
  return {
    reason: info.reason,
    metadata: { ...info.metadata },
    fieldViolations: find(BadRequestSchema).flatMap((detail) =>
      detail.fieldViolations.map(({ field, description }) => ({ field, description })),
    ),
    ...(Number.isFinite(retryAfterMs) && { retryAfterMs }),
  };
}

/** Whether the service refused the call, or the item, for one of these reasons. */
export function isReason(error: unknown, ...reasons: [Reason, ...Reason[]]): boolean {
  const reason = errorInfo(error)?.reason;
  return reason !== undefined && (reasons as string[]).includes(reason);
}

/** Finds the details of a kind, in an error or in the status of an item. */
function finder(error: unknown): <Desc extends DescMessage>(desc: Desc) => MessageShape<Desc>[] {
  if (error instanceof ConnectError) return (desc) => error.findDetails(desc);
  if (isMessage(error, StatusSchema)) return (desc) => error.details.flatMap((detail) => anyUnpack(detail, desc) ?? []);
  return () => [];
}
