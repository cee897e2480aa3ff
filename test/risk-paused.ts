// A process that runs a rule while its test stops it for a while (risk-evaluator.test.ts).
import { createEvaluator } from "../src/risk/evaluator.ts";

await using evaluator = createEvaluator({ clockMs: 3_000 });
const run = (length: number) =>
  evaluator.run(
    "a",
    { key: "slow", expressions: ["entity.attributes.list.exists(x, x + 0.5 in entity.attributes.list)"] },
    { entity: JSON.stringify({ attributes: { list: Array.from({ length }, () => 1) } }), today: "" },
  );
await run(10);
const begun = performance.now();
const answers = run(3_000);
console.log("begun");
console.log(
  (await answers)[0] === false ? `answered, after the pause: ${performance.now() - begun > 4_000}` : "no answer",
);
