// Every setting with its default and bound, in one place. Pure: the environment comes in as an argument.
// docs/operate/configuration.md has those that an operator should know. The limits of values are in domain/limits.ts, beside the rules.

export interface Config {
  /** Run-time role. Undefined: the embedded server. */
  databaseUrl: string | undefined;
  /** Owner role, for migrations; defaults to databaseUrl. */
  migrationDatabaseUrl: string | undefined;
  /** Folder of the embedded server, of the bootstrap key and of the console once it is built. */
  dataDir: string;
  host: string;
  port: number;
  /** Processes that serve the port; over 1, one more holds the database and watches them. */
  workers: number;
  tls: { cert: string; key: string; clientCa: string | undefined } | undefined;
  /** How often the files of TLS are read again, in milliseconds. */
  tlsReloadMs: number;
  bootstrapApiKey: string | undefined;
  /** Where every event is published to; undefined: nowhere. */
  nats:
    | {
        servers: string[];
        user: string | undefined;
        password: string | undefined;
        token: string | undefined;
        stream: string;
      }
    | undefined;
  logLevel: string;
  /** Serve the console at /console. */
  console: boolean;
  /** Where the documents are, which GET / links to. */
  docsUrl: string | undefined;
  /** Serve unary calls and server streams of gRPC straight from the HTTP/2 stream; off, by the library like everything else. */
  unaryPath: boolean;
  /** Connections to the database, per process. */
  poolSize: number;
  /** Calls in flight in one process before the next is refused with OVERLOADED. */
  maxInFlight: number;
  /** Watches at once, which are not counted among the calls in flight. */
  maxWatches: number;
  /** Bytes of one message: unary calls, and batches and imports. */
  maxMessageBytes: number;
  maxBatchMessageBytes: number;
  /** Deadline of a call that names none, and the longest that one may name, in milliseconds. */
  defaultTimeoutMs: number;
  maxTimeoutMs: number;
  /** Time for a request body to arrive, and for the next row of an import, in milliseconds. */
  bodyTimeoutMs: number;
  streamIdleTimeoutMs: number;
  /** Time between NOT_SERVING and the drain, in which all is served as before, in milliseconds. */
  lameDuckMs: number;
  /** Time for calls in flight to end after that, and for the process with them, in milliseconds. */
  drainTimeoutMs: number;
  /** Port of /metrics and /health without TLS and keys, of the host alone; undefined: none. */
  metricsPort: number | undefined;
  /** How often old rows are looked for, in milliseconds, and how many are removed at once. */
  pruneIntervalMs: number;
  pruneRows: number;
  /** How often the days on which aliases were last used are written, in milliseconds. */
  aliasUseIntervalMs: number;
  /** Hosts, host:port and networks that webhooks may be sent to though they are not public, separated by commas. */
  webhookAllow: string;
  /** Time for one attempt to deliver a webhook, in milliseconds. */
  webhookTimeoutMs: number;
  /** For how many days the outcome of a webhook is kept. */
  webhookLogDays: number;
  /** How old the last checkpoint of a log is before the next one is made, in seconds; undefined: this process makes none. */
  auditCheckpointSeconds: number | undefined;
  /** The key that signs checkpoints, a PEM file; undefined: audit-key in dataDir with the embedded server, else none. */
  auditSigningKey: string | undefined;
  /** Limits of the database session, in milliseconds. */
  statementTimeoutMs: number;
  lockTimeoutMs: number;
}

/** Connections that the embedded server is made for at most: each is a process, on the machine of the service. */
const MAX_EMBEDDED_CONNECTIONS = 2_000;

/** A setting that cannot be used; the text names the variable, never its value. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

/** An address of IPv4 or IPv6: no name of a host has a colon, or digits and dots alone. */
const ADDRESS = /^[\d.]+$|:/;

