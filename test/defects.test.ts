// Defects of ours that nothing catches, planted into a service process: what the log has, and what becomes of the calls.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from "vitest";
import { createEntityClient } from "../clients/typescript/index.ts";
import { childrenOf, type ServiceProcess, startCli, startServiceProcess, temporaryFolder } from "./cli-process.ts";
import { byId, newPerson, together } from "./given.ts";
import { databaseEnvironment, startService, type TestService } from "./harness.ts";

vi.setConfig({ testTimeout: 120_000 });
const WAIT = { timeout: 60_000, interval: 20 };
/** On one signal a promise is rejected that nobody awaits, on the other one an error is thrown where nobody catches it. */
const PLANTED = `const defect = () => Object.assign(new TypeError("Key (tax_id)=(B58378431) of Ana Souza"),
  { code: "23505", detail: "Key (tax_id)=(B58378431) of Ana Souza", cause: new Error("Ana Souza") });
process.on("SIGWINCH", () => void Promise.reject(defect()));
process.on("SIGUSR2", () => { throw defect(); });`;
/** What listens is thrown out of, where nobody catches it. */
const PLANTED_AT_START = `import { Server } from "node:net";
Server.prototype.listen = function () { process.nextTick(() => { throw new Error("at the start"); }); return this; };`;
const WHAT = {
  ...{ name: "TypeError", code: "23505", cause: { name: "Error" } },
  frames: expect.arrayContaining([expect.stringMatching(/^at defect \(.*planted\.mjs:1:\d+\)$/)]),
};

let database: TestService;
let planted: string;
let folder: Awaited<ReturnType<typeof temporaryFolder>>;
beforeAll(async () => {
  database = await startService();
  folder = await temporaryFolder();
  planted = join(folder.path, "planted.mjs");
  await writeFile(planted, PLANTED);
});
afterAll(async () => {
  await database[Symbol.asyncDispose]();
  await folder[Symbol.asyncDispose]();
});

async function serve(env: Record<string, string> = {}): Promise<ServiceProcess> {
  const service = await startServiceProcess(folder.path, {
    ...databaseEnvironment(database),
    BOOTSTRAP_API_KEY: database.organization.apiKey,
    NODE_OPTIONS: `--import=${planted}`,
    ...{ LAME_DUCK_MS: "500", LOCK_TIMEOUT_MS: "30000", STATEMENT_TIMEOUT_MS: "30000", DEFAULT_TIMEOUT_MS: "60000" },
    ...env,
  });
  onTestFinished(() => service[Symbol.asyncDispose]());
  return service;
}

const REASON = "a defect: the log has what was thrown";
const linesOf = (service: ServiceProcess, level: string) => service.lines().filter((line) => line.level === level);

/** An update whose entity is locked until it is released. */
async function withCallInFlight(service: ServiceProcess) {
  const client = createEntityClient({ ...service, retries: false });
  const person = await newPerson(client);
  const holder = new pg.Client(database.database);
  await holder.connect();
  await holder.query("begin");
  await holder.query("select from entity where id = $1 for no key update", [person.id]);
  const call = client.entities.updateEntity({ lookup: byId(person), entity: { name: "In Flight" } });
  const waits = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
  await expect.poll(() => database.sql(waits), WAIT).toHaveLength(1);
  return { client, call, release: () => holder.end() };
}

describe("a defect that nothing catches", () => {
  it("a promise that nobody awaits: it is logged without its words, and every call goes on", async () => {
    const service = await serve();
    const { entities } = createEntityClient({ ...service, retries: false });
    const calls = together(8, async () => {
      for (let i = 0; i < 40; i++) await entities.listEntities({ pageSize: 1 });
    });
    for (let i = 0; i < 3; i++) process.kill(service.pid, "SIGWINCH");
    await expect.poll(() => linesOf(service, "error").length, WAIT).toBeGreaterThan(0);
    for (const { reason } of await calls) expect(reason).toBeUndefined();
    expect(linesOf(service, "error")[0]).toMatchObject({
      error: WHAT,
      msg: "a defect: something failed, and nothing waited for it",
    });
    await service[Symbol.asyncDispose]();
    const { code, stdout, stderr } = await service.ended;
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).not.toMatch(/Souza|B58378431/);
  });

  it("what is thrown: the calls in flight are answered, and the process ends with 1", async () => {
    const service = await serve();
    const { client, call, release } = await withCallInFlight(service);
    process.kill(service.pid, "SIGUSR2");
    await expect.poll(() => linesOf(service, "fatal").length, WAIT).toBe(1);
    expect(linesOf(service, "fatal")[0]).toMatchObject({
      error: WHAT,
      msg: "a defect: something was thrown, and nothing caught it",
    });
    // New ones too, until whoever balances the load has learnt that it ends.
    await client.entities.listEntities({ pageSize: 1 });
    await release();
    expect((await call).entity?.name).toBe("In Flight");
    const { code, stdout, stderr } = await service.ended;
    expect({ code, stderr }).toEqual({ code: 1, stderr: `entity-service: ${REASON}\n` });
    expect(service.lines()).toContainEqual(expect.objectContaining({ msg: "draining", reason: REASON }));
    expect(stdout).not.toMatch(/Souza|B58378431/);
  });

  it("what is thrown in a worker ends that worker alone, and another one takes its place", async () => {
    const service = await serve({ WORKERS: "2" });
    const { call, release } = await withCallInFlight(service);
    const before = childrenOf(service.pid);
    expect(before).toHaveLength(2);
    process.kill(before[0] as number, "SIGUSR2");
    await expect.poll(() => linesOf(service, "fatal").length, WAIT).toBe(1);
    await release();
    expect((await call).entity?.name).toBe("In Flight");
    const ends = () => service.lines().filter(({ msg }) => msg === "a worker ended");
    await expect.poll(ends, WAIT).toMatchObject([{ pid: before[0], code: 1 }]);
    await expect.poll(() => childrenOf(service.pid).length, WAIT).toBe(2);
    expect(childrenOf(service.pid)).toContain(before[1]);
    const { entities } = createEntityClient(service);
    await entities.listEntities({ pageSize: 1 });
    await service[Symbol.asyncDispose]();
    const { code, stdout, stderr } = await service.ended;
    expect({ code, stderr }).toEqual({ code: 0, stderr: `entity-service: ${REASON}\n` });
    expect(stdout).not.toMatch(/Souza|B58378431/);
  });

  it("at the start it ends the process at once, as Node does: nothing waits for what will never be", async () => {
    const script = join(folder.path, "planted-at-start.mjs");
    await writeFile(script, PLANTED_AT_START);
    const env = {
      ...databaseEnvironment(database),
      DATA_DIR: folder.path,
      PORT: "0",
      NODE_OPTIONS: `--import=${script}`,
    };
    const child = startCli(["serve"], { env });
    onTestFinished(() => void child.kill("SIGKILL"));
    expect(await child.ended).toMatchObject({ code: 1, stderr: expect.stringContaining("at the start") });
  });
});
