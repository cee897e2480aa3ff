// Loaded before the process, in the zone that its test gives it (risk-evaluator.test.ts): after the command, rules about
// times.
import { isMainThread } from "node:worker_threads";
import { createEvaluator } from "../src/risk/evaluator.ts";

const EXPRESSIONS = [
  "timestamp('2026-03-29T02:30:00Z').getHours() == 2",
  "timestamp('2026-07-01T00:30:00Z').getDayOfYear() == 181",
  "timestamp('2026-07-01T00:30:00Z').getHours('Europe/Vienna') == 2",
];

async function tell(): Promise<void> {
  await using evaluator = createEvaluator();
  const matrix = { key: "times", expressions: EXPRESSIONS };
  const answers = await evaluator.run("a", matrix, { entity: "{}", today: "" });
  console.log(`times: ${answers.join()}`);
}

if (isMainThread) process.once("beforeExit", () => void tell());
