// A worker of WORKERS=n: one of the processes that serve the port, on the database that the primary (cluster.ts) holds.
import cluster from "node:cluster";
import { Registry } from "prom-client";
import type { Start, ToPrimary, ToWorker } from "./cluster.ts";
import type { Config } from "./config.ts";
import { createOrm } from "./db/orm.ts";
import { heedDefects } from "./defects.ts";
import type { MetricsSource } from "./interceptors/telemetry.ts";
import { createLogger } from "./logger.ts";
import { listenOn } from "./server.ts";
import { endWithin, FORCED_EXIT_CODE, heedSignals } from "./signals.ts";

/** Serves until the primary says so, is gone, or SIGTERM comes to this process; then drains. */
export async function serveAsWorker(config: Config): Promise<void> {
  const told = Promise.withResolvers<Start>();
  const opened = Promise.withResolvers<void>();
  const stopped = Promise.withResolvers<string>();
  const metrics = sharedMetrics();

  // At a terminal Ctrl-C comes to every process of the group: the primary heeds it, and tells the workers.
  process.on("SIGINT", () => {});
  const signals = heedSignals(["SIGTERM"]);
  void signals.stop.then(stopped.resolve);
  // As may SIGHUP; each worker reads its files itself.
  let reload = () => {};
  process.on("SIGHUP", () => reload());
  cluster.worker?.once("disconnect", () => {
    // Without this Node would end the process here, and the calls in it.
    if (cluster.worker !== undefined) cluster.worker.exitedAfterDisconnect = true;
    metrics.primaryGone();
    stopped.resolve("the primary process is gone");
  });
  process.on("message", (message: ToWorker) => {
    if (message.kind === "start") told.resolve(message);
    else if (message.kind === "open") opened.resolve();
    else if (message.kind === "drain") stopped.resolve("the service ends");
    else if (message.kind === "reload") reload();
    else if (message.kind === "report") void metrics.report();
    else metrics.summed(message.id, message.text);
  });
  tell({ kind: "hello" });

  try {
    await using worker = new AsyncDisposableStack();
    const start = await Promise.race([told.promise, stopped.promise]);
    if (typeof start === "string") return;
    const log = createLogger(config.logLevel, start.number);
    const orm = createOrm(start.address, config);
    worker.defer(() => orm.close(true));
    const endpoint = worker.use(await listenOn(orm, { ...config, port: start.port }, log, { metrics }));
    ({ reload } = endpoint);
    // Not during the start, which would wait for ever for what was to come of it.
    let defect: string | undefined;
    void heedDefects(log).then((reason) => {
      defect = reason;
      stopped.resolve(reason);
    });
    tell({ kind: "listening" });
    void opened.promise.then(() => endpoint.begin()).then(() => tell({ kind: "open" }));
    log.info({ reason: await stopped.promise }, "draining");
    const forced = await endWithin(() => worker.disposeAsync(), {
      // A little before the primary would kill it, so that its own line says what was open.
      timeoutMs: config.lameDuckMs + Math.max(0, config.drainTimeoutMs - 500),
      force: signals.force,
    });
    if (forced !== undefined) {
      log.error({ reason: forced, open: endpoint.open() }, "ended by force");
      process.exit(FORCED_EXIT_CODE);
    }
    // Not 0: the primary says how a worker ended.
    if (defect !== undefined) throw new Error(defect);
  } finally {
    // The channel to the primary would keep the process.
    if (process.connected) process.disconnect();
  }
}

function tell(message: ToPrimary): void {
  // Errors go to the callback: the primary is gone, and "disconnect" comes.
  process.send?.(message, undefined, {}, () => {});
}

interface SharedMetrics extends MetricsSource {
  /** Tells the primary what this process has counted. */
  report(): Promise<void>;
  /** The primary's answer, and that none will come any more. */
  summed(id: number, text: string): void;
  primaryGone(): void;
}

/** The metrics of this process, which the primary asks for, and those of all, which GET /metrics asks the primary for. */
function sharedMetrics(): SharedMetrics {
  const registry = new Registry();
  const asked = new Map<number, PromiseWithResolvers<string>>();
  let last = 0;
  return {
    registry,
    text() {
      if (!process.connected) return Promise.reject(new Error("no primary to ask"));
      const answer = Promise.withResolvers<string>();
      last += 1;
      asked.set(last, answer);
      tell({ kind: "sum", id: last });
      return answer.promise;
    },
    async report() {
      tell({ kind: "report", metrics: await registry.getMetricsAsJSON() });
    },
    summed(id, text) {
      asked.get(id)?.resolve(text);
      asked.delete(id);
    },
    primaryGone() {
      for (const answer of asked.values()) answer.reject(new Error("no primary to ask"));
    },
  };
}
