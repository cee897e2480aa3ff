// The client of EntityService where there is fetch and no Node: browsers, edge runtimes, Deno. Connect over fetch.
import { createConnectTransport } from "@connectrpc/connect-web";
import { authorization, type ClientOptions, type EntityClient, entityClientOver } from "./client.ts";

export * from "./exports.ts";

export interface EntityClientOptions extends ClientOptions {
  /** Where the service is, such as "https://entities.example.com"; in a page that it serves itself, `location.origin`. */
  baseUrl: string;
  /** Default: the platform's. */
  fetch?: typeof globalThis.fetch;
}

/**
 * A client of all services. Errors are ConnectError with google.rpc.ErrorInfo. `importEntities` is refused: fetch sends no
 * streams.
 */
export function createEntityClient({
  baseUrl,
  apiKey,
  fetch,
  interceptors = [],
  ...options
}: EntityClientOptions): EntityClient {
  const transport = createConnectTransport({
    baseUrl,
    interceptors: [...interceptors, authorization(apiKey)],
    useBinaryFormat: true,
    ...(fetch && { fetch }),
  });
  return entityClientOver(transport, options);
}
