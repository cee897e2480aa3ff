// The package of the TypeScript client as the registry would have it: publint, the types for every way to import it, its sizes;
// compiled by TypeScript 5.9 and 7, and run by Node 22, 24 and 26 against the service.
//
//   npm run test:client-package        installs its tools into a folder of its own
import { execFile } from "node:child_process";
import { mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { startServiceProcess } from "../cli-process.ts";
import { bundled } from "./bundled.ts";

const exec = promisify(execFile);
const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const TOOLS = ["publint@0.3.25", "@arethetypeswrong/cli@0.18.5", "typescript@5.9.3", "@types/node@24.19.2"];
/** As npm packages, which have a Node each. */
const NODES = { 22: "22.23.3", 24: "24.9.0", 26: "26.12.1" };
const MOST_BYTES = 60_000;

const CONSUMER = `
import { createEntityClient, EntityType, lookup } from "@entity-service/client";
import { createEntityClient as createWebClient } from "@entity-service/client/web";
const options = { baseUrl: process.env["URL"] ?? "", apiKey: process.env["KEY"] ?? "" };
const names: string[] = [];
for (const client of [createEntityClient(options), createWebClient(options)]) {
  const externalId = "package-" + crypto.randomUUID();
  await client.upsert({ externalId, type: EntityType.PERSON, name: "Ana", countryCode: "AR" });
  const { entity } = await client.entities.getEntity({ lookup: lookup.externalId(externalId) });
  for await (const one of client.entities.listEntities({ externalIds: [externalId] })) names.push(one.name);
  for await (const { position } of client.watch()) {
    if (position !== "") names.push(entity?.name ?? "");
    break;
  }
}
console.log(names.join(" "));
`;

let [passed, failed] = [0, 0];
async function step(name: string, run: () => Promise<string | undefined>): Promise<void> {
  try {
    process.stdout.write(`ok     ${name} ${(await run()) ?? ""}\n`);
    passed++;
  } catch (error) {
    const { stdout = "", message } = error as Error & { stdout?: string };
    process.stdout.write(`FAILED ${name}: ${stdout}${message}\n`);
    failed++;
  }
}

const folder = await mkdtemp(join(tmpdir(), "entity-service-package-"));
try {
  await exec("npm", ["pack", "--pack-destination", folder], { cwd: join(ROOT, "clients/typescript") });
  const tarball = join(folder, (await readdir(folder)).find((name) => name.endsWith(".tgz")) ?? "");
  await writeFile(join(folder, "package.json"), JSON.stringify({ name: "consumer", private: true, type: "module" }));
  const platform = `${process.platform}-${process.arch}`;
  const nodes = Object.entries(NODES).map(([major, version]) => `node-${major}@npm:node-${platform}@${version}`);
  const quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"];
  await exec("npm", ["install", ...quiet, tarball, ...TOOLS, ...nodes], { cwd: folder });
  const bin = (name: string) => join(folder, "node_modules/.bin", name);
  const at = { cwd: folder, env: { ...process.env, NO_COLOR: "1" } };

  const { size } = await stat(tarball);
  await step("the package is under 150 kB", async () => {
    if (size > 150_000) throw new Error(`${size} bytes`);
    return `(${size} bytes)`;
  });
  await step("publint", async () => {
    const args = [bin("publint"), join(folder, "node_modules/@entity-service/client"), "--strict", "--pack", "false"];
    const { stdout } = await exec(process.execPath, args, at);
    if (!stdout.includes("All good")) throw new Error(stdout);
    return undefined;
  });
  await step("attw: the types of every entry, for Node and bundlers", async () => {
    await exec(process.execPath, [bin("attw"), tarball, "--profile", "esm-only"], at);
    return undefined;
  });
  for (const entry of ["@entity-service/client", "@entity-service/client/web"]) {
    await step(`an application bundles under ${MOST_BYTES} bytes of ${entry}, compressed`, async () => {
      const { gzipped } = await bundled(folder, entry);
      if (gzipped >= MOST_BYTES) throw new Error(`${gzipped} bytes`);
      return `(${gzipped} bytes)`;
    });
  }

  await writeFile(join(folder, "consumer.ts"), CONSUMER);
  const compilerOptions = {
    ...{ target: "es2022", lib: ["es2022", "dom", "dom.iterable", "dom.asynciterable"], module: "nodenext" },
    ...{ strict: true, exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true, types: ["node"] },
  };
  await writeFile(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["consumer.ts"] }));
  for (const [version, modules] of [
    ["5.9", folder],
    ["7", ROOT],
  ] as const) {
    await step(`TypeScript ${version} compiles what uses it, its declarations included`, async () => {
      const tsc = join(modules, "node_modules/typescript/bin/tsc");
      await exec(process.execPath, [tsc, "-p", folder], at);
      return `(${(await exec(process.execPath, [tsc, "--version"])).stdout.trim()})`;
    });
  }

  const service = await startServiceProcess(join(folder, "data"));
  try {
    for (const major of Object.keys(NODES)) {
      const node = join(folder, `node_modules/node-${major}/bin/node`);
      await step(`Node ${major} runs it against the service, both entries`, async () => {
        const env = { URL: service.baseUrl, KEY: service.apiKey };
        const { stdout } = await exec(node, [join(folder, "consumer.js")], { env, timeout: 30_000 });
        if (stdout !== "Ana Ana Ana Ana\n") throw new Error(stdout);
        return `(${(await exec(node, ["--version"])).stdout.trim()})`;
      });
    }
  } finally {
    await service[Symbol.asyncDispose]();
  }
} catch (error) {
  failed++;
  process.stdout.write(`FAILED ${error instanceof Error ? error.stack : String(error)}\n`);
} finally {
  await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
}
process.stdout.write(`package: ${passed} passed, ${failed} failed\n`);
process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
