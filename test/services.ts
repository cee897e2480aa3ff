// Every service of the contract, as exported to clients: a test of "every RPC" takes its RPCs from here. services.test.ts
// checks that these are the ones that are served.
import type { DescService } from "@bufbuild/protobuf";
import * as client from "../clients/typescript/index.ts";

const isService = (value: unknown): value is DescService =>
  typeof value === "object" && value !== null && "kind" in value && value.kind === "service";

export const SERVICES: readonly DescService[] = Object.values(client as Record<string, unknown>)
  .filter(isService)
  .sort((a, b) => (a.typeName < b.typeName ? -1 : 1));
