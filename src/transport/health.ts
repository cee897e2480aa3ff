// grpc.health.v1: whether to send calls here. Needs no key, counts towards no limit of calls.
import type { ServiceImpl } from "@connectrpc/connect";
import {
  type Health,
  HealthCheckResponse_ServingStatus as Status,
} from "../../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import { DomainError, notFound } from "../domain/errors.ts";

/** Whether the service can answer, with a notification when that changes. */
export interface Readiness {
  ready(): boolean;
  /** Calls the listener after each change; the returned function ends that. */
  subscribe(listener: () => void): () => void;
}

/** A Readiness that is told: false until set, and from the beginning of the drain. */
export function createReadiness(): Readiness & { set(ready: boolean): void } {
  const listeners = new Set<() => void>();
  let current = false;
  return {
    ready: () => current,
    set(ready) {
      if (ready === current) return;
      current = ready;
      for (const listener of listeners) listener();
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

/** `serviceNames` are the services that are asked for by name, beside "" for the process. A watch ends when shutdownSignal is aborted, after its last word. */
export function health(options: {
  serviceNames: Iterable<string>;
  readiness: Readiness;
  shutdownSignal: AbortSignal;
}): ServiceImpl<typeof Health> {
  const { readiness, shutdownSignal } = options;
  const known = new Set(["", ...options.serviceNames]);
  const status = () => (readiness.ready() ? Status.SERVING : Status.NOT_SERVING);
  return {
    check(request) {
      if (!known.has(request.service)) throw notFound("service", "Service");
      return { status: status() };
    },
    list() {
      return { statuses: Object.fromEntries(Array.from(known, (name) => [name, { status: status() }])) };
    },
    async *watch(request, context) {
      if (!known.has(request.service)) {
        yield { status: Status.SERVICE_UNKNOWN };
        await aborted(context.signal, shutdownSignal);
        throw shuttingDown();
      }
      for (;;) {
        const changed = nextChange(readiness, context.signal, shutdownSignal);
        const sent = status();
        yield { status: sent };
        if (status() === sent && !shutdownSignal.aborted) await changed;
        if (context.signal.aborted) return;
        if (shutdownSignal.aborted && status() === sent) throw shuttingDown();
      }
    },
  };
}

/** The refusal of calls that end because the process does. */
export function shuttingDown(): DomainError {
  return new DomainError("DATABASE_UNAVAILABLE", "The service is shutting down: retry", { retry_after_ms: "1000" });
}

async function nextChange(readiness: Readiness, ...signals: AbortSignal[]): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const unsubscribe = readiness.subscribe(resolve);
  await Promise.race([promise, aborted(...signals)]);
  unsubscribe();
}

/** Resolves when the first of the signals is aborted. */
function aborted(...signals: AbortSignal[]): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const stop = () => {
    for (const signal of signals) signal.removeEventListener("abort", stop);
    resolve();
  };
  for (const signal of signals) {
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop);
  }
  return promise;
}
