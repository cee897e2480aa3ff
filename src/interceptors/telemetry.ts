// The log line (call-log.ts) and the metrics of each call, those that never reached an interceptor included. Nothing of
// the request is in them: no message, no header but the ids that tie the line to its caller and its trace.
import type { ContextValues } from "@connectrpc/connect";
import type { Logger } from "pino";
import { Counter, collectDefaultMetrics, Gauge, Registry } from "prom-client";
import { callContext, peerKey, requestIdKey } from "./call.ts";
import { callLog } from "./call-log.ts";
import { Durations } from "./durations.ts";

/** How a call ended: "OK" or the gRPC name of its code, and the reason of ErrorInfo where there is one. */
export interface CallOutcome {
  code: string;
  reason?: string | undefined;
  /** INTERNAL because gRPC's specification says so, not because of a defect. */
  isCallersFault?: boolean;
}

export interface CallStart {
  /** "entity.v1.EntityService/GetEntity", or undefined for a path that is no RPC. */
  method: string | undefined;
  /** A stream without an end of its own: it ends normally when its caller disconnects. */
  isEndless: boolean;
  protocol: string;
  traceparent: string | undefined;
  /** The caller's own x-request-id, whatever is in it. */
  callerRequestId: string | string[] | undefined;
  values: ContextValues;
}

export interface Telemetry {
  /** Counts the call; the returned function is called once, when it has ended. */
  begin(call: CallStart): (outcome: CallOutcome) => void;
  /** The metrics in Prometheus' text format. */
  metrics: MetricsPage;
}

type MetricsPage = () => Promise<{ contentType: string; body: Buffer }>;

/** Where the metrics of this process are kept, and the text that GET /metrics answers: theirs, or those of several processes. */
export interface MetricsSource {
  registry: Registry;
  text(): Promise<string>;
}

const SAME_METRICS_MS = 100;
const WARNINGS = new Set(["UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"]);
const FAILURES = new Set(["INTERNAL", "UNKNOWN", "DATA_LOSS"]);

const REQUEST_ID = /^[\x21-\x7e]{1,128}$/;
/** Version 00 and later ones; an id of zeros is invalid (W3C Trace Context, 3.2.2). */
const TRACEPARENT = /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-|$)/;

export function telemetry(options: { log: Logger; metrics?: MetricsSource | undefined }): Telemetry {
  const { log, metrics = ownMetrics() } = options;
  const { registry } = metrics;
  collectDefaultMetrics({ register: registry });
  const durations = new Durations({
    name: "entity_service_rpc_duration_seconds",
    help: "Time from the headers of a call to the end of its answer",
    bounds: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
    registry,
  });
  // Two numbers, that are gauges when somebody reads them.
  let inFlight = 0;
  let watches = 0;
  new Gauge({
    name: "entity_service_rpc_in_flight",
    help: "Calls that have begun and not ended",
    registers: [registry],
    collect() {
      this.set(inFlight);
    },
  });
  new Gauge({
    name: "entity_service_watches_open",
    help: "Streams without an end of their own that are open: watches of entities and of health, reflection",
    registers: [registry],
    collect() {
      this.set(watches);
    },
  });
  const errors = new Counter({
    name: "entity_service_rpc_errors_total",
    help: "Calls that ended with an error",
    labelNames: ["method", "reason"],
    registers: [registry],
  });

  const logCall = callLog(log);
  return {
    begin({ method = "unknown", isEndless, protocol, traceparent, callerRequestId, values }) {
      const start = performance.now();
      inFlight += 1;
      if (isEndless) watches += 1;
      return ({ code, reason, isCallersFault = false }) => {
        const durationMs = performance.now() - start;
        inFlight -= 1;
        if (isEndless) watches -= 1;
        durations.count(method, code, durationMs / 1000);
        if (code !== "OK" && !(isEndless && code === "CANCELLED")) errors.inc({ method, reason: reason ?? code });
        const level = FAILURES.has(code) && !isCallersFault ? "error" : WARNINGS.has(code) ? "warn" : "info";
        if (!log.isLevelEnabled(level)) return;
        const caller = values.get(callContext)?.caller;
        const line = {
          method,
          protocol,
          code,
          reason,
          durationMs: Math.round(durationMs * 100) / 100,
          organizationId: caller?.organizationId,
          apiKeyId: caller?.apiKeyId,
          peer: values.get(peerKey) || undefined,
          requestId: values.get(requestIdKey),
          callerRequestId:
            typeof callerRequestId === "string" && REQUEST_ID.test(callerRequestId) ? callerRequestId : undefined,
          traceId: traceparent === undefined ? undefined : TRACEPARENT.exec(traceparent)?.[1],
        };
        logCall(level, line, code !== "OK" && (caller === undefined || reason === "OVERLOADED"));
      };
    },
    metrics: metricsPage(metrics),
  };
}

/** GET /metrics: they take milliseconds to write, and need no key, so requests that follow at once get the same bytes. */
export function metricsPage(source: MetricsSource): MetricsPage {
  let last: { at: number; body: Promise<Buffer> } | undefined;
  return async () => {
    const now = performance.now();
    if (last === undefined || now - last.at > SAME_METRICS_MS)
      last = { at: now, body: source.text().then((text) => Buffer.from(text)) };
    return { contentType: source.registry.contentType, body: await last.body };
  };
}

/** Metrics of this process alone. */
export function ownMetrics(): MetricsSource {
  const registry = new Registry();
  return { registry, text: () => registry.metrics() };
}

/** What is running, and whether it says SERVING: two gauges. */
export function registerBuild(
  registry: Registry,
  { version, readiness }: { version: string; readiness: { ready(): boolean } },
): void {
  new Gauge({
    name: "entity_service_build_info",
    help: "1, with the version of the service and of Node",
    labelNames: ["version", "node"],
    registers: [registry],
    aggregator: "first",
  }).set({ version, node: process.version }, 1);
  new Gauge({
    name: "entity_service_ready",
    help: "1 where the process says SERVING; of several, how many do",
    registers: [registry],
    collect() {
      this.set(readiness.ready() ? 1 : 0);
    },
  });
}
