// The composition root: database, RPCs, transport; and the order in which they begin and end.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { startMaker } from "./audit/maker.ts";
import { makeSigningKey, signingKey, warnIfUnsigned } from "./audit-key.ts";
import { createBell } from "./bell.ts";
import { type Config, ConfigError } from "./config.ts";
import { createConsole } from "./console/console.ts";
import { DEFAULT_ORGANIZATION_ID, managerAcross } from "./db/across.ts";
import { bootstrap, findApiKeys } from "./db/api-keys.ts";
import { type Database, openDatabase } from "./db/database.ts";
import { measurePool } from "./db/metrics.ts";
import { dropWaiting, isServable, type Orm } from "./db/orm.ts";
import { startPruner } from "./db/retention.ts";
import { assertMayPublish, assertSafeRole } from "./db/roles.ts";
import { describe } from "./defects.ts";
import { trackAliasUse } from "./entities/alias-use.ts";
import { createPastReader } from "./entities/as-it-was.ts";
import { startNameFiller } from "./entities/fill-names.ts";
import { createReader } from "./entities/reader.ts";
import { tellOfOlderTaxIds } from "./entities/recheck-tax-ids.ts";
import { createWriter } from "./entities/writer.ts";
import { cachedCallers } from "./interceptors/cached-callers.ts";
import { within } from "./interceptors/deadline.ts";
import { type MetricsSource, ownMetrics, registerBuild } from "./interceptors/telemetry.ts";
import { readHead } from "./log/head.ts";
import { createFeed } from "./log/watch.ts";
import { startNatsSink } from "./nats/sink.ts";
import { createFactsReader } from "./risk/evaluations.ts";
import { createEvaluator } from "./risk/evaluator.ts";
import { ENDLESS_METHODS, LARGE_METHODS, routes } from "./routes.ts";
import { assertWellFormed } from "./rpc/well-formed.ts";
import { writeSecretFile } from "./secret-file.ts";
import type { OpenThings } from "./signals.ts";
import { createSlots } from "./slots.ts";
import { createAdapter } from "./transport/adapter.ts";
import { listenForAdmin } from "./transport/admin.ts";
import { readTls, watchTls } from "./transport/certificates.ts";
import { createReadiness } from "./transport/health.ts";
import { listen } from "./transport/listener.ts";
import { whilePortIsTaken } from "./transport/taken-port.ts";
import { createTally } from "./transport/tally.ts";
import { createDispatcher } from "./webhooks/dispatcher.ts";
import { createSender } from "./webhooks/send.ts";
import { type AllowList, parseAllowList } from "./webhooks/url.ts";

export interface Server extends AsyncDisposable {
  port: number;
  /** Reads again what may have changed: the files of TLS. */
  reload(): void;
  /** The secret of the key that was made for an empty database, and the file it was written to. */
  bootstrapKey: { secret: string; file: string } | undefined;
  /** Resolves when the service cannot go on, with the reason. */
  failed: Promise<string>;
  /** What has not ended yet, by kind. */
  open(): OpenThings;
  /** Leaves what is in hand as it is, and ends the embedded database in good order: the process must end next. */
  abandon(): Promise<void>;
}

/** How far the clock of the webhooks' schedule is ahead of the database's, in milliseconds: tests do not wait for days. */
interface WebhookClock {
  webhookClock?: () => number;
}

const { version: VERSION } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as {
  version: string;
};
const READINESS_CHECK_MS = 2_000;
/** Calls of one kind and one organization that wait for their turn at the database. */
const MAX_WAITING = 1_000;

/** The service in this process alone; it serves when this resolves. Disposing drains: not ready, GOAWAY, calls in flight, then the database. */
export async function startServer(
  config: Config,
  log: Logger,
  options: { database?: Database } & WebhookClock = {},
): Promise<Server> {
  assertSettings(config);
  await using starting = new AsyncDisposableStack();
  const own = options.database === undefined ? await openDatabase(config, (line) => log.info(line)) : undefined;
  if (own !== undefined) starting.use(own);
  const database = (options.database ?? own) as Database;
  if (own !== undefined) await makeSigningKey(config);
  const bootstrapKey = await prepare(database.orm, config, log);
  const endpoint = starting.use(await listenOn(database.orm, config, log, options));
  await endpoint.begin();
  const started = starting.move();
  return {
    port: endpoint.port,
    reload: endpoint.reload,
    bootstrapKey,
    failed: database.lost,
    open: endpoint.open,
    abandon: async () => own?.stopServer(),
    [Symbol.asyncDispose]: () => started.disposeAsync(),
  };
}

