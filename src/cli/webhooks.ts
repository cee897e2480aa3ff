// `webhooks listen`: a receiver for development. It verifies, prints and answers; the body of entity.updated has
// personal data, so a line tells the fields alone.
import { once } from "node:events";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { Webhook } from "standardwebhooks";
import { ConfigError } from "../config.ts";
import { quoted } from "./read.ts";

export interface ListenOptions {
  port: number;
  /** The endpoint's secret, whsec_...; without it nothing is verified. */
  secret: string | undefined;
  /** The status of every answer to what is accepted. */
  answer: number;
  json: boolean;
}

/** More than the largest event takes. */
const MAX_BODY_BYTES = 1024 * 1024;

/** Prints deliveries until it is stopped. Throws ConfigError when the secret is none. */
export async function listenForWebhooks({ port, secret, answer, json }: ListenOptions): Promise<void> {
  const webhook = secret === undefined ? undefined : webhookOf(secret);
  const server = createServer(async (request, response) => {
    const end = (status: number) => response.writeHead(status).end();
    const refuse = (status: number, why: string) => {
      process.stderr.write(`entity-service: answered ${status}: ${why}\n`);
      end(status);
    };
    if (request.method !== "POST") return refuse(405, "only POST is a delivery");
    const body = await bodyOf(request).catch(() => undefined);
    if (body === undefined) return refuse(413, `the body broke off, or is larger than ${MAX_BODY_BYTES} bytes`);
    const refusal = webhook && problemOf(webhook, body, request);
    if (refusal !== undefined) return refuse(401, refusal);
    const check = webhook === undefined ? "not verified" : "verified";
    const received = { receivedAt: new Date().toISOString(), check, answer, ...idOf(request), body: parse(body) };
    process.stdout.write(`${json ? JSON.stringify(received) : readable(received)}\n`);
    end(answer);
  });
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  const at = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const hint = secret === undefined ? "; without a secret nothing is verified" : "";
  process.stderr.write(`entity-service: listening at ${at}${hint}\n`);
  await once(server, "close");
}

function webhookOf(secret: string): Webhook {
  try {
    return new Webhook(secret);
  } catch {
    throw new ConfigError("the secret must be that of a webhook endpoint: whsec_ and base64");
  }
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  // The rest of a body that is too large is discarded, so that the answer arrives.
  for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MAX_BODY_BYTES) throw new Error("too large");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

const headerOf = (request: IncomingMessage, name: string): string => String(request.headers[name] ?? "");

function idOf(request: IncomingMessage): { id: string; timestamp: string } {
  return { id: headerOf(request, "webhook-id"), timestamp: headerOf(request, "webhook-timestamp") };
}

/** Why a delivery is not one of the endpoint with this secret. */
function problemOf(webhook: Webhook, body: string, request: IncomingMessage): string | undefined {
  const names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
  try {
    webhook.verify(body, Object.fromEntries(names.map((name) => [name, headerOf(request, name)])), {
      jsonParse: false,
    });
    return undefined;
  } catch (error) {
    return `the signature does not hold (${error instanceof Error ? error.message : "unknown"})`;
  }
}

function parse(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return body;
  }
}

/** A delivery in a line. Texts of callers are quoted: they may hold line ends. */
function readable(received: { receivedAt: string; check: string; answer: number; id: string; body: unknown }): string {
  const { receivedAt, check, answer, id, body } = received;
  const text = (value: unknown) => (typeof value === "string" ? quoted(value) : "-");
  const fields = Object(body) as Record<string, unknown>;
  const who = `${text(fields.entityId)}${fields.externalId ? ` ${text(fields.externalId)}` : ""}`;
  const updated = Array.isArray(fields.updatedFields) ? fields.updatedFields.map(text).join(",") : "";
  const what =
    fields.event === "entity.status_changed"
      ? `${text(fields.oldStatus)} to ${text(fields.newStatus)}  by ${text(fields.changedBy)}${fields.reason ? `  reason ${text(fields.reason)}` : ""}`
      : updated;
  return `${receivedAt}  ${who}  ${text(fields.event)}  ${what}  id ${text(id)}  ${check}  answered ${answer}`;
}
