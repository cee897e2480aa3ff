// The services that the tests walk are those that are served: a missing one would be in no test of "every RPC".
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { expect, test } from "vitest";
import { Health } from "../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import { startService } from "./harness.ts";
import { SERVICES } from "./services.ts";

test("clients are given every service that is served", async () => {
  await using service = await startService();
  const health = createClient(Health, createGrpcTransport({ baseUrl: service.baseUrl }));
  const served = Object.keys((await health.list({})).statuses).filter((name) => name.startsWith("entity."));
  expect(SERVICES.map(({ typeName }) => typeName)).toEqual(served.sort());
  expect(served.length).toBeGreaterThan(3);
});
