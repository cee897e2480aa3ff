import { execFile } from "node:child_process";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { temporaryFolder } from "./cli-process.ts";
import { bundled } from "./clients/bundled.ts";
import { newPerson } from "./given.ts";
import { startService, type TestService } from "./harness.ts";

const exec = promisify(execFile);
const ROOT = fileURLToPath(new URL("..", import.meta.url));
const PACKAGE = `${ROOT}clients/typescript`;

/** What a caller would write: strict, with every kind of export of the package. */
const CONSUMER = `
import {
  Code, ConnectError, create, createEntityClient, type Entity, type EntityErrorInfo, EntitySchema, EntityStatus, EntityType,
  errorInfo, ImportOutcome, timestampDate, toJson,
} from "@entity-service/client";

const { entities, organizations } = createEntityClient({
  baseUrl: process.env["URL"] ?? "", apiKey: process.env["KEY"] ?? "", actorId: "consumer", source: "package-test", defaultTimeoutMs: 5_000,
});
const wanted: Entity = create(EntitySchema, { externalId: "pkg-1", type: EntityType.PERSON, name: "Ana", countryCode: "AR" });
const made = await entities.createEntity({ entity: wanted });
const status: EntityStatus | undefined = made.entity?.status;

let refused: EntityErrorInfo | undefined;
try {
  await entities.createEntity({ entity: wanted });
} catch (error) {
  refused = errorInfo(error);
  if (!(error instanceof ConnectError) || error.code !== Code.AlreadyExists) throw error;
}
const json = JSON.stringify(made.entity && toJson(EntitySchema, made.entity));
const age = made.entity?.createdAt && Date.now() - timestampDate(made.entity.createdAt).getTime();
const { results } = await entities.batchGetEntities({ lookups: [{ by: { case: "externalId", value: "nobody" } }] });
const missing = results[0]?.result.case === "error" ? errorInfo(results[0].result.value) : undefined;

const outcomes: ImportOutcome[] = [];
for await (const answer of entities.importEntities((async function* () {
  yield { entity: wanted };
  yield { entity: { ...wanted, name: "" , externalId: "pkg-2" } };
})())) {
  outcomes.push(...answer.results.map(({ outcome }) => outcome));
}
const { events } = await entities.listEntityEvents({ lookup: { by: { case: "externalId", value: "pkg-1" } } });
const { apiKeys } = await organizations.listApiKeys({});
console.log(JSON.stringify({
  status, refused, missing, outcomes, actor: events[0]?.actor, source: events[0]?.source, keys: apiKeys.length > 0,
  json: JSON.parse(json ?? "").name, young: age !== undefined && Math.abs(age) < 3_600_000,
  none: errorInfo(new Error("other")) === undefined && errorInfo(undefined) === undefined,
}));
`;

/** What the reader has beside the blocks of the package's own README; streams that last end here after what they show. */
const AROUND_PACKAGE_README = (code: string) => `
${code.includes("type Entity") ? "" : 'import type { Entity } from "@entity-service/client";'}
${/createEntityClient\(/.test(code) ? "" : 'import { createEntityClient as connect } from "@entity-service/client";'}
const apiKey = process.env["KEY"] ?? "";
const user = { id: "ana" };
const request = { headers: { traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" } };
const signal = AbortSignal.timeout(2_000);
const store = {
  load: async () => "",
  apply: async (_: object) => {},
  async save(_: string) {
    console.log("saved");
    process.exit();
  },
};
${/const client = /.test(code) ? "" : /createEntityClient\(/.test(code) ? "" : 'const client = connect({ baseUrl: process.env["URL"] ?? "", apiKey });'}
${code.replaceAll('"http://127.0.0.1:50051"', 'process.env["URL"] ?? ""')}
export type { Entity };
export { apiKey, request, signal, store, user };
`;

