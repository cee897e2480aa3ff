// The generated code is that of the contract: generates it anew beside the checked-in one and compares. What needs a tool
// that is not here is named; in the continuous integration that is a failure.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { filesOf, generate } from "./generated.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const anew = mkdtempSync(join(tmpdir(), "generated-"));
try {
  const { paths, missing } = await generate(anew);
  const expected = new Map(paths.flatMap((path) => [...filesOf(anew, path)]));
  const present = new Map(paths.flatMap((path) => [...filesOf(root, path)]));
  const stale = [...new Set([...expected.keys(), ...present.keys()])].filter(
    (name) => expected.get(name) !== present.get(name),
  );
  if (expected.size === 0) throw new Error("nothing was generated");
  const unchecked = missing.map((one) => `not compared: ${one}`).join(", ");
  if (stale.length > 0) {
    process.stderr.write(`not what the contract generates: ${stale.join(", ")}\nrun npm run generate\n`);
    process.exitCode = 1;
  } else if (missing.length > 0 && process.env.CI !== undefined) {
    process.stderr.write(`${unchecked}\n`);
    process.exitCode = 1;
  } else {
    process.stdout.write(`${expected.size} generated files are up to date${unchecked && `; ${unchecked}`}\n`);
  }
} finally {
  rmSync(anew, { recursive: true, force: true });
}