/** Before anything is made: throws ConfigError for what readConfig cannot tell. */
export function assertSettings(config: Config): void {
  allowList(config);
}

/** Throws ConfigError. */
function allowList(config: Config): AllowList {
  try {
    return parseAllowList(config.webhookAllow);
  } catch (error) {
    throw new ConfigError(`WEBHOOK_ALLOW: ${error instanceof Error ? error.message : "cannot be read"}`);
  }
}

/** What is done once, however many processes serve: refuses an unsafe role, makes the first key of a new database. */
export async function prepare(orm: Orm, config: Config, log: Logger): Promise<Server["bootstrapKey"]> {
  await assertSafeRole(managerAcross(orm));
  if (config.nats !== undefined) await assertMayPublish(managerAcross(orm));
  // Before anybody has a position: has the database been restored?
  await readHead(orm, DEFAULT_ORGANIZATION_ID);
  await warnIfUnsigned(config, log);
  const file = join(config.dataDir, "bootstrap-key");
  const secret = await bootstrap(orm, config.bootstrapApiKey, (made) => keepSecret(file, made));
  return secret === undefined ? undefined : { secret, file };
}

async function keepSecret(file: string, secret: string): Promise<void> {
  try {
    await writeSecretFile(file, `${secret}\n`, new Date());
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? "it failed";
    throw new ConfigError(
      `the first API key cannot be written to ${file} (${code}), and none was made: set BOOTSTRAP_API_KEY to a key of your own, or DATA_DIR to a folder that can be written`,
      { cause },
    );
  }
}

/** The port, served by this process. */
export interface ServedPort extends AsyncDisposable {
  port: number;
  /** Says SERVING from now on, for as long as the database answers. Calls are served before that too. */
  begin(): Promise<void>;
  /** What has not ended yet, by kind. */
  open(): OpenThings;
  reload(): void;
}

/** Connections for the writes of all organizations together, of which two do most of what four do. */
const lanesOf = ({ poolSize }: Config): number => Math.min(4, Math.max(2, Math.floor(poolSize * 0.4)));

