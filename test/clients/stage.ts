// The service as the tests of a client in another language need it: two processes on one PostgreSQL, and somebody who
// restarts them or cuts their connections when the tests ask for it.
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmodSync, mkdtempSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { freePort } from "../../scripts/service-process.ts";
import {
  createDatabase,
  createPostgres,
  DATABASE,
  findBinaries,
  folderOf,
  killPostgres,
  PASSWORD,
  removeFolder,
  SERVICE_ROLE,
} from "../faults/postgres.ts";
import { killServices, type Service, startService } from "../faults/service.ts";

export interface Stage {
  /** What the tests find in their environment. */
  env: Record<string, string>;
  /** Processes that ended by themselves, and lines that were logged as errors. */
  problems(): string[];
  end(): Promise<void>;
}

export async function startStage(): Promise<Stage> {
  const work = mkdtempSync(join(tmpdir(), "entity-service-clients-"));
  chmodSync(work, 0o755);
  process.on("exit", () => {
    killServices();
    killPostgres();
    removeFolder(work);
  });
  const binaries = findBinaries(work);
  const postgres = await createPostgres(binaries, join(work, "primary"));
  await postgres.start();
  await createDatabase(postgres, folderOf(binaries, join(work, "space")));
  const apiKey = randomBytes(24).toString("hex");
  const services: Service[] = [];
  for (const name of ["one", "two"]) {
    services.push(
      await startService({
        ...{ name, work, bootstrapKey: apiKey, secrets: [], port: await freePort() },
        source: fileURLToPath(new URL("../..", import.meta.url)),
        databaseUrl: `postgres://${SERVICE_ROLE}:${PASSWORD}@127.0.0.1:${postgres.port}/${DATABASE}`,
      }),
    );
  }
  const acts: Record<string, () => Promise<unknown>> = {
    /** Rolling: one process after the other. */
    restart: async () => {
      for (const service of services) {
        await service.terminate();
        while (!service.isUp()) await sleep(50);
        await sleep(500);
      }
    },
    cut: () =>
      postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", [SERVICE_ROLE]),
  };
  const control = createServer(async (request, response) => {
    try {
      const act = acts[request.url?.slice(1) ?? ""];
      if (act === undefined) throw new Error(`there are ${Object.keys(acts).join(", ")}`);
      await act();
      response.end();
    } catch (error) {
      response.writeHead(500).end(String(error));
    }
  }).listen(0, "127.0.0.1");
  await once(control, "listening");
  return {
    env: {
      ENTITY_SERVICE_TARGET: `http://${services.map(({ baseUrl }) => new URL(baseUrl).host).join(",")}`,
      ENTITY_SERVICE_API_KEY: apiKey,
      ENTITY_SERVICE_CONTROL: `http://127.0.0.1:${(control.address() as AddressInfo).port}`,
    },
    problems: () => services.flatMap(({ ended }) => ended),
    async end() {
      control.close();
      await Promise.all(services.map((service) => service.stop()));
      await postgres.stop("fast");
    },
  };
}
