// A receiver of webhooks for each endpoint, which fails some first attempts by chance: the second ones come after 5 s.
import type { ServerResponse } from "node:http";
import { Webhook } from "standardwebhooks";
import { EntityType } from "../../clients/typescript/index.ts";
import { httpReceiver } from "../webhook-receivers.ts";
import type { World } from "./callers.ts";
import type { LoggedEvent } from "./checker.ts";
import type { Organization } from "./organization.ts";

/** The share of first attempts that are answered with a failure. */
const FAILING = 0.03;

interface Arrival {
  entityId: string;
  version: number;
  at: number;
  /** When it was answered with 2xx. */
  deliveredAt: number | undefined;
}

export interface Endpoint {
  organization: Organization;
  name: string;
  fits(event: LoggedEvent): boolean;
  arrivals: Arrival[];
}

export interface Receiver extends AsyncDisposable {
  endpoints: Endpoint[];
}

export async function startReceiver(world: World): Promise<Receiver> {
  const { checks, random } = world;
  const endpoints = new Map<string, Endpoint & { secret: string }>();
  const tried = new Set<string>();

  const server = await httpReceiver(async (request, response) => {
    const at = performance.now();
    let body = "";
    for await (const chunk of request.setEncoding("utf8")) body += chunk;
    const endpoint = endpoints.get(request.url ?? "");
    if (endpoint === undefined) return void response.writeHead(404).end();
    const { organization, name } = endpoint;
    organization.inspect("a webhook", Buffer.from(body));
    checks.signatures.count();
    try {
      new Webhook(endpoint.secret).verify(body, request.headers as Record<string, string>);
    } catch (error) {
      checks.signatures.fail(`${organization.name}, ${name}: ${String(error)}`);
    }
    const id = String(request.headers["webhook-id"]);
    const { entityId } = JSON.parse(body);
    const arrival: Arrival = {
      ...{ entityId, at, deliveredAt: undefined },
      version: Number(request.headers["x-entity-version"]),
    };
    endpoint.arrivals.push(arrival);
    const isFirst = !tried.has(id);
    tried.add(id);
    if (isFirst && random() < FAILING) return refuse(response, random());
    response.writeHead(204).end();
    arrival.deliveredAt = performance.now();
  });

  const add = async (organization: Organization, name: string, filter: object, fits: Endpoint["fits"]) => {
    const path = `/${organization.name}/${endpoints.size}`;
    const { webhooks } = organization.client((world.services[0] as (typeof world.services)[0]).baseUrl);
    const { secret } = await webhooks.createWebhookEndpoint({
      endpoint: { url: `http://127.0.0.1:${server.port}${path}`, displayName: name, ...filter },
    });
    endpoints.set(path, { organization, name, fits, arrivals: [], secret });
  };
  for (const one of world.organizations) {
    await add(one, "all", {}, ({ organizationId }) => organizationId === one.id);
    await add(
      one,
      "created and deleted persons",
      { eventTypes: ["entity.created", "entity.deleted"], entityTypes: [EntityType.PERSON] },
      ({ organizationId, type, entityType }) =>
        organizationId === one.id && (type === "CREATED" || type === "DELETED") && entityType === "person",
    );
  }
  return { endpoints: [...endpoints.values()], [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
}

function refuse(response: ServerResponse, chance: number): void {
  if (chance < 0.3) response.socket?.resetAndDestroy();
  else if (chance < 0.4) response.writeHead(503, { "retry-after": "1" }).end();
  else response.writeHead(500).end();
}

const nameOf = ({ entityId, version }: { entityId: string; version: number }) => `${entityId} ${version}`;

/** Events that an endpoint has not yet taken. */
export function undelivered({ fits, arrivals }: Endpoint, log: readonly LoggedEvent[]): LoggedEvent[] {
  const delivered = new Set(arrivals.filter(({ deliveredAt }) => deliveredAt !== undefined).map(nameOf));
  return log.filter((event) => fits(event) && !delivered.has(nameOf(event)));
}

export function checkEndpoint({ checks }: World, endpoint: Endpoint, log: readonly LoggedEvent[]): void {
  const { organization, name, arrivals, fits } = endpoint;
  const wanted = log.filter(fits);
  checks.delivered.count(wanted.length);
  const missing = undelivered(endpoint, log);
  if (missing.length > 0) {
    const some = missing.slice(0, 3).map(nameOf).join(", ");
    checks.delivered.fail(`${organization.name}, ${name}: ${missing.length} of ${wanted.length} never came: ${some}`);
  }
  const [firstAt, deliveredAt] = [new Map<string, number>(), new Map<string, number>()];
  const known = new Set(wanted.map(nameOf));
  for (const arrival of arrivals) {
    const key = nameOf(arrival);
    if (!known.has(key)) checks.delivered.fail(`${organization.name}, ${name}: ${key} came, and is not in the log`);
    firstAt.set(key, Math.min(firstAt.get(key) ?? Number.POSITIVE_INFINITY, arrival.at));
    if (arrival.deliveredAt !== undefined) {
      deliveredAt.set(key, Math.min(deliveredAt.get(key) ?? Number.POSITIVE_INFINITY, arrival.deliveredAt));
    }
  }
  for (const [entityId, events] of Map.groupBy(wanted, (event) => event.entityId)) {
    for (const [index, event] of events.entries()) {
      const before = events[index - 1];
      const at = firstAt.get(nameOf(event));
      if (before === undefined || at === undefined) continue;
      checks.deliveryOrder.count();
      const done = deliveredAt.get(nameOf(before));
      if (done === undefined || done > at) {
        checks.deliveryOrder.fail(
          `${organization.name}, ${name}: version ${event.version} of ${entityId} came before ${before.version} was taken`,
        );
      }
    }
  }
}
