// The gRPC service config for clients of every language, from the contract: which calls gRPC may send again by itself.
import type { DescMethod, DescService } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";

interface Name {
  service: string;
  method?: string;
}

/** Connections lost and processes that restart are UNAVAILABLE, and so is OVERLOADED, whose pushback gRPC waits for. */
const retryPolicy = {
  maxAttempts: 5,
  initialBackoff: "0.1s",
  maxBackoff: "2s",
  backoffMultiplier: 2,
  retryableStatusCodes: ["UNAVAILABLE"],
};

/**
 * Reads are sent again. Writes are not: that is safe under a request_id alone, of which gRPC knows nothing. A unary call
 * waits for a connection until its deadline, which is the caller's to set: one in here would be the longest that any may have.
 */
export function serviceConfig(services: readonly DescService[]): string {
  const namesOf = (fits: (method: DescMethod) => boolean): Name[] =>
    services.flatMap((service) =>
      service.methods.filter(fits).map((method) => ({ service: service.typeName, method: method.name })),
    );
  const config = {
    loadBalancingConfig: [{ round_robin: {} }],
    methodConfig: [
      { name: services.map((service) => ({ service: service.typeName })), waitForReady: true },
      { name: namesOf((one) => isRead(one) && one.methodKind === "unary"), waitForReady: true, retryPolicy },
      {
        name: namesOf((one) => isRead(one) && one.methodKind === "server_streaming"),
        waitForReady: false,
        retryPolicy,
      },
      { name: namesOf((one) => !isRead(one) && one.methodKind !== "unary"), waitForReady: false },
    ],
    // As long as half of the tokens are there: 250 failures at once, and then one in ten calls.
    retryThrottling: { maxTokens: 500, tokenRatio: 0.1 },
  };
  return `${JSON.stringify(config, null, 2)}\n`;
}

const isRead = (method: DescMethod) => method.idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS;
