// The Python client against the real service: two processes of it on one PostgreSQL, which the tests may restart, and
// pytest in a virtual environment. Arguments go to pytest.
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { pythonWith } from "../../scripts/generate-python.ts";
import { freePort } from "../../scripts/service-process.ts";
import { killServices, type Service, startService } from "../faults/service.ts";
import { startCluster } from "../postgres-cluster.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const CLIENT = join(ROOT, "clients/python");
const PASSWORD = "python";

process.on("exit", killServices);
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));

const python = pythonWith("test", ["--editable", CLIENT]);
const work = mkdtempSync(join(tmpdir(), "entity-service-python-"));
chmodSync(work, 0o755);
try {
  await using cluster = await startCluster();
  await cluster.sql(`create role es_owner login createrole password '${PASSWORD}'`);
  await cluster.sql("create database es owner es_owner");
  const apiKey = randomBytes(24).toString("hex");
  const started = async (name: string) =>
    startService({
      ...{ name, work, source: ROOT, port: await freePort(), bootstrapKey: apiKey, secrets: [] },
      databaseUrl: cluster.url("es_owner", PASSWORD, "es"),
    });
  const services = [await started("one"), await started("two")];
  await using control = await startControl(services);
  process.exitCode = await pytest({
    ENTITY_SERVICE_ADDRESSES: services.map(({ baseUrl }) => new URL(baseUrl).host).join(","),
    ENTITY_SERVICE_API_KEY: apiKey,
    ENTITY_SERVICE_CONTROL: control.url,
  });
  for (const service of services) await service.stop();
} finally {
  rmSync(work, { recursive: true, force: true });
}

/** `POST /restart/0` ends a process by SIGTERM; the answer comes when it serves again. */
async function startControl(services: Service[]) {
  const server = createServer(async (request, response) => {
    const service = services[Number(request.url?.split("/").at(-1))];
    if (request.method !== "POST" || service === undefined) return void response.writeHead(404).end();
    await service.terminate();
    while (!service.isUp()) await new Promise((resolve) => setTimeout(resolve, 50));
    response.end();
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: async () => void server.close(),
  };
}

/** Runs the tests; the last line counts them. */
async function pytest(more: Record<string, string>): Promise<number> {
  const child = spawn(python, ["-m", "pytest", "-p", "no:cacheprovider", ...process.argv.slice(2)], {
    cwd: CLIENT,
    env: { ...process.env, PYTHONDONTWRITEBYTECODE: "1", ...more },
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    output += text;
    process.stdout.write(text);
  });
  const [code] = (await once(child, "close")) as [number | null];
  const summary = output.trimEnd().split("\n").at(-1) ?? "";
  const count = (what: string) => Number(new RegExp(`(\\d+) ${what}`).exec(summary)?.[1] ?? 0);
  const [passed, failed] = [count("passed"), count("failed") + count("error")];
  process.stdout.write(`python: ${passed} passed, ${code === 0 || failed > 0 ? failed : 1} failed\n`);
  return code ?? 1;
}
