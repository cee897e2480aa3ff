// What an application sees of a client while the service restarts under it, and while the database cuts its connections:
// nothing. Two processes of the service on one PostgreSQL; the client under test is a driver, a process in any language.
//
//   npm run test:client-restarts                        SECONDS=60 of each scenario, RATE=200 calls a second
//   npm run test:client-restarts -- COMMAND ARGS...     another driver; DRIVER="COMMAND ARGS" names it too
//   ONLY=connections npm run test:client-restarts       one scenario; RESTARTS=1 for fewer of them
//
// A driver reads a line of JSON, `Config`, from its standard input, calls at that rate for as long, beginning each call at its time
// whether those before it have ended or not, and writes lines of JSON, the last of which is a `Report`. Every second call is
// an UpdateEntity that writes `attributes: { write: "<n>" }`, n = 0, 1, 2 ..., to the entity `n % entities.length`; the
// others are GetEntity. A failed call is one that the application would have to deal with.
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import { chmodSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { createEntityClient, EntityType } from "../../clients/typescript/index.ts";
import { freePort } from "../../scripts/service-process.ts";
import {
  createDatabase,
  createPostgres,
  DATABASE,
  findBinaries,
  folderOf,
  killPostgres,
  PASSWORD,
  type Postgres,
  removeFolder,
  SERVICE_ROLE,
} from "../faults/postgres.ts";
import { killServices, type Service, startService } from "../faults/service.ts";
import { type Balancer, startBalancer } from "./balancer.ts";

export interface Config {
  /** Where the service is, as host:port; several are processes of the same service. */
  addresses: string[];
  apiKey: string;
  seconds: number;
  /** Calls a second, reads and writes together. */
  rate: number;
  /** External ids of the entities to read and write. */
  entities: string[];
}

export interface Report {
  /** Calls that were begun, and how many of them were writes. */
  sent: number;
  writes: number;
  /** Calls that threw, after all that the client does about it. */
  failed: number;
  /** Attempts beyond the first of a call. */
  retried: number;
  /** Why calls failed: a reason or a status, and how often. */
  errors: Record<string, number>;
  /** The slowest call. */
  maxMs?: number;
}

const SECONDS = Number(process.env.SECONDS ?? 60);
const RATE = Number(process.env.RATE ?? 200);
const RESTARTS = Number(process.env.RESTARTS ?? (SECONDS < 40 ? 1 : 3));
const CUT_MS = 5_000;
/** Few, so that a write that is done twice changes its entity twice: others have written to it meanwhile. */
const ENTITIES = 4;
/** For the calls that are under way at the end, and the start of the driver. */
const GRACE_MS = 60_000;
const OWN_DRIVER = [process.execPath, fileURLToPath(new URL("typescript.ts", import.meta.url))];
const SHOWN = 5;

interface Stage {
  postgres: Postgres;
  services: Service[];
  balancer: Balancer;
}

interface Scenario {
  name: string;
  addresses(stage: Stage): string[];
  /** Causes the faults, until the signal; says what it has done. */
  disturb(stage: Stage, signal: AbortSignal): Promise<string>;
}

const addressOf = ({ baseUrl }: Service) => baseUrl.replace("http://", "");

const SCENARIOS: Scenario[] = [
  { name: "restarts", addresses: ({ services }) => services.map(addressOf), disturb: restart },
  { name: "balancer", addresses: ({ balancer }) => [balancer.address], disturb: restart },
  { name: "connections", addresses: ({ services }) => services.map(addressOf), disturb: cutConnections },
];

/** Rolling: one process after the other, the next when the one before serves again. */
async function restart({ services }: Stage, signal: AbortSignal): Promise<string> {
  let done = 0;
  for (; done < RESTARTS && !signal.aborted; done++) {
    // Spread over the time, with calm before and behind.
    await sleep((SECONDS * 1_000) / (RESTARTS + 1) / 2);
    for (const service of services) {
      await service.terminate();
      while (!service.isUp()) await sleep(50);
      await sleep(500);
    }
  }
  if (done < RESTARTS) throw new Error(`only ${done} of ${RESTARTS} rolling restarts took place`);
  return `${done} rolling restarts`;
}

/** Ends every connection of the service to the database, as an administrator or a failing proxy does. */
async function cutConnections({ postgres }: Stage, signal: AbortSignal): Promise<string> {
  const admin = await postgres.connect();
  let [times, cut] = [0, 0];
  for (; !signal.aborted; times++) {
    await sleep(CUT_MS, undefined, { signal }).catch(() => {});
    if (signal.aborted) break;
    const { rows } = await admin.query(
      "select count(*) filter (where pg_terminate_backend(pid))::int as cut from pg_stat_activity where usename = $1",
      [SERVICE_ROLE],
    );
    cut += rows[0].cut;
  }
  await admin.end();
  if (cut === 0) throw new Error("no connection of the service was there to be cut");
  return `${cut} connections of the service cut in ${times} times`;
}

const children = new Set<ChildProcess>();

async function drive(command: readonly string[], config: Config): Promise<Report> {
  const [file = "", ...args] = command;
  const driver = spawn(file, args, { stdio: ["pipe", "pipe", "inherit"] });
  children.add(driver);
  let output = "";
  driver.stdout.setEncoding("utf8").on("data", (text: string) => {
    output += text;
  });
  driver.stdin.on("error", () => {});
  driver.stdin.end(`${JSON.stringify(config)}\n`);
  const timer = setTimeout(() => driver.kill("SIGKILL"), config.seconds * 1_000 + GRACE_MS);
  const [code, signal] = await once(driver, "close");
  clearTimeout(timer);
  children.delete(driver);
  const last = output.trimEnd().split("\n").at(-1) ?? "";
  if (code !== 0) throw new Error(`the driver ended with ${signal ?? code}; its last line: ${last}`);
  return JSON.parse(last) as Report;
}

/** What is wrong, by the report of the driver and by what is in the log. */
async function problemsOf(
  postgres: Postgres,
  organizationId: string,
  config: Config,
  report: Report,
): Promise<string[]> {
  const problems: string[] = [];
  const { sent, writes, failed, errors } = report;
  if (failed !== 0) problems.push(`${failed} of ${sent} calls failed: ${JSON.stringify(errors)}`);
  const wanted = config.rate * config.seconds;
  if (!(sent >= 0.95 * wanted)) problems.push(`only ${sent} calls of ${wanted} were made`);
  if (!(writes >= 0.45 * sent)) problems.push(`only ${writes} of ${sent} calls were writes`);
  const rows = await postgres.sql<{ write: string; times: number }>(
    `select v.new_values->'attributes'->>'write' as write, count(*)::int as times
     from entity_event v join external_id x on x.organization_id = v.organization_id and x.entity_id = v.entity_id
     where v.organization_id = $1 and x.external_id = any($2) and v.type = 'ATTRIBUTE_CHANGED' group by 1`,
    [organizationId, config.entities],
  );
  const times = new Map(rows.map((row) => [row.write, row.times]));
  const list = (values: string[]) => values.slice(0, SHOWN).join(", ");
  const twice = [...times].filter(([, count]) => count > 1).map(([write]) => write);
  if (twice.length > 0) problems.push(`${twice.length} writes were done twice: ${list(twice)}`);
  const lost = Array.from({ length: writes }, (_, n) => String(n)).filter((write) => !times.has(write));
  // A write whose call failed may be there or not.
  if (lost.length > failed) problems.push(`${lost.length} writes are not there, ${failed} failed: ${list(lost)}`);
  const unknown = [...times.keys()].filter((write) => !(Number(write) < writes));
  if (unknown.length > 0) problems.push(`${unknown.length} writes that nobody made: ${list(unknown)}`);
  return problems;
}

const say = (line: string) => void process.stdout.write(`${line}\n`);

async function main(command: readonly string[]): Promise<number> {
  const work = mkdtempSync(join(tmpdir(), "entity-service-clients-"));
  chmodSync(work, 0o755);
  process.on("exit", () => {
    for (const child of children) child.kill("SIGKILL");
    killServices();
    killPostgres();
    if (process.env.KEEP === undefined) removeFolder(work);
    else say(`kept: ${work}`);
  });
  const binaries = findBinaries(work);
  const postgres = await createPostgres(binaries, join(work, "primary"));
  await postgres.start();
  await createDatabase(postgres, folderOf(binaries, join(work, "space")));
  const bootstrapKey = randomBytes(24).toString("hex");
  const services: Service[] = [];
  for (const name of ["one", "two"]) {
    services.push(
      await startService({
        ...{ name, work, bootstrapKey, secrets: [], port: await freePort() },
        source: fileURLToPath(new URL("../..", import.meta.url)),
        databaseUrl: `postgres://${SERVICE_ROLE}:${PASSWORD}@127.0.0.1:${postgres.port}/${DATABASE}`,
      }),
    );
  }
  const balancer = await startBalancer(services.map(({ baseUrl }) => Number(new URL(baseUrl).port)));
  const stage = { postgres, services, balancer };
  const { organizations } = createEntityClient({ baseUrl: services[0]?.baseUrl ?? "", apiKey: bootstrapKey });

  let [passed, failed] = [0, 0];
  for (const { name, addresses, disturb } of SCENARIOS) {
    if (process.env.ONLY !== undefined && process.env.ONLY !== name) continue;
    const problems: string[] = [];
    const { organization } = await organizations.createOrganization({ organization: { displayName: name } });
    const organizationId = organization?.id ?? "";
    const { secret: apiKey } = await organizations.createApiKey({
      ...{ organizationId, displayName: name, scopes: ["entities:read", "entities:write"] },
    });
    const config = {
      ...{ addresses: addresses(stage), apiKey, seconds: SECONDS, rate: RATE },
      entities: await createEntities(services[0] as Service, apiKey),
    };
    const over = new AbortController();
    const disturbing = disturb(stage, over.signal).catch((error: Error) => void problems.push(error.message));
    const report = await drive(command, config).catch((error: Error) => void problems.push(error.message));
    over.abort();
    const done = await disturbing;
    if (report) problems.push(...(await problemsOf(postgres, organizationId, config, report)));
    problems.push(...services.flatMap(({ ended }) => ended.splice(0)));
    if (problems.length === 0) passed++;
    else failed++;
    say(`${problems.length === 0 ? "ok    " : "FAILED"} ${name}: ${done ?? "-"}; ${JSON.stringify(report ?? null)}`);
    for (const problem of problems) say(`         ${problem}`);
  }
  await Promise.all(services.map((service) => service.stop()));
  await postgres.stop("fast");
  say(`clients: ${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

async function createEntities({ baseUrl }: Service, apiKey: string): Promise<string[]> {
  const { entities } = createEntityClient({ baseUrl, apiKey });
  return Promise.all(
    Array.from({ length: ENTITIES }, async (_, index) => {
      const externalId = `driven-${index}`;
      const entity = { externalId, type: EntityType.COMPANY, name: `Driven ${index}`, countryCode: "AR" };
      await entities.createEntity({ entity, requestId: randomUUID() });
      return externalId;
    }),
  );
}

for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));
try {
  const named = process.argv.length > 2 ? process.argv.slice(2) : process.env.DRIVER?.split(" ");
  process.exitCode = await main(named ?? OWN_DRIVER);
} catch (error) {
  say(error instanceof Error ? (error.stack ?? error.message) : String(error));
  say("clients: 0 passed, 1 failed");
  process.exitCode = 1;
}
process.exit();
