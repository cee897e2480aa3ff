// A receiver of webhooks that answers by script, and keeps the requests; and the clock of the schedule.
import type { IncomingHttpHeaders, ServerResponse } from "node:http";
import { Webhook } from "standardwebhooks";
import type { EntityClient, WebhookDelivery, WebhookEndpoint } from "../clients/typescript/index.ts";
import { httpReceiver } from "./webhook-receivers.ts";

export interface Received {
  /** performance.now() of its arrival. */
  at: number;
  path: string;
  headers: IncomingHttpHeaders;
  /** The webhook-id. */
  id: string;
  body: string;
  json: Record<string, unknown> & { event: string; entityId: string };
  /** The entity's version. */
  version: number;
}

/** How a request ends: a status with headers, or a failure of the connection. */
export type Reply =
  | number
  | { status: number; headers: Record<string, string> }
  /** 200, after a delay. */
  | { afterMs: number }
  | "reset"
  | "garbage"
  | "silence";

export interface ScriptedReceiver extends AsyncDisposable {
  /** The URL of a path: a path for each endpoint keeps their requests apart. */
  url(path?: string): string;
  requests: Received[];
  to(path: string): Received[];
  /** Waits for N requests in all; fails after the time. */
  count(wanted: number, timeoutMs?: number): Promise<Received[]>;
  answer: (request: Received) => Reply;
}

/** For what is waited for, not measured. */
const LONG_MS = 30_000;

export async function startReceiver(answer: (request: Received) => Reply = () => 200): Promise<ScriptedReceiver> {
  const requests: Received[] = [];
  const server = await httpReceiver(async (request, response) => {
    let body = "";
    for await (const chunk of request.setEncoding("utf8")) body += chunk;
    const { headers, url: path = "" } = request;
    const received: Received = {
      at: performance.now(),
      path,
      headers,
      id: String(headers["webhook-id"]),
      body,
      json: JSON.parse(body),
      version: Number(headers["x-entity-version"]),
    };
    requests.push(received);
    reply(receiver.answer(received), response);
  });
  const receiver: ScriptedReceiver = {
    url: (path = "/hook") => `http://127.0.0.1:${server.port}${path}`,
    requests,
    to: (path) => requests.filter((request) => request.path === path),
    async count(wanted, timeoutMs = LONG_MS) {
      await eventually(() => requests.length >= wanted || `${requests.length} of ${wanted} requests came`, timeoutMs);
      return requests;
    },
    answer,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
  return receiver;
}

function reply(how: Reply, response: ServerResponse): void {
  if (how === "reset") response.socket?.resetAndDestroy();
  else if (how === "garbage") response.socket?.end("this is no HTTP\r\n\r\n");
  else if (how === "silence") return;
  else if (typeof how === "number") response.writeHead(how).end("ok");
  else if ("afterMs" in how) setTimeout(() => response.writeHead(200).end(), how.afterMs);
  else response.writeHead(how.status, how.headers).end();
}

/** Waits until it returns true; fails with the text that it returns instead. */
export async function eventually(
  isTrue: () => boolean | string | Promise<boolean | string>,
  timeoutMs = LONG_MS,
): Promise<void> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const said = await isTrue();
    if (said === true) return;
    if (performance.now() > end) throw new Error(`late: ${said}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Time for something that must not happen: twice the dispatcher's polling interval. */
export const quietly = () => new Promise((resolve) => setTimeout(resolve, 700));

/** Throws unless the request was signed with the secret; uses the package that receivers use. */
export function verify(secret: string, request: Received): void {
  new Webhook(secret).verify(request.body, request.headers as Record<string, string>);
}

/** An endpoint at a receiver. */
export async function newEndpoint(
  client: EntityClient,
  url: string,
  more: Parameters<EntityClient["webhooks"]["createWebhookEndpoint"]>[0]["endpoint"] = {},
): Promise<WebhookEndpoint & { secret: string }> {
  const { endpoint, secret } = await client.webhooks.createWebhookEndpoint({
    endpoint: { url, displayName: "test", ...more },
  });
  if (endpoint === undefined) throw new Error("no endpoint in the answer");
  return Object.assign(endpoint, { secret });
}

/** The deliveries of an endpoint, oldest first. */
export async function deliveriesOf(client: EntityClient, endpoint: { id: string }): Promise<WebhookDelivery[]> {
  const { deliveries } = await client.webhooks.listWebhookDeliveries({ endpointId: endpoint.id, pageSize: 1000 });
  return deliveries.toReversed();
}
