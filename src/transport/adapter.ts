// How an HTTP request becomes a call: two paths, which share the gate, the places in flight, the budgets and telemetry.
// grpc-path.ts serves most calls; library-path.ts serves the rest, and everything where the first is off.
import type { ServerResponse } from "node:http";
import type { IncomingHttpHeaders, ServerHttp2Stream } from "node:http2";
import type { DescMethod } from "@bufbuild/protobuf";
import type { ContextValues } from "@connectrpc/connect";
import { admission } from "../interceptors/admission.ts";
import { presentable } from "../interceptors/errors.ts";
import { type Telemetry, telemetry } from "../interceptors/telemetry.ts";
import { createSlots } from "../slots.ts";
import { createAlarms } from "./alarms.ts";
import { type AnswerLimits, noteUnread, takenInTime } from "./answer-limits.ts";
import { createArrivals } from "./arrivals.ts";
import { type ByteBudget, byteBudget } from "./byte-budget.ts";
import { callTelemetry, outcomeOf } from "./call-telemetry.ts";
import { grpcPath } from "./grpc-path.ts";
import { createHandlers, type HandlerOptions } from "./handlers.ts";
import { libraryPath, type NodeRequest } from "./library-path.ts";
import { type FindPage, servePage } from "./pages.ts";
import type { NodeResponse } from "./refusal.ts";
import { createTally } from "./tally.ts";

export type RequestHandler = (request: NodeRequest, response: NodeResponse) => void;

export interface Adapter {
  request: RequestHandler;
  /** Takes an HTTP/2 stream that it can serve faster, and returns whether it did. */
  stream?: (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => boolean;
  /** Calls that are being answered, of one organization or of all. */
  inFlight(organizationId?: string): number;
}

const MIN_REQUEST_BYTES = 16 * 1024 * 1024;
/** Limits for answers that their callers have not read yet. */
const ANSWER_BYTES = { perConnection: 32 * 1024 * 1024, total: 96 * 1024 * 1024 };
/** Of pages, which need no key: those who do not read them take it from nobody who calls. */
const PAGE_BYTES = { perConnection: 4 * 1024 * 1024, total: 32 * 1024 * 1024 };
const ANSWER_TIMEOUT_MS = 30_000;
/** Compressed messages that are unpacked at once. */
const UNPACKED = 2;
const SHUTDOWN_LINGER_MS = 1_000;

/** Serves the services with health, reflection, GET /metrics and pages, in gRPC, gRPC-Web and Connect, over HTTP/1.1 and HTTP/2. Never throws. */
export function createAdapter(options: HandlerOptions & { findPage?: FindPage }): Adapter {
  const { limits, log, metrics, present = presentable, findPage = () => undefined } = options;
  const { admit, release, inFlight } = admission(limits);
  const watch = telemetry({ log, metrics });
  const served = createHandlers(options, admit);
  const { begin, beginGrpc } = callTelemetry(watch, (method) => served.limitsOf(method).shutdownSignal !== undefined);
  const requestBytes = requestBudget(limits);
  const arrivals = createArrivals();
  const unpacking = createSlots(UNPACKED);
  const answers: AnswerLimits = {
    timeoutMs: options.answerTimeoutMs ?? ANSWER_TIMEOUT_MS,
    shutdownLingerMs: SHUTDOWN_LINGER_MS,
    budget: byteBudget(ANSWER_BYTES),
    tally: options.tally ?? createTally({ log }),
  };

  const pageAnswers: AnswerLimits = { ...answers, budget: byteBudget(PAGE_BYTES) };

  /** Admits a call whose request is complete. Throws OVERLOADED, also where unread answers use up the memory for its own. */
  const enterComplete = (method: DescMethod, values: ContextValues, connection: object) => {
    if (!served.isOpen(method) && answers.budget.isSpent(connection)) throw noteUnread(answers);
    served.enter(method, values);
  };

  const stream = grpcPath(served.grpc, {
    gate: served.gate,
    enter: enterComplete,
    release,
    requestBytes,
    arrivals,
    answers,
    begin: beginGrpc,
    present: (error, { method, requestId }) => present(error, { method, requestId, log }),
    outcomeOf,
    limits,
    alarm: createAlarms(),
  });
  const serveCall = libraryPath({
    served,
    enterComplete,
    release,
    requestBytes,
    arrivals,
    unpacking,
    answers,
    begin,
    present,
    log,
    bodyTimeoutMs: limits.bodyTimeoutMs,
    bareRefusals: options.bareRefusals,
  });

  const request: RequestHandler = (request, response) => {
    // Without a listener, a connection that breaks at the wrong moment would end the process.
    request.on("error", () => {});
    response.on("error", () => {});
    const path = request.url?.split("?", 1)[0] ?? "";
    if (path === "/metrics" && request.method === "GET") {
      serveMetrics(watch, response);
      takenInTime(response, answers);
    } else if (!servePage(findPage, path, { request, response, answers: pageAnswers }))
      serveCall(path, request, response);
  };
  return limits.unaryPath ? { request, stream, inFlight } : { request, inFlight };
}

/** The budget of incomplete requests: a few of the largest per connection, several times that in total. */
function requestBudget({ maxBatchMessageBytes }: { maxBatchMessageBytes: number }): ByteBudget {
  return byteBudget({
    perConnection: Math.max(MIN_REQUEST_BYTES, 4 * maxBatchMessageBytes),
    total: 4 * Math.max(MIN_REQUEST_BYTES, 4 * maxBatchMessageBytes),
  });
}

function serveMetrics(watch: Telemetry, response: NodeResponse): void {
  watch.metrics().then(
    ({ contentType, body }) => {
      response.setHeader("content-type", contentType);
      (response as ServerResponse).end(body);
    },
    () => {
      response.statusCode = 500;
      response.end();
    },
  );
}
