// The driver of the TypeScript client: calls as an application would, at a fixed rate, and reports what it had to see.
import { createInterface } from "node:readline/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError, createEntityClient, errorInfo, lookup } from "../../clients/typescript/index.ts";
import type { Config, Report } from "./restarts.ts";

const { value: line = "{}" } = await createInterface({ input: process.stdin })[Symbol.asyncIterator]().next();
const { addresses, apiKey, seconds, rate, entities: externalIds } = JSON.parse(line) as Config;

const report: Required<Report> = { sent: 0, writes: 0, failed: 0, retried: 0, errors: {}, maxMs: 0 };
const { entities } = createEntityClient({
  baseUrl: addresses.map((address) => `http://${address}`),
  apiKey,
  retries: { onRetry: () => void report.retried++ },
});

async function call(index: number): Promise<void> {
  const n = index >> 1;
  const which = lookup.externalId(externalIds[n % externalIds.length] ?? "");
  if (index % 2 === 1) return void (await entities.getEntity({ lookup: which }));
  report.writes++;
  const entity = { attributes: { write: String(n) } };
  await entities.updateEntity({ lookup: which, entity });
}

async function judged(index: number): Promise<void> {
  const began = performance.now();
  report.sent++;
  await call(index).catch((error: unknown) => {
    const { code, rawMessage } = ConnectError.from(error);
    const why = errorInfo(error)?.reason ?? `${Code[code]} ${rawMessage}`;
    report.failed++;
    report.errors[why] = (report.errors[why] ?? 0) + 1;
  });
  report.maxMs = Math.max(report.maxMs, Math.round(performance.now() - began));
}

const began = performance.now();
const calls: Promise<void>[] = [];
for (let index = 0; index < rate * seconds; index++) {
  const waitMs = began + (index * 1_000) / rate - performance.now();
  if (waitMs > 0) await sleep(waitMs);
  calls.push(judged(index));
}
await Promise.all(calls);
process.stdout.write(`${JSON.stringify(report)}\n`);
