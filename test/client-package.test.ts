import { execFile } from "node:child_process";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { temporaryFolder } from "./cli-process.ts";
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
    await exec("npm", ["install", ...quiet, `./${tarball}`], { cwd: folder.path });
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
      (name) =>
        !/^dist\/((index|errors|leavable|unseen)|gen\/(entity\/v1|google\/rpc)\/\w+_pb)\.(js|d\.ts)$/.test(name),
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
        async (path) => JSON.parse(await readFile(path, "utf8")) as { dependencies: Record<string, string> },
      ),
    );
    expect(Object.keys(own?.dependencies ?? {})).toHaveLength(3);
    expect(root?.dependencies).toMatchObject(own?.dependencies ?? {});
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
