// Where webhooks go: a process of its own that answers 204 to all, and each line on standard input with a line of JSON:
// its port, and how many requests have come.
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { createInterface } from "node:readline";

export interface Received {
  port: number;
  requests: number;
}

if (import.meta.main) {
  let requests = 0;
  const server = createServer((request, response) => {
    request.resume();
    request.once("end", () => {
      requests += 1;
      response.writeHead(204).end();
    });
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  for await (const _ of createInterface({ input: process.stdin })) {
    process.stdout.write(`${JSON.stringify({ port, requests } satisfies Received)}\n`);
  }
  server.close();
}
