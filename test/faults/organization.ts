// An organization of the run: its key, its clients for each process, and the words that must never leave it.
import { randomBytes, randomUUID } from "node:crypto";
import { type DescMessage, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { ConnectError, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { createEntityClient, type EntityClient, entityClientOver } from "../../clients/typescript/index.ts";
import type { Check } from "./checks.ts";

export interface Organization {
  name: string;
  id: string;
  apiKey: string;
  /** In every value that it writes. */
  canary: string;
  /** In its names and tax ids, which no log may hold. */
  personal: string;
  /** A client of its key, on a connection of its own; whatever it is sent is searched for the canaries of others. */
  client(baseUrl: string, protocol?: "grpc" | "http/1.1"): EntityClient;
  /** Searched likewise. */
  inspect(where: string, bytes: Uint8Array): void;
}

const SCOPES = [
  "entities:read",
  "entities:write",
  "entities:merge",
  "external_ids:change",
  "activity:write",
  "activity:read",
  "audit:read",
  "webhooks:admin",
  "admin",
];

/** The canaries of an organization, known before it is created: the logs are searched from the beginning. */
export function canariesOf(random: () => number): { canary: string; personal: string } {
  const word = () =>
    Math.floor(random() * 0xffffffff)
      .toString(36)
      .padStart(7, "0")
      .toUpperCase();
  return { canary: `CANARY${word()}`, personal: `PERSON${word()}` };
}

export async function createOrganization(
  operator: EntityClient,
  name: string,
  words: { canary: string; personal: string },
  others: () => readonly Organization[],
  wall: Check,
): Promise<Organization> {
  const { organization } = await operator.organizations.createOrganization({ organization: { displayName: name } });
  const id = organization?.id ?? "";
  const { secret } = await operator.organizations.createApiKey({
    organizationId: id,
    displayName: name,
    scopes: SCOPES,
  });

  const inspect = (where: string, bytes: Uint8Array): void => {
    wall.count();
    const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (const other of others()) {
      if (other.id === id) continue;
      for (const word of [other.canary, other.personal]) {
        if (text.includes(word)) wall.fail(`${where} of organization ${name} holds a value of ${other.name}`);
      }
    }
  };
  const inspecting: Interceptor = (next) => async (request) => {
    const where = request.method.name;
    const look = (schema: DescMessage, message: MessageShape<DescMessage>) => inspect(where, toBinary(schema, message));
    try {
      const response = await next(request);
      if (!response.stream) {
        look(request.method.output, response.message);
        return response;
      }
      const { message: messages } = response;
      return {
        ...response,
        message: (async function* () {
          for await (const message of messages) {
            look(request.method.output, message);
            yield message;
          }
        })(),
      };
    } catch (error) {
      const { rawMessage, details } = ConnectError.from(error);
      inspect(where, Buffer.from(rawMessage));
      for (const detail of details)
        if ("value" in detail && detail.value instanceof Uint8Array) inspect(where, detail.value);
      throw error;
    }
  };
  return {
    name,
    id,
    apiKey: secret,
    ...words,
    client(baseUrl, protocol = "grpc") {
      if (protocol === "grpc") {
        return createEntityClient({
          ...{ baseUrl, apiKey: secret, defaultTimeoutMs: 8_000, retries: false, interceptors: [inspecting] },
        });
      }
      const authorizing: Interceptor = (next) => (request) => {
        request.header.set("authorization", `Bearer ${secret}`);
        return next(request);
      };
      const transport = createConnectTransport({
        ...{ baseUrl, httpVersion: "1.1", defaultTimeoutMs: 8_000, interceptors: [inspecting, authorizing] },
      });
      return entityClientOver(transport, { defaultTimeoutMs: 8_000, retries: false });
    },
    inspect,
  };
}

/** Random in each run: a seed does not have to repeat them. */
export const newToken = () => randomBytes(6).toString("hex");
export const newRequestId = () => randomUUID();
