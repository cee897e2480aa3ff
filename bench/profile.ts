// Where the service's own time goes: node --cpu-prof under load, the top by self time and by the time with all that is
// called.
// Usage: npm run bench:profile -- [get|update] [seconds] [watchers] [in flight] [organizations]
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startLoad, startWatchers, whileConsumed } from "./bench.ts";
import { fill } from "./fill.ts";
import { startService } from "./processes.ts";

interface Profile {
  nodes: { id: number; callFrame: { functionName: string; url: string; lineNumber: number }; children?: number[] }[];
  samples: number[];
  timeDeltas: number[];
}

const ENTITIES = 100_000;
const TOP = 60;

async function profile(
  operation: "get" | "update",
  {
    seconds,
    watchers,
    concurrency,
    organizations,
  }: Record<"seconds" | "watchers" | "concurrency" | "organizations", number>,
): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "entity-service-profile-"));
  try {
    let calls = 0;
    {
      await using service = await startService({ nodeFlags: ["--cpu-prof", "--cpu-prof-dir", folder] });
      const entitiesEach = ENTITIES / organizations;
      const apiKeys = await fill(service, { organizations, entitiesEach });
      await using load = startLoad();
      const job = {
        port: service.port,
        serverPid: service.pid,
        databasePid: service.address.pid,
        operation,
        concurrency,
        apiKeys,
        entitiesPerOrganization: entitiesEach,
        warmUpSeconds: 3,
        seconds,
      };
      await using watching = startWatchers(watchers);
      const result = await whileConsumed([watching], service, apiKeys[0] ?? "", () => load.run(job));
      calls = result.requestsPerSecond * seconds;
      process.stdout.write(
        `${operation}: ${result.requestsPerSecond.toFixed(0)}/s, server ${result.serverCpu.toFixed(0)} µs, database ${result.databaseCpu.toFixed(0)} µs\n`,
      );
    }
    const [name = ""] = await readdir(folder);
    show(JSON.parse(await readFile(join(folder, name), "utf8")) as Profile, { seconds, calls });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** `calls` were made within the last `seconds`: what comes before is the start of the service and the filling of its database. */
function show({ nodes, samples, timeDeltas }: Profile, { seconds, calls }: { seconds: number; calls: number }): void {
  const names = new Map(
    nodes.map(({ id, callFrame }) => [
      id,
      `${callFrame.functionName || "(anonymous)"} ${callFrame.url.replace(/^.*\/(node_modules|src|clients)\//, "$1/")}:${callFrame.lineNumber + 1}`,
    ]),
  );
  const callers = new Map(nodes.flatMap(({ id, children = [] }) => children.map((child) => [child, id])));
  const self = new Map<string, number>();
  const whole = new Map<string, number>();
  let busy = 0;
  let leftMicros = timeDeltas.reduce((sum, delta) => sum + delta, 0);
  samples.forEach((id, i) => {
    const name = names.get(id) ?? "";
    const time = timeDeltas[i] ?? 0;
    leftMicros -= time;
    if (leftMicros > seconds * 1e6) return;
    if (name.startsWith("(idle)")) return;
    busy += time;
    self.set(name, (self.get(name) ?? 0) + time);
    const stack = new Set<string>();
    for (let at: number | undefined = id; at !== undefined; at = callers.get(at)) stack.add(names.get(at) ?? "");
    for (const each of stack) whole.set(each, (whole.get(each) ?? 0) + time);
  });
  for (const [title, times] of Object.entries({ "by itself": self, "with what it calls": whole })) {
    process.stdout.write(`\n${title}\n`);
    const top = [...times].sort(([, a], [, b]) => b - a).slice(0, TOP);
    for (const [name, time] of top)
      process.stdout.write(
        `${((time / busy) * 100).toFixed(1).padStart(5)} % ${(time / calls).toFixed(1).padStart(6)} µs  ${name}\n`,
      );
  }
}

const [operation = "get", ...numbers] = process.argv.slice(2);
if (operation !== "get" && operation !== "update")
  throw new Error("usage: node bench/profile.ts [get|update] [seconds] [watchers] [in flight] [organizations]");
const [seconds = 8, watchers = 0, concurrency = 64, organizations = 1] = numbers.map(Number);
await profile(operation, { seconds, watchers, concurrency, organizations });
