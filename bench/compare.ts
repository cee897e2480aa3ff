// This checkout against another one, in one run on one database: npm run bench:compare -- <folder of the other>
// [get|update] [rounds]. For a change that should be faster: the other folder is a worktree without it.
import { resolve } from "node:path";
import { startLoad } from "./bench.ts";
import { fill } from "./fill.ts";
import type { Measurement } from "./load.ts";
import { startSecond, startService } from "./processes.ts";
import { median } from "./report.ts";

const ENTITIES = 100_000;

async function compare(
  other: string,
  operation: "get" | "update",
  rounds: number,
  organizations: number,
): Promise<void> {
  await using service = await startService();
  const apiKeys = await fill(service, { organizations, entitiesEach: ENTITIES / organizations });
  await using second = await startSecond(resolve(other, "src/main.ts"), service.address);
  await using load = startLoad();
  const found = { this: [] as Measurement[], other: [] as Measurement[] };
  for (let round = 0; round <= rounds; round++) {
    const turn = round % 2 === 0 ? (["this", "other"] as const) : (["other", "this"] as const);
    for (const name of turn) {
      const contender = name === "this" ? service : second;
      const measured = await load.run({
        port: contender.port,
        serverPid: contender.pid,
        databasePid: service.address.pid,
        operation,
        concurrency: 64,
        apiKeys,
        entitiesPerOrganization: ENTITIES / organizations,
        warmUpSeconds: round === 0 ? 3 : 0.3,
        seconds: 1.5,
      });
      // The first warms up: compiled by Node, planned by PostgreSQL.
      if (round > 0) found[name].push(measured);
    }
  }
  for (const [name, measured] of Object.entries(found)) {
    const of = (pick: (m: Measurement) => number) => median(measured.map(pick)).toFixed(1).padStart(9);
    process.stdout.write(
      `${name.padEnd(6)} ${of((m) => m.requestsPerSecond)}/s  server ${of((m) => m.serverCpu)} µs  database ${of((m) => m.databaseCpu)} µs  p50 ${of((m) => m.p50)} ms  p99 ${of((m) => m.p99)} ms\n`,
    );
  }
}

const [other, operation = "get", rounds = "7", organizations = "1"] = process.argv.slice(2);
if (other === undefined || (operation !== "get" && operation !== "update")) {
  throw new Error("usage: npm run bench:compare -- <folder of another checkout> [get|update] [rounds] [organizations]");
}
await compare(other, operation, Number(rounds), Number(organizations));
