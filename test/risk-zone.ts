// The command line, and after it rules about times, in the zone that its test gives the process (risk-evaluator.test.ts).
import "../src/main.ts";
import { createEvaluator } from "../src/risk/evaluator.ts";

await using evaluator = createEvaluator();
const expressions = [
  "timestamp('2026-03-29T02:30:00Z').getHours() == 2",
  "timestamp('2026-07-01T00:30:00Z').getDayOfYear() == 181",
  "timestamp('2026-07-01T00:30:00Z').getHours('Europe/Vienna') == 2",
];
const answers = await evaluator.run("a", { key: "times", expressions }, { entity: "{}", today: "" });
console.log(`times: ${answers.join()}`);
