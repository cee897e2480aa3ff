// Starts the service as a user would (npm start), talks to it with the tools that users have (grpcurl, buf curl,
// curl), and stops it. One line a step; the last line counts them. Needs grpcurl and curl on the PATH.
// DATA_DIR is where the service keeps its data: a new folder of its own unless given.
import { execFile, spawn } from "node:child_process";
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, realpathSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { freePort, isListening } from "./service-process.ts";

const READY_WITHIN_MS = 5_000;
/** What a command may take, of which some make a dozen calls with a process for each: nothing but the start is measured. */
const COMMAND_MS = 60_000;
const root = fileURLToPath(new URL("..", import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), "smoke-"));
const dataDir = process.env.DATA_DIR ?? join(scratch, "data");
const logFile = join(scratch, "service.log");
const port = await freePort();
const address = `127.0.0.1:${port}`;
const entityService = `http://${address}/entity.v1.EntityService`;
const env = {
  ...process.env,
  DATA_DIR: dataDir,
  PORT: String(port),
  PATH: `${root}node_modules/.bin:${process.env.PATH}`,
};

let passed = 0;
let failed = 0;
let key = "";

/** Where one step fails, those after it may still tell something. */
async function step(name: string, run: () => Promise<string | undefined>): Promise<void> {
  const began = performance.now();
  try {
    const note = await run();
    passed++;
    const seconds = ((performance.now() - began) / 1000).toFixed(2);
    process.stdout.write(`  ok      ${name} (${note ?? `${seconds} s`})\n`);
  } catch (error) {
    failed++;
    process.stdout.write(`  FAILED  ${name}: ${error instanceof Error ? error.message : String(error)}\n`);
  }
}

function expect(text: string, ...patterns: RegExp[]): undefined {
  for (const pattern of patterns)
    if (!pattern.test(text)) throw new Error(`no ${pattern} in: ${text.trim().slice(0, 800)}`);
}

/** What the command writes, both streams; fails when its exit code is another than `exits`. */
function run(file: string, args: string[], exits: "zero" | "non-zero" = "zero", more = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(
      file,
      args,
      { env: { ...env, ...more }, cwd: root, timeout: COMMAND_MS, maxBuffer: 1e8 },
      (error, stdout, stderr) => {
        const text = `${stdout}${stderr}`;
        const isMissing = typeof error?.code === "string" || error?.killed === true;
        if (isMissing || (error === null) !== (exits === "zero"))
          reject(new Error(`${file}: ${error?.message ?? "no error"} ${text}`));
        else resolve(text);
      },
    );
  });
}

const grpcurl = (...args: string[]) => run("grpcurl", ["-plaintext", "-max-time", "10", ...args]);
const authorization = () => ["-H", `authorization: Bearer ${key}`];
const bufCurl = (protocol: string, rpc: string, data: object) =>
  run("buf", [
    ...["curl", "--http2-prior-knowledge", "--protocol", protocol, ...authorization()],
    ...["-d", JSON.stringify(data), `${entityService}/${rpc}`],
  ]);
const curl = (...args: string[]) => run("curl", ["--silent", "--show-error", "--max-time", "10", ...args]);

interface Service {
  pid: number;
  exited: Promise<number | string>;
}

function start(): Service {
  const log = openSync(logFile, "a");
  const child = spawn("npm", ["start"], { cwd: root, env, stdio: ["ignore", log, log], detached: true });
  closeSync(log);
  const exited = new Promise<number | string>((resolve) => {
    child.once("error", (error) => resolve(error.message));
    child.once("exit", (code, signal) => resolve(code ?? `${signal}`));
  });
  return { pid: child.pid ?? 0, exited };
}

/** Asks for the health until it is SERVING; the time since the start of the process. */
async function isServing(service: Service, began: number): Promise<string> {
  let last = "";
  let isOver = false;
  void service.exited.then(() => (isOver = true));
  while (performance.now() - began < 60_000 && !isOver) {
    last = await run("grpcurl", ["-plaintext", "-max-time", "1", address, "grpc.health.v1.Health/Check"]).catch(String);
    if (/"status": "SERVING"/.test(last)) {
      const ms = performance.now() - began;
      if (ms > READY_WITHIN_MS) throw new Error(`serving after ${(ms / 1000).toFixed(2)} s: too late`);
      return `${(ms / 1000).toFixed(2)} s after npm start`;
    }
    await wait(50);
  }
  throw new Error(`${isOver ? `ended with ${await service.exited}` : "never served"}: ${last}\n${logTail()}`);
}

