// WORKERS=n: n processes serve one port. This is the other one, the primary, which serves no call itself: it holds
// the database, accepts connections and hands them out, replaces workers that die, and ends them all. The worker's
// side is worker.ts. Nothing else is shared between them: what calls need of each other is in the database.
import cluster, { type Worker } from "node:cluster";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { AggregatorRegistry, type Registry } from "prom-client";
import { makeSigningKey } from "./audit-key.ts";
import type { Config } from "./config.ts";
import { openDatabase } from "./db/database.ts";
import type { DatabaseAddress } from "./db/orm.ts";
import type { Logger } from "./logger.ts";
import { assertSettings, prepare, type Server } from "./server.ts";
import { whilePortIsTaken } from "./transport/taken-port.ts";

/** What a worker cannot read from the environment: PORT=0 is one port for all, and the embedded server is the primary's. */
export interface Start {
  number: number;
  port: number;
  address: DatabaseAddress;
}

export type Metrics = Awaited<ReturnType<Registry["getMetricsAsJSON"]>>;

/** A worker says hello, gets `start`, reports that it listens and, once all do, gets `open` (SERVING) and confirms it. */
export type ToWorker =
  | ({ kind: "start" } & Start)
  | { kind: "open" }
  | { kind: "drain" }
  | { kind: "reload" }
  | { kind: "report" }
  | { kind: "sum"; id: number; text: string };

/** `report` answers the primary; `sum` asks for the reports of all. */
export type ToPrimary =
  | { kind: "hello" }
  | { kind: "listening" }
  | { kind: "open" }
  | { kind: "report"; metrics: Metrics }
  | { kind: "sum"; id: number };

/** In a row, without a worker that listened in between: the next one would die too. */
const MAX_FAILED_STARTS = 5;
const REPORT_LIMIT_MS = 2_000;

interface Running {
  number: number;
  worker: Worker;
  state: "starting" | "listening" | "open";
  /** What it counted, as of its last report. */
  metrics: Metrics;
  /** Waiters for its next reports: it sends one for each, in order. */
  awaited: (() => void)[];
}

/** The service in several processes; all of them serve when this resolves. Disposing drains them, then the database. */
export async function startCluster(config: Config, log: Logger): Promise<Server> {
  assertSettings(config);
  await using starting = new AsyncDisposableStack();
  const database = starting.use(await openDatabase(config, (line) => log.info(line)));
  await makeSigningKey(config);
  const bootstrapKey = await prepare(database.orm, config, log);
  const port = await availablePort(config, log);
  const workers = starting.use(startWorkers(config, { port, address: database.address }, log));
  const failed = Promise.race([database.lost, workers.failed]);
  const failure = await Promise.race([workers.opened, failed]);
  if (failure !== undefined) throw new Error(failure);
  const started = starting.move();
  return {
    port,
    reload: workers.reload,
    bootstrapKey,
    failed,
    open: workers.open,
    async abandon() {
      workers.kill();
      await database.stopServer();
    },
    [Symbol.asyncDispose]: () => started.disposeAsync(),
  };
}

/** The port that PORT=0 comes to, for workers that are started later too. Rejects where it cannot be had. */
async function availablePort({ host, port }: Config, log: Logger): Promise<number> {
  const server = await whilePortIsTaken(log, port, async () => {
    const one = createServer().listen({ host, port });
    await once(one, "listening");
    return one;
  });
  const { port: available } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return available;
}

interface Workers extends AsyncDisposable {
  /** Resolves when all listen and say SERVING. */
  opened: Promise<void>;
  /** Resolves, with the reason, when there is no use in starting another one. */
  failed: Promise<string>;
  /** Those that have not ended yet. */
  open(): { workers: number };
  kill(): void;
  /** Sends to every worker. */
  reload(): void;
}

