// The last stop of every error on its way out: what leaves has our shape, what does not leave is in the log.
import type { DescMethod } from "@bufbuild/protobuf";
import { ConnectError, type Interceptor } from "@connectrpc/connect";
import type { Logger } from "pino";
import { describe } from "../defects.ts";
import { callerLeft, DomainError } from "../domain/errors.ts";
import { reasonOf, toConnectError } from "../errors.ts";
import { requestIdKey } from "./call.ts";
import { abandon } from "./deadline.ts";
import { foreignError } from "./foreign-errors.ts";

export interface ErrorContext {
  method: DescMethod;
  requestId: string;
  log: Logger;
}

/** What an error becomes on its way out. */
export type Present = (error: unknown, context: ErrorContext) => ConnectError;

/** Any error as it may leave: google.rpc.ErrorInfo of our domain, no value of the request. Logs a defect, and what made the database unavailable. */
export function presentable(error: unknown, { method, requestId, log }: ErrorContext): ConnectError {
  if (error instanceof ConnectError && reasonOf(error) !== undefined) return error;
  const where = { requestId, method: `${method.parent.typeName}/${method.name}` };
  const refusal = refusalOf(error, method);
  if (refusal === undefined || (refusal === error && refusal.reason === "INTERNAL")) {
    log.error({ ...where, error: describe(error) }, "call failed by a defect");
    return toConnectError(new DomainError("INTERNAL", "internal error", { request_id: requestId }));
  }
  if (refusal.reason === "INTERNAL")
    return toConnectError(new DomainError("INTERNAL", refusal.message, { ...refusal.metadata, request_id: requestId }));
  if (refusal.reason === "DATABASE_UNAVAILABLE" || refusal.reason === "COMMIT_UNKNOWN") {
    log.warn({ ...where, error: describe(refusal) }, "database unavailable");
  }
  return toConnectError(refusal);
}

function refusalOf(error: unknown, method: DescMethod): DomainError | undefined {
  if (error instanceof DomainError) return error;
  if (error instanceof ConnectError) return foreignError(error, method);
  return isAbort(error) ? callerLeft() : undefined;
}

/** Outermost interceptor: covers handlers, rules, the reading of request streams and the writing of response streams. */
export function errors({ log, present }: { log: Logger; present: Present }): Interceptor {
  return (next) => async (request) => {
    const presented = (error: unknown) => {
      // What a handler throws after its call was aborted is the noise of its stopping, unless it is a refusal.
      const cause = request.signal.aborted && !(error instanceof DomainError) ? request.signal.reason : error;
      return present(cause, { method: request.method, requestId: request.contextValues.get(requestIdKey), log });
    };
    try {
      const response = await next(request);
      return response.stream ? { ...response, message: eachPresentable(response.message, presented) } : response;
    } catch (error) {
      throw presented(error);
    }
  };
}

async function* eachPresentable<T>(source: AsyncIterable<T>, present: (error: unknown) => ConnectError) {
  const iterator = source[Symbol.asyncIterator]();
  try {
    for (;;) {
      const item = await iterator.next();
      if (item.done === true) return;
      yield item.value;
    }
  } catch (error) {
    throw present(error);
  } finally {
    abandon(iterator);
  }
}

function isAbort(error: unknown): boolean {
  return error instanceof Error && (error.name === "AbortError" || error.name === "TimeoutError");
}
