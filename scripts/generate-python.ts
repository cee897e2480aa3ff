// Generates the Python client's code from proto/, by the pinned plugins, in a virtual environment below node_modules.
//
//   npm run generate:python               writes it
//   npm run generate:python -- --check    generates it beside and compares, for the continuous integration
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const CLIENT = fileURLToPath(new URL("../clients/python/", import.meta.url));
const CACHE = fileURLToPath(new URL("../node_modules/.cache/python/", import.meta.url));
const GENERATED = join(CLIENT, "src/entity_service_client/v1");

/** The Python of a virtual environment with what clients/python/requirements-<name>.txt pins, and `more`. */
export function pythonWith(name: string, more: string[] = []): string {
  const folder = join(CACHE, name);
  const python = join(folder, "bin/python");
  const requirements = join(CLIENT, `requirements-${name}.txt`);
  const wanted = [readFileSync(requirements, "utf8"), ...more].join("\n");
  const stamp = join(folder, "installed");
  if (existsSync(python) && existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) return python;
  rmSync(folder, { recursive: true, force: true });
  execFileSync("python3", ["-m", "venv", folder], { stdio: "inherit" });
  execFileSync(
    python,
    ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements, ...more],
    {
      stdio: "inherit",
    },
  );
  writeFileSync(stamp, wanted);
  return python;
}

function filesOf(folder: string): Map<string, string> {
  const names = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isFile());
  return new Map(names.map(({ name }) => [name, readFileSync(join(folder, name), "utf8")]));
}

function check(python: string): void {
  const anew = mkdtempSync(join(tmpdir(), "generated-"));
  try {
    execFileSync(python, [join(CLIENT, "generate.py"), anew], { stdio: "inherit" });
    const expected = filesOf(anew);
    const present = filesOf(GENERATED);
    const names = new Set([...expected.keys(), ...present.keys()]);
    const stale = [...names].filter((name) => expected.get(name) !== present.get(name));
    if (stale.length > 0) {
      process.stderr.write(`not what the contract generates: ${stale.join(", ")}\nrun npm run generate:python\n`);
      process.exitCode = 1;
    } else {
      process.stdout.write(`${expected.size} generated files of Python are up to date\n`);
    }
  } finally {
    rmSync(anew, { recursive: true, force: true });
  }
}

if (import.meta.main) {
  const python = pythonWith("generate");
  if (process.argv.includes("--check")) check(python);
  else execFileSync(python, [join(CLIENT, "generate.py")], { stdio: "inherit" });
}