/** What is wrong with the URL of a database, without quoting any of it: it holds a password. */
function databaseUrlProblem(value: string): string | undefined {
  const [, hosts] = /^postgres(?:ql)?:\/\/(?:[^/?#]*@)?([^/?#]*)/.exec(value) ?? [];
  if (hosts === undefined) return "must be a URL that begins with postgres:// or postgresql://";
  const url = URL.parse(value);
  if (hosts.includes(",") || url?.searchParams.get("host")?.includes(",")) {
    return "names several hosts: name one, such as a proxy or a DNS name that leads to the primary. Every connection is checked to be one to the primary";
  }
  if (url === null) return "cannot be read as a URL: special characters in user and password must be percent-encoded";
  const [mode, authority] = ["sslmode", "sslrootcert"].map((name) => url.searchParams.get(name));
  if (mode === null) {
    return authority === null ? undefined : "has sslrootcert without sslmode: add sslmode=verify-full";
  }
  if (mode === "allow" || mode === "prefer") {
    return `has sslmode=${mode}, by which whoever is in between may choose that nothing is encrypted: use require, verify-ca, verify-full or disable`;
  }
  if (!["disable", "require", "verify-ca", "verify-full"].includes(mode as string)) {
    return "has an sslmode that is none of disable, require, verify-ca, verify-full";
  }
  if (mode === "verify-ca" && authority === null)
    return "has sslmode=verify-ca, which needs sslrootcert=/path/to/ca.pem";
  if (mode !== "verify-full" && authority === "system")
    return `has sslrootcert=system, which needs sslmode=verify-full`;
  // pg names no server to TLS for an address, and Node would compare the certificate with "localhost".
  const host = url.searchParams.get("host") ?? url.hostname.replaceAll(/[[\]]/g, "");
  if (mode === "verify-full" && ADDRESS.test(host)) {
    return "has sslmode=verify-full and an address as its host: use the name that the certificate has, or sslmode=verify-ca with sslrootcert";
  }
  return undefined;
}

/** Reads the environment. Throws ConfigError on the first variable that cannot be used. */
export function readConfig(env: Record<string, string | undefined>): Config {
  const text = (name: string) => (env[name] === "" ? undefined : env[name]);
  const integer = (name: string, fallback: number, min: number, max: number) => {
    const value = text(name);
    if (value === undefined) return fallback;
    const number = Number(value);
    if (!Number.isInteger(number) || number < min || number > max) {
      throw new ConfigError(`${name} must be a whole number from ${min} to ${max}`);
    }
    return number;
  };
  const flag = (name: string, fallback: boolean) => {
    const value = text(name) ?? (fallback ? "on" : "off");
    if (value !== "on" && value !== "off") throw new ConfigError(`${name} must be on or off`);
    return value === "on";
  };
  const url = (name: string) => {
    const value = text(name);
    const problem = value === undefined ? undefined : databaseUrlProblem(value);
    if (problem !== undefined) throw new ConfigError(`${name} ${problem}`);
    return value;
  };

  const nats = (): Config["nats"] => {
    const urls = text("NATS_URL")?.split(",");
    const stream = text("NATS_STREAM") ?? "ENTITY_EVENTS";
    if (!/^[A-Za-z0-9_-]{1,255}$/.test(stream))
      throw new ConfigError("NATS_STREAM must be letters, digits, '-' or '_'");
    if (urls === undefined) return undefined;
    const parsed = urls.map((one) => (/^(nats|tls):\/\/[^/]/.test(one) ? URL.parse(one) : null));
    const [first] = parsed;
    try {
      const [user, password] = [first?.username, first?.password].map((part = "") => decodeURIComponent(part));
      return {
        servers: parsed.map((one) => {
          if (one === null || !["", "/"].includes(one.pathname)) throw new URIError();
          return `${one.protocol}//${one.host}`;
        }),
        // nats://token@host: a name without a password is a token.
        user: user && password ? user : undefined,
        password: user && password ? password : undefined,
        token: user && !password ? user : undefined,
        stream,
      };
    } catch {
      throw new ConfigError(
        "NATS_URL must be a URL that begins with nats:// or tls://, or several with commas between",
      );
    }
  };

  const logLevel = text("LOG_LEVEL") ?? "info";
  if (!["fatal", "error", "warn", "info", "debug", "trace", "silent"].includes(logLevel)) {
    throw new ConfigError("LOG_LEVEL must be one of fatal, error, warn, info, debug, trace, silent");
  }
  const bootstrapApiKey = text("BOOTSTRAP_API_KEY");
  if (bootstrapApiKey !== undefined && !/^[A-Za-z0-9_-]{32,128}$/.test(bootstrapApiKey)) {
    throw new ConfigError("BOOTSTRAP_API_KEY must be 32 to 128 letters, digits, '-' or '_'");
  }
  const cert = text("TLS_CERT");
  const key = text("TLS_KEY");
  const clientCa = text("TLS_CLIENT_CA");
  if ((cert === undefined) !== (key === undefined)) {
    throw new ConfigError("TLS_CERT and TLS_KEY must be set together: two paths of PEM files");
  }
  if (clientCa !== undefined && cert === undefined) throw new ConfigError("TLS_CLIENT_CA needs TLS_CERT and TLS_KEY");
  const databaseUrl = url("DATABASE_URL");
  const migrationDatabaseUrl = url("MIGRATION_DATABASE_URL");
  if (migrationDatabaseUrl !== undefined && databaseUrl === undefined) {
    throw new ConfigError("MIGRATION_DATABASE_URL needs DATABASE_URL");
  }
  const workers = integer("WORKERS", 1, 1, 128);
  const poolSize = integer("POOL_SIZE", 10, 2, 200);
  if (databaseUrl === undefined && workers * poolSize > MAX_EMBEDDED_CONNECTIONS) {
    throw new ConfigError(
      `WORKERS times POOL_SIZE must be at most ${MAX_EMBEDDED_CONNECTIONS}: more connections than the embedded server is for; or set DATABASE_URL`,
    );
  }

  function docsUrl(): string | undefined {
    const value = text("DOCS_URL");
    if (value === undefined) return undefined;
    const url = URL.parse(value);
    if (url === null || !/^https?:$/.test(url.protocol))
      throw new ConfigError("DOCS_URL must be a URL of http or https");
    return url.href;
  }

  return {
    databaseUrl,
    migrationDatabaseUrl,
    dataDir: text("DATA_DIR") ?? ".data",
    host: text("HOST") ?? "127.0.0.1",
    port: integer("PORT", 50051, 0, 65535),
    workers,
    tls: cert !== undefined && key !== undefined ? { cert, key, clientCa } : undefined,
    tlsReloadMs: integer("TLS_RELOAD_MS", 10_000, 100, 86_400_000),
    bootstrapApiKey,
    nats: nats(),
    logLevel,
    console: flag("CONSOLE", databaseUrl === undefined),
    docsUrl: docsUrl(),
    unaryPath: flag("UNARY_PATH", true),
    poolSize,
    maxInFlight: integer("MAX_IN_FLIGHT", 512, 1, 100_000),
    maxWatches: integer("MAX_WATCHES", 2_000, 1, 100_000),
    maxMessageBytes: integer("MAX_MESSAGE_BYTES", 1024 * 1024, 1024, 64 * 1024 * 1024),
    maxBatchMessageBytes: integer("MAX_BATCH_MESSAGE_BYTES", 4 * 1024 * 1024, 1024, 64 * 1024 * 1024),
    defaultTimeoutMs: integer("DEFAULT_TIMEOUT_MS", 10_000, 1, 3_600_000),
    maxTimeoutMs: integer("MAX_TIMEOUT_MS", 60_000, 1, 3_600_000),
    bodyTimeoutMs: integer("BODY_TIMEOUT_MS", 10_000, 1, 3_600_000),
    streamIdleTimeoutMs: integer("STREAM_IDLE_TIMEOUT_MS", 60_000, 1, 3_600_000),
    lameDuckMs: integer("LAME_DUCK_MS", 500, 0, 600_000),
    metricsPort: text("METRICS_PORT") === undefined ? undefined : integer("METRICS_PORT", 0, 0, 65535),
    drainTimeoutMs: integer("DRAIN_TIMEOUT_MS", 20_000, 0, 3_600_000),
    pruneIntervalMs: integer("PRUNE_INTERVAL_MS", 60_000, 100, 86_400_000),
    pruneRows: integer("PRUNE_ROWS", 1_000, 1, 100_000),
    aliasUseIntervalMs: integer("ALIAS_USE_INTERVAL_MS", 60_000, 100, 86_400_000),
    webhookAllow: text("WEBHOOK_ALLOW") ?? "",
    webhookTimeoutMs: integer("WEBHOOK_TIMEOUT_MS", 15_000, 1, 60_000),
    webhookLogDays: integer("WEBHOOK_LOG_DAYS", 30, 2, 36_500),
    auditCheckpointSeconds: integer("AUDIT_CHECKPOINT_SECONDS", 60, 1, 86_400),
    auditSigningKey: text("AUDIT_SIGNING_KEY"),
    statementTimeoutMs: integer("STATEMENT_TIMEOUT_MS", 5_000, 1, 3_600_000),
    lockTimeoutMs: integer("LOCK_TIMEOUT_MS", 2_000, 1, 3_600_000),
  };
}
