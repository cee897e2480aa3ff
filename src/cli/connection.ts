// How the command line reaches the service, and what it says when that fails.
import { ConnectError } from "@connectrpc/connect";
import { createEntityClient, type EntityClient, errorInfo } from "../../clients/typescript/index.ts";
import { ConfigError } from "../config.ts";
import { DomainError } from "../domain/errors.ts";

export type Env = Record<string, string | undefined>;

const DEFAULT_URL = "http://127.0.0.1:50051";

/** For every unary call: the client does not wait for a service that does not answer. */
export const CALL = { timeoutMs: 15_000 };

/** Where the service is. Throws ConfigError. */
export function urlOf(env: Env): string {
  const text = env.ENTITY_SERVICE_URL?.trim() || DEFAULT_URL;
  if (!URL.canParse(text) || !/^https?:$/.test(new URL(text).protocol)) {
    throw new ConfigError(
      `ENTITY_SERVICE_URL must be a URL that begins with http:// or https://, such as ${DEFAULT_URL}`,
    );
  }
  return text;
}

/** The client of the service that the environment names. Throws ConfigError. */
export function connect(env: Env): EntityClient {
  const baseUrl = urlOf(env);
  const apiKey = env.ENTITY_SERVICE_API_KEY?.trim() ?? "";
  if (apiKey === "") {
    throw new ConfigError(
      "ENTITY_SERVICE_API_KEY is not set: set it to the secret of an API key. " +
        "That of a new service is in the file bootstrap-key in its DATA_DIR (.data/bootstrap-key by default)",
    );
  }
  if (!/^[\x21-\x7e]+$/.test(apiKey))
    throw new ConfigError("ENTITY_SERVICE_API_KEY must be the secret of an API key alone");
  return createEntityClient({ retries: false, baseUrl, apiKey, source: "cli" });
}

/** One line for the user: reason, message, and what to do about it. Holds no value of a request. */
export function describe(error: unknown, env: Env): string {
  return explain(error, env).replaceAll(/\s*[\r\n]+\s*/g, " ");
}

function explain(error: unknown, env: Env): string {
  if (error instanceof DomainError) return `${error.reason}: ${error.message}`;
  if (!(error instanceof ConnectError)) return error instanceof Error ? error.message : String(error);
  const info = errorInfo(error);
  if (info === undefined) {
    const network = networkCode(error);
    if (network === undefined) return `${error.message} (at ${urlOf(env)})`;
    const speaks = otherScheme(network, urlOf(env));
    if (speaks !== undefined) return `${speaks} (${network}): set ENTITY_SERVICE_URL accordingly`;
    return `nothing answers at ${urlOf(env)} (${network}): start the service with 'entity-service serve', or set ENTITY_SERVICE_URL to where it is`;
  }
  const others = info.fieldViolations
    .slice(1)
    .map(({ field, description }) => `; ${field}: ${description}`)
    .join("");
  const cure = cureOf(info.reason, info.metadata);
  return `${info.reason}: ${error.rawMessage}${others}${cure === undefined ? "" : ` - ${cure}`}`;
}

function cureOf(reason: string, metadata: Record<string, string>): string | undefined {
  switch (reason) {
    case "UNAUTHENTICATED":
      return "set ENTITY_SERVICE_API_KEY to the secret of a key that is neither revoked nor expired";
    case "PERMISSION_DENIED":
      return `use a key that has the scope ${metadata.scope}: 'entity-service keys create --name NAME --scope ${metadata.scope}'`;
    case "AMBIGUOUS_TAX_ID_LOOKUP":
      return `the candidates: ${metadata.candidates?.replaceAll(",", ", ")}`;
    case "MERGE_NOT_ALLOWED":
      return metadata.cause === "MERGED_SINCE"
        ? `entity-service entities unmerge --merge ${metadata.merge_id} --reason TEXT`
        : undefined;
    case "OVERLOADED":
    case "DATABASE_UNAVAILABLE":
    case "COMMIT_UNKNOWN":
      return "run the command again in a moment";
    default:
      return undefined;
  }
}

/** What to say where the one side speaks TLS and the other does not. */
function otherScheme(code: string, url: string): string | undefined {
  const isTls = url.startsWith("https:");
  if (isTls && /^(EPROTO|ERR_SSL_.*|ECONNRESET)$/.test(code))
    return `what listens at ${url} speaks no TLS, so use http:// in place of https://`;
  return undefined;
}

/** Node's word for a connection that failed; undefined for any other error, such as one of the disk. */
export const networkCode = (error: unknown): string | undefined =>
  error instanceof ConnectError ? codeOf(error) : undefined;

function codeOf(error: unknown): string | undefined {
  for (let e = error; e instanceof Error; e = e.cause) {
    const code = (e as Error & { code?: unknown }).code;
    if (typeof code === "string" && /^(E[A-Z]+|ERR_HTTP2_[A-Z_]+|ERR_SSL_[A-Z0-9_]+|[A-Z_]*CERT[A-Z_]*)$/.test(code))
      return code;
    if (e instanceof AggregateError && e.errors.length > 0) return codeOf(e.errors[0]);
  }
  return undefined;
}
