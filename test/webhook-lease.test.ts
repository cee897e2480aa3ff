// The lease of an endpoint in one process, on a real row: its clock, and until when it counts as held.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { WebhookEndpointState } from "../clients/typescript/index.ts";
import { readConfig } from "../src/config.ts";
import { createOrm, type Orm } from "../src/db/orm.ts";
import { createSlots } from "../src/slots.ts";
import { createEndpointDatabase } from "../src/webhooks/endpoint-database.ts";
import { createHeldLease, type HeldLease } from "../src/webhooks/held-lease.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { startService, type TestService } from "./harness.ts";
import { newEndpoint } from "./scripted-receiver.ts";

let service: TestService;
let orm: Orm;
beforeAll(async () => {
  service = await startService();
  orm = createOrm({ ...service.database, user: "entity_service", password: RUNTIME_PASSWORD }, readConfig({}));
});
afterAll(async () => {
  await orm.close(true);
  await service[Symbol.asyncDispose]();
});

/** The lease of a disabled endpoint, which the service's dispatcher leaves alone. */
async function held(): Promise<{ lease: HeldLease; endpointId: string }> {
  const { client, id: organizationId } = await service.newOrganization();
  const { id: endpointId } = await newEndpoint(client, "https://example.com/hook", {
    state: WebhookEndpointState.DISABLED,
  });
  const database = createEndpointDatabase({ orm, connections: createSlots(2) }, organizationId);
  const lease = createHeldLease(database, { organizationId, endpointId, holder: randomUUID() }, () => 0);
  await lease.take();
  return { lease, endpointId };
}

test("the schedule's clock goes on while a long look at the log keeps the lease", async () => {
  const { lease } = await held();
  const [began, at] = [lease.now(), performance.now()];
  await sleep(700);
  await lease.keep();
  const passed = Number(lease.now() - began) / 1_000;
  expect(Math.abs(passed - (performance.now() - at))).toBeLessThan(100);
  expect(lease.isFresh()).toBe(true);
});

test("one that another process has taken is not renewed: it runs out", async () => {
  const { lease, endpointId } = await held();
  const taken = performance.now();
  await service.sql(
    "update webhook_endpoint set lease_holder = $1, lease_until = now() + interval '1 hour' where id = $2",
    [randomUUID(), endpointId],
  );
  const { now } = performance;
  try {
    // Nine seconds after it was taken, no other process can have the lease; after ten seconds nothing more is sent.
    performance.now = () => taken + 9_000;
    await lease.keep();
    expect(lease.isFresh()).toBe(true);
    performance.now = () => taken + 10_500;
    expect(lease.isFresh()).toBe(false);
  } finally {
    performance.now = now;
  }
});