async function stop(service: Service): Promise<undefined> {
  process.kill(service.pid, "SIGTERM");
  const code = await Promise.race([service.exited, wait(COMMAND_MS, "not within a minute", { ref: false })]);
  if (code !== 0) throw new Error(`npm start ended with ${code}`);
  if (!logTail().includes('"stopped"')) throw new Error("it did not stop in good order");
  if (await isListening(port)) throw new Error("something still listens on the port");
  const pidFile = join(dataDir, "postgres/postmaster.pid");
  if (existsSync(pidFile)) throw new Error("PostgreSQL was left behind");
}

/** Ends what a failed step left: the group that npm start leads, and the PostgreSQL of our own folder. */
async function end(service: Service): Promise<void> {
  const kill = (pid: number, signal: NodeJS.Signals) => {
    try {
      process.kill(pid, signal);
    } catch {
      // It has ended.
    }
  };
  if ((await Promise.race([service.exited, wait(0, undefined)])) === undefined || (await isListening(port))) {
    kill(-service.pid, "SIGTERM");
    for (let i = 0; i < 50 && (await isListening(port)); i++) await wait(100);
    kill(-service.pid, "SIGKILL");
  }
  const pidFile = join(dataDir, "postgres/postmaster.pid");
  if (existsSync(pidFile)) kill(Number(readFileSync(pidFile, "utf8").split("\n")[0]), "SIGINT");
}

const logTail = () => readFileSync(logFile, "utf8").split("\n").slice(-15).join("\n");