/** Serves what `prepare` has prepared; needs no database to begin. Disposing drains. */
export async function listenOn(
  orm: Orm,
  config: Config,
  log: Logger,
  options: { metrics?: MetricsSource } & WebhookClock = {},
): Promise<ServedPort> {
  const callers = cachedCallers((secrets) => findApiKeys(orm, secrets));
  // A call that may wait for a lock holds a connection: a quarter of them is left to calls that do not.
  const slots = createSlots(Math.max(1, Math.floor(config.poolSize / 2)), { maxWaiting: MAX_WAITING });
  const busySlots = createSlots(Math.max(1, Math.floor(config.poolSize / 4)));
  const readSlots = createSlots(Math.max(1, Math.floor(config.poolSize / 2)), { maxWaiting: MAX_WAITING });
  const importSlots = createSlots(Math.max(1, Math.floor(config.poolSize / 4)));
  const bell = createBell();
  const feed = createFeed(orm, { readers: Math.max(1, Math.floor(config.poolSize / 4)), bell });
  const allow = allowList(config);
  const { webhookClock = () => 0 } = options;
  const metrics = options.metrics ?? ownMetrics();
  await measurePool(orm, metrics.registry);
  const aliasUse = trackAliasUse(orm, { intervalMs: config.aliasUseIntervalMs, log });
  const evaluator = createEvaluator();
  const deps = {
    orm,
    evaluator,
    riskFacts: createFactsReader(orm, readSlots),
    aliasUse,
    reader: createReader(orm, { slots: readSlots, named: aliasUse.named }),
    pastReader: createPastReader(orm, { ...config, slots, readSlots, named: aliasUse.named }),
    writer: createWriter(orm, { slots, busySlots, lockTimeoutMs: config.lockTimeoutMs, bell, lanes: lanesOf(config) }),
    feed,
    bell,
    slots,
    readSlots,
    // An import holds its place for as long as its caller likes.
    maxImports: Math.max(1, Math.floor(config.maxInFlight / 4)),
    importSlots,
    exportSlots: createSlots(Math.max(1, Math.floor(config.poolSize / 5))),
    auditSlots: createSlots(Math.max(1, Math.floor(config.poolSize / 5))),
    clock: Date.now,
    forgetCallers: callers.forget,
    webhookUrls: allow,
    webhookClock,
  };
  const readiness = createReadiness();
  const shutdown = new AbortController();
  const tls = config.tls && (await readTls(config.tls));
  const tally = createTally({ log, registry: metrics.registry });
  const pages = createConsole({ ...config, isOn: config.console, version: VERSION, log });
  const { inFlight, ...adapter } = createAdapter({
    services: (router) => routes(router, deps),
    check: assertWellFormed,
    findCaller: callers,
    readiness,
    shutdownSignal: shutdown.signal,
    large: LARGE_METHODS,
    endless: ENDLESS_METHODS,
    limits: config,
    metrics,
    tally,
    log,
    findPage: pages.find,
  });
  const { host, port } = config;
  const listener = await whilePortIsTaken(log, port, () => listen({ host, port, tls, tally, log, ...adapter }));
  const certificates =
    config.tls && tls && watchTls(config.tls, tls, { everyMs: config.tlsReloadMs, use: listener.setTls, log });
  registerBuild(metrics.registry, { version: VERSION, readiness });
  const admin =
    config.metricsPort === undefined
      ? undefined
      : await listenForAdmin({ host: config.host, port: config.metricsPort, readiness, metrics, log });
  const sender = createSender({ allow, timeoutMs: config.webhookTimeoutMs });
  const dispatcher = createDispatcher({
    orm,
    sender,
    connections: Math.max(1, Math.floor(config.poolSize / 4)),
    inFlight,
    bell,
    clockOffsetMs: webhookClock,
    version: VERSION,
    registry: metrics.registry,
    log,
    describe,
  });
  const { pruneIntervalMs, pruneRows: rows, webhookLogDays } = config;
  const pruner = startPruner(orm, { intervalMs: pruneIntervalMs, rows, webhookLogDays, log });
  const filler = startNameFiller(orm, { log, describe });
  await tellOfOlderTaxIds(orm, { log, describe });
  const making = { everySeconds: config.auditCheckpointSeconds, key: await signingKey(config) };
  const maker = startMaker(orm, { ...making, registry: metrics.registry, log, describe });
  let checks: NodeJS.Timeout | undefined;
  let sink: AsyncDisposable | undefined;
  let checking: Promise<void> | undefined;
  const setReady = (ready: boolean) => {
    if (!shutdown.signal.aborted) readiness.set(ready);
  };
  /** One look at a time: a database that hangs is not asked by ever more. A look that hangs says what one that fails does. */
  const check = () => {
    checking ??= isReady(orm).then((ready) => {
      checking = undefined;
      setReady(ready);
    });
    return within(checking, READINESS_CHECK_MS, () => new Error("the database does not answer")).catch(() =>
      setReady(false),
    );
  };
  return {
    port: listener.port,
    async begin() {
      checks = setInterval(check, READINESS_CHECK_MS).unref();
      await check();
      if (config.nats !== undefined && !shutdown.signal.aborted)
        sink = startNatsSink(orm, config.nats, { log, registry: metrics.registry, bell });
    },
    open: () => ({ calls: inFlight(), ...listener.open() }),
    reload: async () => certificates?.check(),
    async [Symbol.asyncDispose]() {
      clearInterval(checks);
      certificates?.[Symbol.dispose]();
      pages[Symbol.dispose]();
      readiness.set(false);
      // Periodic health checks learn of it before the port is closed.
      await sleep(config.lameDuckMs);
      shutdown.abort();
      const timeoutMs = Math.max(0, config.drainTimeoutMs - closingMs(config.drainTimeoutMs));
      const ends = [pruner, filler, maker].map((one) => one[Symbol.asyncDispose]());
      await Promise.all([listener.drain(timeoutMs), dispatcher.drain(timeoutMs), ...ends]);
      // No caller is left to use any: what was used until now is written, unless the database does not answer.
      await aliasUse.drain(closingMs(config.drainTimeoutMs) / 2);
      await evaluator[Symbol.asyncDispose]();
      // Whatever still waits for the database would delay the end of the pool.
      await dropWaiting(orm);
      await Promise.all([sender[Symbol.asyncDispose](), sink?.[Symbol.asyncDispose](), admin?.[Symbol.asyncDispose]()]);
    },
  };
}

/** The part of the time to drain in which the database is closed, once the calls have ended or were cut off. */
const closingMs = (drainTimeoutMs: number) => Math.min(3_000, drainTimeoutMs / 4);

/** Ready: the database answers, can be written, and has every migration. */
async function isReady(orm: Orm): Promise<boolean> {
  try {
    return await isServable(orm);
  } catch {
    return false;
  }
}