const COMPILER = {
  target: "es2022",
  // Connect's declarations name HeadersInit, a type of the browser.
  lib: ["es2022", "dom"],
  module: "nodenext",
  moduleResolution: "nodenext",
  strict: true,
  exactOptionalPropertyTypes: true,
  noUncheckedIndexedAccess: true,
  noPropertyAccessFromIndexSignature: true,
  verbatimModuleSyntax: true,
  skipLibCheck: false,
  types: ["node"],
  // The consumer's own @types/node, which Connect's declarations need.
  typeRoots: [`${ROOT}node_modules/@types`],
  paths: {
    "undici-types": [`${ROOT}node_modules/undici-types`],
    "undici-types/*": [`${ROOT}node_modules/undici-types/*`],
  },
};

describe("the package @entity-service/client", () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let service: TestService;
  let tarball: string;
  beforeAll(async () => {
    [folder, service] = await Promise.all([temporaryFolder(), startService()]);
    await exec("npm", ["pack", "--pack-destination", folder.path], { cwd: PACKAGE });
    tarball = (await readdir(folder.path)).find((name) => name.endsWith(".tgz")) ?? "";
    await writeFile(`${folder.path}/package.json`, JSON.stringify({ name: "consumer", private: true, type: "module" }));
    const quiet = ["--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts"];
    // What its README has beside it.
    await exec("npm", ["install", ...quiet, `./${tarball}`, "@opentelemetry/api@1.9.0"], { cwd: folder.path });
  }, 180_000);
  afterAll(async () => {
    await service[Symbol.asyncDispose]();
    await folder[Symbol.asyncDispose]();
  });

  const installed = () => `${folder.path}/node_modules/@entity-service/client`;

  it("has the built client, its declarations, README, LICENSE and package.json, and nothing else", async () => {
    const files = (await readdir(installed(), { recursive: true, withFileTypes: true })).filter((entry) =>
      entry.isFile(),
    );
    const names = files.map((entry) =>
      `${entry.parentPath.slice(installed().length + 1)}/${entry.name}`.replace(/^\//, ""),
    );
    const other = names.filter(
      (name) => !/^dist\/([a-z-]+|gen\/(entity\/v1|google\/rpc)\/\w+_pb)\.(js|d\.ts)$/.test(name),
    );
    expect(other.toSorted()).toEqual(["LICENSE", "README.md", "package.json"]);
    expect(await readFile(`${installed()}/LICENSE`, "utf8")).toBe(await readFile(`${ROOT}LICENSE`, "utf8"));
    for (const name of names.filter((name) => name.endsWith(".js"))) {
      expect(names).toContain(name.replace(/\.js$/, ".d.ts"));
      expect(await readFile(`${installed()}/${name}`, "utf8")).not.toMatch(/from "\.[^"]*\.ts"/);
    }
  });

  it("depends on the very versions that the service is tested with", async () => {
    const [own, root] = await Promise.all(
      [`${installed()}/package.json`, `${ROOT}package.json`].map(
        async (path) =>
          JSON.parse(await readFile(path, "utf8")) as {
            dependencies: Record<string, string>;
            devDependencies?: Record<string, string>;
          },
      ),
    );
    expect(Object.keys(own?.dependencies ?? {})).toHaveLength(4);
    expect({ ...root?.devDependencies, ...root?.dependencies }).toMatchObject(own?.dependencies ?? {});
  });

  it("type-checks in a strict project, its declarations included, and calls the service without any TypeScript at run time", async () => {
    await writeFile(`${folder.path}/consumer.ts`, CONSUMER);
    await writeFile(
      `${folder.path}/tsconfig.json`,
      JSON.stringify({ compilerOptions: COMPILER, files: ["consumer.ts"] }),
    );
    const tsc = `${ROOT}node_modules/typescript/bin/tsc`;
    await exec(process.execPath, [tsc, "-p", folder.path]).catch((error: { stdout: string }) =>
      expect(error.stdout).toBe(""),
    );

    const flags = ["--no-experimental-strip-types"];
    const env = { PATH: process.env.PATH, URL: service.baseUrl, KEY: service.organization.apiKey };
    const { stdout, stderr } = await exec(process.execPath, [...flags, `${folder.path}/consumer.js`], { env });
    expect(stderr).toBe("");
    expect(JSON.parse(stdout)).toEqual({
      status: 1,
      refused: {
        reason: "DUPLICATE_EXTERNAL_ID",
        metadata: { field: "entity.external_id" },
        fieldViolations: [{ field: "entity.external_id", description: expect.any(String) }],
      },
      missing: { reason: "NOT_FOUND", metadata: { lookup: "external_id" }, fieldViolations: [] },
      outcomes: [3, 4],
      actor: "consumer",
      source: "package-test",
      keys: true,
      json: "Ana",
      young: true,
      none: true,
    });
  }, 120_000);

  it("client 15: an application bundles under 60 kB of it, compressed; the entry for the web has no import of Node", async () => {
    for (const entry of ["", "/web"] as const) {
      const { code, gzipped } = await bundled(folder.path, `@entity-service/client${entry}`);
      expect(gzipped).toBeLessThan(60_000);
      expect(gzipped).toBeGreaterThan(30_000);
      expect(/["'](node:)?(http2?|https|zlib|util|stream|buffer|fs)["']/.test(code)).toBe(entry === "");
    }
  });

  it("what the README of the package shows compiles, and runs against the service", async () => {
    await newPerson(service.client, { name: "Ana Gil", externalId: "crm-0", taxId: "27-98765432-1" });
    const text = await readFile(`${PACKAGE}/README.md`, "utf8");
    const blocks = [...text.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code = ""]) => code);
    expect(blocks).toHaveLength(8);
    const files = blocks.map((code, i) => ({ name: `shown-${i}.ts`, text: AROUND_PACKAGE_README(code) }));
    for (const { name, text: code } of files) await writeFile(`${folder.path}/${name}`, code);
    await writeFile(
      `${folder.path}/tsconfig.shown.json`,
      JSON.stringify({ compilerOptions: COMPILER, files: files.map(({ name }) => name) }),
    );
    const tsc = `${ROOT}node_modules/typescript/bin/tsc`;
    await exec(process.execPath, [tsc, "-p", `${folder.path}/tsconfig.shown.json`]).catch((error: { stdout: string }) =>
      expect(error.stdout).toBe(""),
    );
    const env = { PATH: process.env.PATH, URL: service.baseUrl, KEY: service.organization.apiKey };
    const said: string[] = [];
    for (const { name } of files) {
      const { stdout } = await exec(process.execPath, [`${folder.path}/${name.replace(/ts$/, "js")}`], {
        ...{ env, timeout: 30_000 },
      });
      said.push(stdout);
    }
    expect(said[0]).toMatch(/^true \S+ \S+\n$/);
    expect(said[1]).toMatch(/^Ana Gil true\nAna Gil\nAna Gil\n3 \n$/);
    expect(said[2]).toMatch(/^changed meanwhile, now \S+\n$/);
    expect(said[5]).toBe("saved\n");
    expect(said[6]).toBe("");
    expect(said[7]).toBe("1\n");
  }, 180_000);

  it("the README of the package promises what tests of its numbers show", async () => {
    const promised = [...(await readFile(`${PACKAGE}/README.md`, "utf8")).matchAll(/^(\d+)\. /gm)].map(([, n]) => n);
    expect(promised).toEqual(Array.from({ length: 15 }, (_, i) => String(i + 1)));
    const tests = ["client-retries", "client-copy", "client-package"].map((name) =>
      readFile(`${ROOT}test/${name}.test.ts`, "utf8"),
    );
    const shown = [...(await Promise.all(tests)).join("").matchAll(/\b(?:describe|it)\(\s*"client (\d+): /g)];
    expect([...new Set(shown.map(([, n]) => n))].sort((a, b) => Number(a) - Number(b))).toEqual(promised);
  });

  it("a wrong field name does not compile", async () => {
    await writeFile(`${folder.path}/wrong.ts`, CONSUMER.replace('name: "Ana"', 'nam: "Ana"'));
    await writeFile(
      `${folder.path}/tsconfig.wrong.json`,
      JSON.stringify({ compilerOptions: { ...COMPILER, noEmit: true }, files: ["wrong.ts"] }),
    );
    const tsc = `${ROOT}node_modules/typescript/bin/tsc`;
    const { stdout } = await exec(process.execPath, [tsc, "-p", `${folder.path}/tsconfig.wrong.json`]).catch(
      (error: { stdout: string }) => error,
    );
    expect(stdout).toContain("'nam' does not exist");
  });
});
