// The generated code is that of the contract: generates it anew beside the checked-in one and compares.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = "clients/typescript/gen";
const anew = mkdtempSync(join(tmpdir(), "generated-"));
try {
  execFileSync(join(root, "node_modules/.bin/buf"), ["generate", "--output", anew], {
    cwd: root,
    env: { ...process.env, PATH: `${root}node_modules/.bin:${process.env.PATH}` },
    stdio: "inherit",
    timeout: 60_000,
  });
  const expected = files(join(anew, folder));
  const present = files(join(root, folder));
  const stale = [...new Set([...expected.keys(), ...present.keys()])].filter(
    (name) => expected.get(name) !== present.get(name),
  );
  if (expected.size === 0) throw new Error("nothing was generated");
  if (stale.length > 0) {
    process.stderr.write(`not what the contract generates: ${stale.join(", ")}\nrun npm run generate\n`);
    process.exitCode = 1;
  } else {
    process.stdout.write(`${expected.size} generated files are up to date\n`);
  }
} finally {
  rmSync(anew, { recursive: true, force: true });
}

function files(directory: string): Map<string, string> {
  const names = readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
  return new Map(names.map((name) => [name.slice(directory.length + 1), readFileSync(name, "utf8")]));
}
