// Reports calls to telemetry: how a call began, from its headers, and how it ended.
import type { IncomingHttpHeaders } from "node:http";
import type { DescMethod } from "@bufbuild/protobuf";
import type { ConnectError, ContextValues } from "@connectrpc/connect";
import { codeToString } from "@connectrpc/connect/protocol-connect";
import { namesField, reasonOf } from "../errors.ts";
import type { CallOutcome, Telemetry } from "../interceptors/telemetry.ts";
import type { NodeResponse } from "./refusal.ts";

interface BegunCall {
  /** Undefined for a path that is no RPC. */
  method: DescMethod | undefined;
  headers: IncomingHttpHeaders;
  values: ContextValues;
}

export interface CallTelemetry {
  /** Begins the telemetry of a gRPC call; the returned function is called once, when the call has ended. */
  beginGrpc(call: BegunCall): (outcome: CallOutcome) => void;
  /**
   * The same for a call in any protocol; the returned function notes its outcome, which counts once the response is written
   * or its caller has disconnected. `done` is called then.
   */
  begin(
    call: BegunCall & { protocol: string },
    response: NodeResponse,
    done: () => void,
  ): (outcome: CallOutcome) => void;
}

/** `isEndless`: whether an RPC is a stream without an end of its own. */
export function callTelemetry(
  watch: Pick<Telemetry, "begin">,
  isEndless: (method: DescMethod) => boolean,
): CallTelemetry {
  /** The part that all calls of a method share. */
  const known = new Map<DescMethod | undefined, { method: string | undefined; isEndless: boolean }>();
  const knownOf = (method: DescMethod | undefined) => {
    let one = known.get(method);
    if (one === undefined) {
      one = {
        method: method && `${method.parent.typeName}/${method.name}`,
        isEndless: method !== undefined && isEndless(method),
      };
      known.set(method, one);
    }
    return one;
  };
  const start = (
    method: DescMethod | undefined,
    protocol: string,
    headers: IncomingHttpHeaders,
    values: ContextValues,
  ) => {
    const { traceparent, "x-request-id": callerRequestId } = headers;
    return watch.begin({
      ...knownOf(method),
      protocol,
      traceparent: typeof traceparent === "string" ? traceparent : undefined,
      callerRequestId,
      values,
    });
  };
  return {
    beginGrpc: ({ method, headers, values }) => start(method, "grpc", headers, values),
    begin({ method, headers, values, protocol }, response, done) {
      const finish = start(method, protocol, headers, values);
      // A call has no other outcome if its caller disconnects.
      let outcome: CallOutcome = { code: "CANCELLED", reason: "CANCELLED" };
      let open = true;
      const ended = () => {
        if (!open) return;
        open = false;
        done();
        finish(outcome);
      };
      response.once("finish", ended);
      response.once("close", ended);
      return (final) => {
        outcome = final;
      };
    },
  };
}

export function outcomeOf(error: ConnectError | undefined): CallOutcome {
  if (error === undefined) return { code: "OK" };
  const code = codeToString(error.code).toUpperCase();
  // The only code that gRPC spells differently.
  return {
    code: code === "CANCELED" ? "CANCELLED" : code,
    reason: reasonOf(error),
    isCallersFault: code === "INTERNAL" && namesField(error),
  };
}
