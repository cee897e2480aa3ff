// GET /metrics and GET /health on a port of its own, in plain HTTP/1.1: for probes and Prometheus where the port of the
// service asks for client certificates. Every process of several has all metrics; its port is shared like the other.
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { Logger } from "pino";
import { type MetricsSource, metricsPage } from "../interceptors/telemetry.ts";
import type { Readiness } from "./health.ts";

/** Listens; rejects where the port cannot be had. */
export async function listenForAdmin(options: {
  host: string;
  /** 0: any free port. */
  port: number;
  readiness: Readiness;
  metrics: MetricsSource;
  log: Logger;
}): Promise<AsyncDisposable & { port: number }> {
  const { readiness, log } = options;
  const metrics = metricsPage(options.metrics);
  const server = createServer((request, response) => {
    const answer = (status: number, type: string, body: string | Buffer) => {
      response.writeHead(status, { "content-type": type });
      response.end(body);
    };
    const path = request.url?.split("?", 1)[0];
    if (request.method !== "GET") answer(405, "text/plain", "GET only\n");
    else if (path === "/health") {
      if (readiness.ready()) answer(200, "text/plain", "SERVING\n");
      else answer(503, "text/plain", "NOT_SERVING\n");
    } else if (path === "/metrics") {
      metrics().then(
        ({ contentType, body }) => answer(200, contentType, body),
        () => answer(500, "text/plain", "no metrics at the moment\n"),
      );
    } else answer(404, "text/plain", "there are /metrics and /health\n");
  });
  server.headersTimeout = 10_000;
  server.requestTimeout = 10_000;
  server.maxConnections = 100;
  server.listen({ host: options.host, port: options.port });
  await once(server, "listening");
  server.on("error", (error: NodeJS.ErrnoException) => log.error({ code: error.code }, "the admin port failed"));
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}
