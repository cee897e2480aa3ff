// npm ci refuses a lock file that lacks a platform's package, and npm leaves those out that its registry did not have
// when the lock was written. Says what is missing, or, with --complete, writes it down: the version that is asked for
// and the platform that its name says. npm fetches such a package on its own platform alone.
import { readFileSync, writeFileSync } from "node:fs";

interface Locked {
  version?: string;
  optionalDependencies?: Record<string, string>;
  dev?: boolean;
}

const file = new URL("../package-lock.json", import.meta.url);
const lock: { packages: Record<string, Locked> } = JSON.parse(readFileSync(file, "utf8"));

const missing = Object.values(lock.packages).flatMap(({ optionalDependencies = {}, dev }) =>
  Object.entries(optionalDependencies)
    .filter(([name]) => lock.packages[`node_modules/${name}`] === undefined)
    .map(([name, version]) => ({ name, version, dev })),
);

if (process.argv.includes("--complete")) {
  for (const { name, version, dev } of missing) {
    lock.packages[`node_modules/${name}`] = { version, ...platform(name), ...(dev && { dev }), ...{ optional: true } };
  }
  const sorted = Object.entries(lock.packages).sort(([a], [b]) => a.localeCompare(b, "en"));
  writeFileSync(file, `${JSON.stringify({ ...lock, packages: Object.fromEntries(sorted) }, null, 2)}\n`);
  process.stdout.write(`${missing.length} packages written down\n`);
} else if (missing.length > 0) {
  process.stderr.write(`package-lock.json lacks ${missing.map(({ name }) => name).join(", ")}\nrun npm run lock\n`);
  process.exitCode = 1;
} else {
  process.stdout.write(`${Object.keys(lock.packages).length} packages\n`);
}

/** "linux-arm64-musl" at the end of a name: os, cpu and C library as npm spells them. */
function platform(name: string): { os: string[]; cpu: string[]; libc?: string[] } {
  const found = /(android|darwin|freebsd|linux|openharmony|win32)-([a-z0-9]+)(?:-(gnu|musl|msvc|eabi)\w*)?$/.exec(name);
  if (found === null) throw new Error(`${name} does not name a platform`);
  const [, os = "", arch = "", abi] = found;
  const libc = abi === "musl" ? ["musl"] : abi === "gnu" ? ["glibc"] : undefined;
  return { os: [os], cpu: [arch === "armv7" ? "arm" : arch], ...(libc && os === "linux" && { libc }) };
}
