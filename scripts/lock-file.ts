// What is installed is what the lock file says, by hash, on every platform. npm ci refuses a lock file that lacks a
// platform's package, and npm leaves those out that its registry did not have when the lock was written; of others it
// knows no hash. Says what is missing, or, with --complete, asks the registry and writes it down.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

interface Locked {
  version?: string;
  integrity?: string;
  os?: string[];
  cpu?: string[];
  optionalDependencies?: Record<string, string>;
  hasInstallScript?: boolean;
  dev?: boolean;
}

const root = new URL("../", import.meta.url);
const file = new URL("package-lock.json", root);
const lock: { packages: Record<string, Locked> } = JSON.parse(readFileSync(file, "utf8"));
const { allowScripts = {} }: { allowScripts?: Record<string, boolean> } = JSON.parse(
  readFileSync(new URL("package.json", root), "utf8"),
);

const FOLDER = "node_modules/";

if (process.argv.includes("--complete")) {
  const missing = lacking();
  for (const { name, version, dev } of missing) {
    const { integrity, ...platform } = published(name, version);
    const rest = Object.entries({ ...platform, ...(dev && { dev }), optional: true });
    // In npm's own order.
    rest.sort(([a], [b]) => a.localeCompare(b, "en"));
    lock.packages[FOLDER + name] = { version, integrity, ...Object.fromEntries(rest) };
  }
  const sorted = Object.entries(lock.packages).sort(([a], [b]) => a.localeCompare(b, "en"));
  writeFileSync(file, `${JSON.stringify({ ...lock, packages: Object.fromEntries(sorted) }, null, 2)}\n`);
  process.stdout.write(`${missing.length} packages written down\n`);
}

const problems = [
  ...lacking().map(({ name }) => `${name} is missing or has no hash: run npm run lock`),
  ...undecided().map(
    (name) => `${name} has an install script, which may fetch what has no hash: allow or refuse it in package.json`,
  ),
];
if (problems.length > 0) {
  process.stderr.write(`package-lock.json:\n${problems.join("\n")}\n`);
  process.exitCode = 1;
} else {
  process.stdout.write(`${Object.keys(lock.packages).length - 1} packages, each by its hash\n`);
}

/** The packages that are not there, of those that others ask for, or without a hash. */
function lacking(): { name: string; version: string; dev: boolean | undefined }[] {
  const asked = Object.values(lock.packages).flatMap(({ optionalDependencies = {}, dev }) =>
    Object.entries(optionalDependencies)
      .filter(([name]) => lock.packages[FOLDER + name] === undefined)
      .map(([name, version]) => ({ name, version, dev })),
  );
  const bare = Object.entries(lock.packages)
    // The first is the service itself.
    .filter(([path, { integrity }]) => path !== "" && !integrity?.startsWith("sha512-"))
    .map(([path, { version = "", dev }]) => ({
      name: path.slice(path.lastIndexOf(FOLDER) + FOLDER.length),
      version,
      dev,
    }));
  return [...asked, ...bare];
}

/** Packages with install scripts that nobody has looked at: the one of the package `node` fetched a Node by its version alone. */
function undecided(): string[] {
  return (
    Object.entries(lock.packages)
      // The first is the service itself.
      .filter(([path, { hasInstallScript }]) => path !== "" && hasInstallScript)
      .map(([path]) => path.slice(path.lastIndexOf(FOLDER) + FOLDER.length))
      .filter((name) => allowScripts[name] === undefined)
  );
}

/** What the registry says of a version; throws where it does not have it. */
function published(name: string, version: string): Locked & { integrity: string } {
  const said = execFileSync("npm", ["view", `${name}@${version}`, "--json", "os", "cpu", "libc", "dist.integrity"], {
    encoding: "utf8",
    timeout: 60_000,
  });
  const { "dist.integrity": integrity, ...platform } = JSON.parse(said) as Record<string, string | string[]>;
  if (typeof integrity !== "string") throw new Error(`the registry gives no hash of ${name}@${version}`);
  const lists = Object.entries(platform).map(([key, value]) => [key, [value].flat()]);
  return { integrity, ...Object.fromEntries(lists) };
}
