// A receiver of webhooks that answers by script, and keeps what came.
import { once } from "node:events";
import { createServer, type IncomingHttpHeaders, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { Webhook } from "standardwebhooks";

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

/** How a request ends: a status with headers, or something that is no answer. */
export type Reply =
  | number
  | { status: number; headers?: Record<string, string> }
  | "reset"
  | "garbage"
  /** No answer, for as long as the receiver lives. */
  | "silence"
  /** An answer of 200 after so long. */
  | { afterMs: number };

export interface Receiver extends AsyncDisposable {
  /** With a path of its own for each name, under which requests are kept apart. */
  url(path?: string): string;
  requests: Received[];
  /** Those to a path. */
  to(path: string): Received[];
  /** Waits for so many requests in all; fails after the time. */
  count(wanted: number, timeoutMs?: number): Promise<Received[]>;
  /** What the next ones are answered. Default: 200. */
  answer: (request: Received) => Reply;
  /** Requests that have no answer yet. */
  open(): number;
}

export async function startReceiver(answer: (request: Received) => Reply = () => 200): Promise<Receiver> {
  const requests: Received[] = [];
  const sockets = new Set<Socket>();
  let open = 0;
  const server = createServer(async (request, response) => {
    open += 1;
    response.once("close", () => {
      open -= 1;
    });
    const at = performance.now();
    let body = "";
    for await (const chunk of request.setEncoding("utf8")) body += chunk;
    const received: Received = {
      at,
      path: request.url ?? "",
      headers: request.headers,
      id: String(request.headers["webhook-id"]),
      body,
      json: JSON.parse(body),
      version: Number(request.headers["x-entity-version"]),
    };
    requests.push(received);
    reply(receiver.answer(received), response);
  });
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.once("close", () => sockets.delete(socket));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;

  const receiver: Receiver = {
    url: (path = "/hook") => `http://127.0.0.1:${port}${path}`,
    requests,
    to: (path) => requests.filter((request) => request.path === path),
    async count(wanted, timeoutMs = 5_000) {
      const end = performance.now() + timeoutMs;
      while (requests.length < wanted) {
        if (performance.now() > end) throw new Error(`late: ${requests.length} of ${wanted} requests came`);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      return requests;
    },
    answer,
    open: () => open,
    async [Symbol.asyncDispose]() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
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

/** Throws unless the request was signed with the secret, by the package that receivers use. */
export function verify(secret: string, request: Received): void {
  new Webhook(secret).verify(request.body, request.headers as Record<string, string>);
}
