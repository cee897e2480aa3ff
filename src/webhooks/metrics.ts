// What is counted of webhooks. No endpoint, organization or URL is a label: there may be any number of them.
import { Counter, Gauge, Histogram, type Registry } from "prom-client";

export type AttemptResult = "delivered" | "retried" | "given_up" | "gone";

export interface WebhookMetrics {
  attempted(result: AttemptResult, latencyMs: number): void;
}

/** `pendingAgeMs`: how long the oldest event that this process knows to be pending has waited; 0 when there is none. */
export function webhookMetrics(registry: Registry, pendingAgeMs: () => number): WebhookMetrics {
  const attempts = new Counter({
    name: "entity_service_webhook_attempts_total",
    help: "Attempts to deliver a webhook, by what became of the delivery",
    labelNames: ["outcome"],
    registers: [registry],
  });
  const duration = new Histogram({
    name: "entity_service_webhook_attempt_duration_seconds",
    help: "Time from the beginning of an attempt to its answer or failure",
    buckets: [0.01, 0.05, 0.1, 0.5, 1, 5, 15],
    registers: [registry],
  });
  new Gauge({
    name: "entity_service_webhook_pending_age_seconds",
    help: "Age of the oldest event that is pending at an endpoint which this process serves",
    registers: [registry],
    aggregator: "max",
    collect() {
      this.set(pendingAgeMs() / 1000);
    },
  });
  return {
    attempted(outcome, latencyMs) {
      attempts.inc({ outcome });
      duration.observe(latencyMs / 1000);
    },
  };
}
