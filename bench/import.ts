// Rows per second of `entity-service import` against a service with a PostgreSQL of its own, fsync on: the
// whole of it, from the command's start to its line of counts. Three rounds, each on a fresh database, then
// the same file again. Usage: npm run bench:import [-- FILE]
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROUNDS = 3;
const FLOOR = 1_500;

const main = fileURLToPath(new URL("../src/main.ts", import.meta.url));
const file = process.argv[2] ?? fileURLToPath(new URL("../../shared/data/ofac-entities.ndjson", import.meta.url));
const rows = (await readFile(file, "utf8")).split("\n").filter((line) => line.trim() !== "").length;

const first: number[] = [];
for (let round = 1; round <= ROUNDS; round++) {
  const folder = await mkdtemp(join(tmpdir(), "entity-service-bench-"));
  try {
    await using service = await startService(folder);
    const created = await runImport(service, `created ${rows}, updated 0, unchanged 0, failed 0`);
    const unchanged = await runImport(service, `created 0, updated 0, unchanged ${rows}, failed 0`);
    first.push(created);
    console.log(`round ${round}: created ${created} rows/s, the same again ${unchanged} rows/s`);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
const median = first.toSorted((a, b) => a - b)[Math.floor(ROUNDS / 2)] ?? 0;
console.log(`median: created ${median} rows/s of ${rows} rows (at least ${FLOOR} are wanted)`);
if (median < FLOOR) process.exitCode = 1;

interface Service extends AsyncDisposable {
  env: Record<string, string | undefined>;
}

async function startService(folder: string): Promise<Service> {
  const { PATH, HOME } = process.env;
  const child = spawn(process.execPath, [main, "serve"], {
    env: { PATH, HOME, DATA_DIR: folder, PORT: "0" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const port = await portOf(child);
  const apiKey = (await readFile(join(folder, "bootstrap-key"), "utf8")).trim();
  return {
    env: { PATH, HOME, ENTITY_SERVICE_URL: `http://127.0.0.1:${port}`, ENTITY_SERVICE_API_KEY: apiKey },
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      if (child.exitCode === null) await once(child, "exit");
    },
  };
}

/** Resolves once the service serves; goes on reading its log, which would stop it when full. */
async function portOf(child: ChildProcess): Promise<number> {
  const serving = Promise.withResolvers<number>();
  let log = "";
  child.stdout?.on("data", (chunk: Buffer) => {
    if (log === "done") return;
    log += chunk.toString();
    const line = log.split("\n").find((text) => text.includes('"msg":"serving"') && text.endsWith("}"));
    if (line === undefined) return;
    log = "done";
    serving.resolve((JSON.parse(line) as { port: number }).port);
  });
  child.once("exit", (code) => serving.reject(new Error(`the service ended with ${code}: ${log}`)));
  return serving.promise;
}

/** Rows per second; throws unless the command ends with these counts. */
async function runImport(service: Service, counts: string): Promise<number> {
  const start = performance.now();
  const child = spawn(process.execPath, [main, "import", file, "--errors", "/dev/null"], {
    env: service.env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  await once(child, "close");
  const seconds = (performance.now() - start) / 1000;
  if (output.trim() !== counts) throw new Error(`expected "${counts}", got "${output.trim()}"`);
  return Math.round(rows / seconds);
}
