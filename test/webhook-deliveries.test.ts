// Deliveries, at a receiver that fails by script.
import { expect, test } from "vitest";
import { byId, newPerson } from "./given.ts";
import { startService } from "./harness.ts";
import { startReceiver, verify } from "./scripted-receiver.ts";

test("an entity's events come signed, in order, each once (rules 64, 66)", async () => {
  await using service = await startService();
  await using receiver = await startReceiver();
  const { client } = service;
  const { endpoint, secret } = await client.webhooks.createWebhookEndpoint({
    endpoint: { url: receiver.url(), displayName: "test" },
  });
  const person = await newPerson(client);
  await client.entities.updateEntity({ lookup: byId(person), entity: { name: "Ana Lima" } });
  const begin = performance.now();
  await receiver.count(2);
  console.log(
    "latency",
    receiver.requests.map((r) => r.at - begin),
  );
  for (const request of receiver.requests) verify(secret, request);
  expect(receiver.requests.map((request) => [request.json.event, request.version])).toEqual([
    ["entity.created", 1],
    ["entity.updated", 2],
  ]);
  for (let i = 0; i < 5; i++) {
    const t = performance.now();
    await client.entities.updateEntity({ lookup: byId(person), entity: { name: `Ana Lima ${i}` } });
    await receiver.count(3 + i);
    console.log("latency", (receiver.requests.at(-1)?.at ?? 0) - t);
  }
  await expect
    .poll(async () =>
      (await client.webhooks.listWebhookDeliveries({ endpointId: endpoint?.id ?? "" })).deliveries.map((d) => d.state),
    )
    .toEqual([2, 2, 2, 2, 2, 2, 2]);
});