function startWorkers(config: Config, start: Omit<Start, "number">, log: Logger): Workers {
  const running = new Map<number, Running>();
  const opened = Promise.withResolvers<void>();
  const failed = Promise.withResolvers<string>();
  const ended = Promise.withResolvers<void>();
  let phase: "starting" | "open" | "stopping" = "starting";
  let failedStarts = 0;
  /** Counts of workers that have ended: a sum that fell would be a restart, and a leap, to Prometheus. */
  let past: Metrics = [];

  function startWorker(number: number): void {
    const worker = cluster.fork();
    const closeUntaken = untakenConnection(worker);
    const one: Running = { number, worker, state: "starting", metrics: [], awaited: [] };
    running.set(number, one);
    worker.on("message", (message: ToPrimary) => received(one, message));
    worker.once("exit", (code, signal) => {
      closeUntaken();
      onEnd(one, { code, signal });
    });
    // A process that could not be spawned has no exit. Else: a connection or a message for one that has just died.
    worker.on("error", (error) => {
      if (worker.process.pid === undefined) onEnd(one, { error: error.message });
    });
  }

  function received(one: Running, message: ToPrimary): void {
    switch (message.kind) {
      case "hello":
        // Not before: what is sent to a process that does not listen yet is lost.
        return tell(one, phase === "stopping" ? { kind: "drain" } : { kind: "start", number: one.number, ...start });
      case "listening":
        one.state = "listening";
        failedStarts = 0;
        if (phase === "open") return tell(one, { kind: "open" });
        if (phase === "starting" && all("listening")) {
          phase = "open";
          for (const other of running.values()) tell(other, { kind: "open" });
        }
        return;
      case "open":
        one.state = "open";
        if (all("open")) opened.resolve();
        return;
      case "report":
        one.metrics = message.metrics;
        return one.awaited.shift()?.();
      case "sum":
        void sum().then((text) => tell(one, { kind: "sum", id: message.id, text }));
    }
  }

  const all = (state: Running["state"]) => Array.from(running.values()).every((one) => one.state === state);

  function onEnd(one: Running, how: { code?: number; signal?: string; error?: string }): void {
    if (running.get(one.number) !== one) return;
    running.delete(one.number);
    past = countersOf([past, one.metrics]);
    for (const resolve of one.awaited) resolve();
    if (phase === "stopping") {
      if (running.size === 0) ended.resolve();
      return;
    }
    log.warn({ number: one.number, pid: one.worker.process.pid, ...how }, "a worker ended");
    if (one.state === "starting") failedStarts += 1;
    if (failedStarts < MAX_FAILED_STARTS) startWorker(one.number);
    else failed.resolve(`${failedStarts} workers in a row ended before they could serve: see what they wrote`);
  }

  /** The metrics of all, requested anew; one that does not answer in time counts with its last report. */
  async function sum(): Promise<string> {
    const reports = Array.from(running.values(), (one) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      one.awaited.push(resolve);
      tell(one, { kind: "report" });
      return promise;
    });
    const limit = Promise.withResolvers<void>();
    const timer = setTimeout(limit.resolve, REPORT_LIMIT_MS);
    await Promise.race([Promise.all(reports), limit.promise]);
    clearTimeout(timer);
    return AggregatorRegistry.aggregate([past, ...Array.from(running.values(), (one) => one.metrics)]).metrics();
  }

  async function stop(): Promise<void> {
    phase = "stopping";
    if (running.size === 0) return;
    for (const one of running.values()) tell(one, { kind: "drain" });
    const limit = setTimeout(
      () => {
        for (const { number, worker } of running.values()) {
          log.error({ number, pid: worker.process.pid }, "a worker did not end in time: killed");
          worker.process.kill("SIGKILL");
        }
      },
      config.lameDuckMs + Math.max(0, config.drainTimeoutMs - 200),
    );
    await ended.promise;
    clearTimeout(limit);
  }

  // Round-robin among the free workers, the default everywhere but on Windows: the kernel's own choice is less even,
  // and callers come with few, long-lived connections.
  cluster.schedulingPolicy = cluster.SCHED_RR;
  for (let number = 1; number <= config.workers; number++) startWorker(number);
  const kill = () => {
    phase = "stopping";
    for (const { worker } of running.values()) worker.process.kill("SIGKILL");
  };
  const reload = () => {
    for (const one of running.values()) tell(one, { kind: "reload" });
  };
  const open = () => ({ workers: running.size });
  return { opened: opened.promise, failed: failed.promise, open, kill, reload, [Symbol.asyncDispose]: stop };
}

function tell({ worker }: Running, message: ToWorker): void {
  // Errors go to the callback: the worker is dying, and its exit comes.
  worker.process.send?.(message, undefined, {}, () => {});
}

/**
 * Closes the connection that was on its way to a worker which died: Node forgets it, still open, and its caller would
 * wait for ever (https://github.com/nodejs/node/issues/21746). A worker has one on its way at a time; to close one that
 * it took does nothing, for Node has closed it here.
 */
function untakenConnection({ process: child }: Worker): () => void {
  const send = child.send?.bind(child) as (...message: unknown[]) => boolean;
  let last: { close?(): void } | undefined;
  child.send = (message: unknown, handle?: unknown, ...rest: unknown[]) => {
    last = (handle as typeof last) ?? last;
    return send(message, handle, ...rest);
  };
  return () => last?.close?.();
}

/** The only metrics of ended processes that still count: their memory and their calls in flight are gone. */
function countersOf(processes: Metrics[]): Metrics {
  const counters = processes.map((metrics) =>
    metrics.filter(({ type }) => ["counter", "histogram"].includes(String(type))),
  );
  return AggregatorRegistry.aggregate(counters).getMetricsAsArray() as Metrics;
}
