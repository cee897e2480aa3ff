// Where the service's own time goes: node --cpu-prof under the loads of 64 in flight, the top by self time and
// by the time with all that is called.
// Usage: npm run bench:profile -- [get|update] [seconds] [watchers]
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

async function profile(operation: "get" | "update", seconds: number, watchers: number): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "entity-service-profile-"));
  try {
    {
      await using service = await startService({ nodeFlags: ["--cpu-prof", "--cpu-prof-dir", folder] });
      const apiKeys = await fill(service, { organizations: 1, entitiesEach: ENTITIES });
      await using load = startLoad();
      const job = {
        port: service.port,
        serverPid: service.pid,
        databasePid: service.address.pid,
        operation,
        concurrency: 64,
        apiKeys,
        entitiesPerOrganization: ENTITIES,
        warmUpSeconds: 3,
        seconds,
      };
      await using watching = startWatchers(watchers);
      const result = await whileConsumed([watching], service, apiKeys[0] ?? "", () => load.run(job));
      process.stdout.write(
        `${operation}: ${result.requestsPerSecond.toFixed(0)}/s, server ${result.serverCpu.toFixed(0)} µs, database ${result.databaseCpu.toFixed(0)} µs\n`,
      );
    }
    const [name = ""] = await readdir(folder);
    show(JSON.parse(await readFile(join(folder, name), "utf8")) as Profile);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function show({ nodes, samples, timeDeltas }: Profile): void {
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
  samples.forEach((id, i) => {
    const name = names.get(id) ?? "";
    const time = timeDeltas[i] ?? 0;
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
      process.stdout.write(`${((time / busy) * 100).toFixed(1).padStart(5)} %  ${name}\n`);
  }
}

const operation = process.argv[2] ?? "get";
if (operation !== "get" && operation !== "update")
  throw new Error("usage: node bench/profile.ts [get|update] [seconds] [watchers]");
await profile(operation, Number(process.argv[3] ?? 8), Number(process.argv[4] ?? 0));
