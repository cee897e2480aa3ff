import { expect, it } from "vitest";
import { readConfig } from "../src/config.ts";
import { newPerson } from "./given.ts";
import { startService } from "./harness.ts";
import { startNatsServer } from "./nats-server.ts";

it("smoke", async () => {
  await using nats = await startNatsServer({ credentials: true });
  await using service = await startService({ config: { nats: readConfig({ NATS_URL: nats.url }).nats } });
  const { client, id } = await service.newOrganization();
  await newPerson(client);
  await expect.poll(async () => (await nats.messages()).length, { timeout: 8000 }).toBe(1);
  console.log(JSON.stringify(await nats.messages()), id);
  console.log(await service.sql("select * from feed_sink"));
});
