// Tries the examples of documents against a service at ENTITY_SERVICE_URL, with the key of an operator in
// ENTITY_SERVICE_API_KEY: `node scripts/doc-examples.ts [--write] FILES`. With --write the answers of the service take the
// place of those that the documents show. README.md is tried as who has just started the service would.
import { readFileSync, writeFileSync } from "node:fs";
import { trialsOf, tryPage, tsName } from "./documents/page.ts";
import { openWorkshop } from "./documents/workshop.ts";

const { ENTITY_SERVICE_URL: baseUrl = "http://127.0.0.1:50051", ENTITY_SERVICE_API_KEY: apiKey = "" } = process.env;
const files = process.argv.slice(2).filter((argument) => !argument.startsWith("--"));
let [failed, tried] = [0, 0];
await using workshop = await openWorkshop({ baseUrl, apiKey, auditSigningKey: process.env.AUDIT_SIGNING_KEY });
for (const file of files) {
  const text = readFileSync(file, "utf8");
  const blocks = trialsOf(file, text).flatMap(({ block }) => (block.language === "ts" ? [block] : []));
  const errors =
    blocks.length === 0 ? "" : await workshop.typeErrors(new Map(blocks.map((block) => [tsName(block), block.text])));
  const result = await tryPage(workshop, { file, text }, { asNewcomer: /README|keys\.md/.test(file) });
  const problems = [...result.problems, ...(errors === "" ? [] : [errors])];
  for (const problem of problems) process.stdout.write(`${problem}\n`);
  if (process.argv.includes("--write")) writeFileSync(file, result.filled);
  failed += problems.length;
  tried += result.trials;
}
process.stdout.write(`${tried - failed} of ${tried} examples are answered as the documents say\n`);
process.exitCode = failed === 0 && tried > 0 ? 0 : 1;