const began = performance.now();
let service = start();
try {
  await step("npm start serves within 5 s on an empty folder", () => isServing(service, began));
  await step("the API key of the new database is in bootstrap-key, for its owner alone", async () => {
    const file = join(dataDir, "bootstrap-key");
    key = readFileSync(file, "utf8").trim();
    if ((statSync(file).mode & 0o777) !== 0o600) throw new Error("others can read it");
    return `${key.length} characters`;
  });
  await step("grpcurl lists the services", async () =>
    expect(
      await grpcurl(address, "list"),
      /^entity\.v1\.EntityService$/m,
      /^entity\.v1\.ActivityService$/m,
      /^entity\.v1\.OrganizationService$/m,
      /^grpc\.health\.v1\.Health$/m,
    ),
  );
  await step("grpcurl describes a service and a message", async () => {
    expect(await grpcurl(address, "describe", "entity.v1.EntityService"), /rpc UpdateEntity/);
    return expect(await grpcurl(address, "describe", "entity.v1.EntityLookup"), /string external_id = /);
  });
  await step("a call without a key is refused", async () =>
    expect(
      await run("grpcurl", ["-plaintext", "-d", "{}", address, "entity.v1.EntityService/ListEntities"], "non-zero"),
      /Code: Unauthenticated/,
    ),
  );
  const ada = {
    type: "ENTITY_TYPE_PERSON",
    name: "Ada Smoke",
    countryCode: "AR",
    externalId: "smoke-1",
    taxId: "20-1",
  };
  const create = () => [
    ...authorization(),
    "-d",
    JSON.stringify({ entity: ada }),
    address,
    "entity.v1.EntityService/CreateEntity",
  ];
  await step("grpcurl creates an entity", async () =>
    expect(await grpcurl(...create()), /"externalId": "smoke-1"/, /"status": "ENTITY_STATUS_PENDING"/),
  );
  await step("grpcurl is refused a second one with its external id", async () =>
    expect(await run("grpcurl", ["-plaintext", ...create()], "non-zero"), /Code: AlreadyExists/),
  );
  await step("and shows the reason of the refusal", async () =>
    expect(await run("grpcurl", ["-plaintext", ...create()], "non-zero"), /"reason": "DUPLICATE_EXTERNAL_ID"/),
  );
  for (const protocol of ["grpc", "grpcweb", "connect"]) {
    await step(`buf curl gets it by external id over ${protocol}`, async () =>
      expect(await bufCurl(protocol, "GetEntity", { lookup: { externalId: "smoke-1" } }), /"name": ?"Ada Smoke"/),
    );
  }
  await step("buf curl gets it by tax id, punctuation aside", async () =>
    expect(await bufCurl("grpc", "GetEntity", { lookup: { taxId: "201" } }), /"externalId": ?"smoke-1"/),
  );
  await step("curl blocks it, as JSON over HTTP/1.1", async () =>
    expect(
      await curl(
        ...["--http1.1", "-H", "content-type: application/json", ...authorization(), `${entityService}/UpdateEntity`],
        "-d",
        JSON.stringify({
          lookup: { externalId: "smoke-1" },
          entity: { status: "ENTITY_STATUS_BLOCKED" },
          reason: "Sanctions screening",
        }),
      ),
      /"status": ?"ENTITY_STATUS_BLOCKED"/,
      /"updatedFields": ?\["status"\]/,
    ),
  );
  await step("curl is told why a block without a reason is refused", async () =>
    expect(
      await curl(
        ...["-H", "content-type: application/json", ...authorization(), `${entityService}/UpdateEntity`],
        ...["-d", JSON.stringify({ lookup: { externalId: "smoke-1" }, entity: { status: "ENTITY_STATUS_REJECTED" } })],
      ),
      /"code": ?"failed_precondition"|"code": ?"invalid_argument"/,
      /STATUS_REASON_REQUIRED/,
    ),
  );
  await step("buf curl lists what happened to it", async () =>
    expect(
      await bufCurl("grpc", "ListEntityEvents", { lookup: { externalId: "smoke-1" } }),
      /Sanctions screening/,
      /CREATED/,
    ),
  );
  const importExample = () =>
    run("npm", ["run", "--silent", "cli", "--", "import", "examples/entities.ndjson"], "zero", {
      ENTITY_SERVICE_URL: `http://${address}`,
      ENTITY_SERVICE_API_KEY: key,
    });
  await step("the calls of the README are answered as it says, those of a newcomer", async () =>
    expect(
      await run("npm", ["exec", "--", "node", "scripts/doc-examples.ts", "README.md"], "zero", {
        ENTITY_SERVICE_URL: `http://${address}`,
        ENTITY_SERVICE_API_KEY: key,
      }),
      /^(\d+) of \1 examples/m,
    ),
  );
  await step("the command line finds nothing new in the example but what the README renamed", async () =>
    expect(await importExample(), /^created 1, updated 0, unchanged [1-9]\d*, failed 0$/m),
  );
  await step("curl reads the metrics", async () =>
    expect(await curl(`http://${address}/metrics`), /^# TYPE \w+ histogram$/m),
  );
  await step("SIGTERM ends npm start with 0, the service and its PostgreSQL with it", () => stop(service));

  await end(service);
  const again = performance.now();
  service = start();
  await step("it starts again on the same folder within 5 s", () => isServing(service, again));
  await step("and still has the entity", async () =>
    expect(await bufCurl("grpc", "GetEntity", { lookup: { externalId: "smoke-1" } }), /"ENTITY_STATUS_BLOCKED"/),
  );
  await step("the log has no name and no tax id", async () => {
    const log = readFileSync(logFile, "utf8");
    if (/Ada Smoke|20-1"/.test(log)) throw new Error("it has");
    return `${log.split("\n").length} lines`;
  });
  await step("and ends again", () => stop(service));
} finally {
  await end(service);
  if (failed > 0) process.stdout.write(`the last lines of the log of the service:\n${logTail()}\n`);
  // As root the database may lie elsewhere, behind a link.
  const database = join(dataDir, "postgres");
  if (process.env.DATA_DIR === undefined && existsSync(database)) {
    const target = realpathSync(database);
    if (!target.startsWith(realpathSync(scratch))) rmSync(dirname(target), { recursive: true, force: true });
  }
  rmSync(scratch, { recursive: true, force: true });
}
process.stdout.write(`smoke: ${passed} passed, ${failed} failed\n`);
process.exitCode = failed === 0 ? 0 : 1;
