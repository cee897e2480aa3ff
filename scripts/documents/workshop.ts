// Where the examples of the documents are run: a folder that looks like a checkout to whoever reads the pages, beside it
// the client's package as it is published, and for each page an organization of its own with the entities of examples/.
import { execFile, spawn } from "node:child_process";
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { create, createEntityClient, EntityType, RiskRuleSchema } from "../../clients/typescript/index.ts";
import { SCOPES } from "../../src/db/api-keys.ts";
import { freePort } from "../service-process.ts";

const exec = promisify(execFile);
const root = fileURLToPath(new URL("../..", import.meta.url));
const bin = join(root, "node_modules/.bin");
const PAGE_LIMIT_MS = 240_000;

/** What a page says where a reader has something of their own. */
const PLACEHOLDERS = {
  address: "127.0.0.1:50051",
  receiver: "8484",
  entityId: "550e8400-e29b-41d4-a716-446655440000",
  matrixId: "660e8400-e29b-41d4-a716-446655440000",
};

/** What the reader of a page has around a block of TypeScript: a key, a user, a place to store; and the clients. */
const GLOBALS = `
import type * as client from "@entity-service/client";
declare global {
  const apiKey: string;
  const user: { id: string };
  const entities: client.EntityClient["entities"];
  const activity: client.EntityClient["activity"];
  const organizations: client.EntityClient["organizations"];
  const webhooks: client.EntityClient["webhooks"];
  function store(entities: client.Entity[]): Promise<void>;
  function apply(event: client.EntityEvent): Promise<void>;
  function storePosition(position: string): Promise<void>;
}
`;
/** A watch has no end: it has been shown to work when the second position is stored. */
const PRELUDE = `
import { createEntityClient } from "@entity-service/client";
const apiKey = process.env.ENTITY_SERVICE_API_KEY;
let positions = 0;
Object.assign(globalThis, createEntityClient({ baseUrl: process.env.ENTITY_SERVICE_URL, apiKey }), {
  apiKey,
  user: { id: "user-42" },
  store: async (entities) => void entities.length,
  apply: async (event) => void event.entityVersion,
  storePosition: async (position) => (position === "" || ++positions < 2 ? undefined : process.exit(0)),
});
`;
const COMPILER = {
  target: "es2022",
  // Connect's declarations name HeadersInit, a type of the browser.
  lib: ["es2022", "dom"],
  module: "nodenext",
  moduleDetection: "force",
  strict: true,
  exactOptionalPropertyTypes: true,
  noUncheckedIndexedAccess: true,
  verbatimModuleSyntax: true,
  erasableSyntaxOnly: true,
  skipLibCheck: true,
  noEmit: true,
  types: ["node"],
  typeRoots: [join(root, "node_modules/@types")],
};

/** What a step of a page said, and its exit code; undefined where the page did not get there. */
export interface Outcome {
  said: string;
  code: number | undefined;
}

/** One thing that a page has the reader do: a command, a script, or a file for Node or for a call. */
export interface Step {
  /** Bash. */
  source: string;
  /** Written before, into the folder of the page or, for Node, beside the client. */
  file?: { name: string; text: string };
}

export interface Workshop extends AsyncDisposable {
  /** What the compiler says of these files; "" where they are right. */
  typeErrors(files: ReadonlyMap<string, string>): Promise<string>;
  /** Does the steps one after the other in one shell. */
  run(steps: readonly Step[], options: PageOptions): Promise<Outcome[]>;
}

export interface PageOptions {
  /** Works with the key of the service itself, in the organization `default`, as who starts one does. */
  asNewcomer?: boolean;
  /** Begins without the entities of examples/: the page makes them itself. */
  isEmpty?: boolean;
}

export interface Service {
  baseUrl: string;
  /** The key of an operator. */
  apiKey: string;
  /** The file of the key that signs its checkpoints. */
  auditSigningKey: string | undefined;
}

/** A workshop beside a running service. */
export async function openWorkshop(service: Service): Promise<Workshop> {
  const folder = await mkdtemp(join(tmpdir(), "documents-"));
  const ts = join(folder, "ts");
  await makePackage(join(ts, "node_modules"));
  await writeFile(join(ts, "package.json"), JSON.stringify({ private: true, type: "module" }));
  await writeFile(join(ts, "globals.d.ts"), GLOBALS);
  await writeFile(join(ts, "prelude.mjs"), PRELUDE);
  await mkdir(join(folder, "bin"));
  const main = `#!/bin/sh\nexec "${process.execPath}" "${join(root, "src/main.ts")}" "$@"\n`;
  await writeFile(join(folder, "bin/entity-service"), main, { mode: 0o755 });
  let pages = 0;

  return {
    async typeErrors(files) {
      for (const [name, text] of files) await writeFile(join(ts, name), text);
      const project = join(ts, "tsconfig.json");
      const names = ["globals.d.ts", ...files.keys()];
      await writeFile(project, JSON.stringify({ compilerOptions: COMPILER, files: names }));
      const checked = exec(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", project]);
      return await checked.then(
        () => "",
        (error: { stdout: string }) => error.stdout,
      );
    },

    async run(steps, { asNewcomer = false, isEmpty = false }) {
      const page = join(folder, `page-${++pages}`);
      const apiKey = asNewcomer ? service.apiKey : await newOrganization(service);
      await lookLikeCheckout(page, apiKey);
      const env = {
        ...process.env,
        PATH: `${bin}:${join(folder, "bin")}:${process.env.PATH}`,
        ENTITY_SERVICE_URL: service.baseUrl,
        ENTITY_SERVICE_API_KEY: apiKey,
        TS: ts,
        ...(service.auditSigningKey === undefined ? {} : { AUDIT_SIGNING_KEY: service.auditSigningKey }),
        npm_config_loglevel: "silent",
        NO_COLOR: "1",
      };
      if (!isEmpty) await exec("entity-service", ["import", "examples/entities.ndjson"], { cwd: page, env });
      if (steps.some(({ source }) => source.includes("audit-checkpoints")))
        await firstCheckpoint(service.baseUrl, apiKey);
      const ids = await placeholders({ baseUrl: service.baseUrl, apiKey }, steps);
      const own = (text: string) => ids.reduce((result, [from, to]) => result.replaceAll(from, to), text);
      for (const { file } of steps) {
        if (file !== undefined) await writeFile(join(/\.ts$/.test(file.name) ? ts : page, file.name), own(file.text));
      }
      const script = steps.map(({ source }, index) => shellOf(own(source), index)).join("\n");
      await inOneShell(script, { cwd: page, env });
      return Promise.all(
        steps.map(async (_, index) => {
          const [said, code] = await Promise.all(
            ["out", "code"].map((kind) => readFile(join(page, `.${index}.${kind}`), "utf8").catch(() => "")),
          );
          return { said: theirs(said ?? "", ids), code: code === "" ? undefined : Number(code) };
        }),
      );
    },

    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  };
}

/** The package as it is published, and what it depends on. */
async function makePackage(modules: string): Promise<void> {
  const client = join(root, "clients/typescript");
  const target = join(modules, "@entity-service/client");
  await mkdir(target, { recursive: true });
  await cp(join(client, "package.json"), join(target, "package.json"));
  const tsc = join(root, "node_modules/typescript/bin/tsc");
  await exec(process.execPath, [tsc, "-p", client, "--outDir", join(target, "dist")]);
  for (const name of ["@bufbuild", "@connectrpc", "standardwebhooks", "@stablelib", "fast-sha256"]) {
    await symlink(join(root, "node_modules", name), join(modules, name));
  }
}

async function lookLikeCheckout(page: string, apiKey: string): Promise<void> {
  await mkdir(join(page, ".data"), { recursive: true });
  await writeFile(join(page, ".data/bootstrap-key"), apiKey);
  for (const name of ["package.json", "node_modules", "src", "clients", "proto", "docs"]) {
    await symlink(join(root, name), join(page, name));
  }
  await cp(join(root, "examples"), join(page, "examples"), { recursive: true });
}

async function newOrganization({ baseUrl, apiKey }: { baseUrl: string; apiKey: string }): Promise<string> {
  const { organizations } = createEntityClient({ baseUrl, apiKey });
  const { organization } = await organizations.createOrganization({ organization: { displayName: "Acme" } });
  const scopes = SCOPES.filter((scope) => scope !== "operator");
  const made = { organizationId: organization?.id ?? "", displayName: "documents", scopes: [...scopes] };
  return (await organizations.createApiKey(made)).secret;
}

/** Waits for the first checkpoint of the log, which readers of the page have had for long. */
async function firstCheckpoint(baseUrl: string, apiKey: string): Promise<void> {
  const { entities } = createEntityClient({ baseUrl, apiKey });
  const limit = performance.now() + 90_000;
  while ((await entities.listAuditCheckpoints({})).checkpoints.length === 0) {
    if (performance.now() > limit) throw new Error("no checkpoint was made");
    await sleep(200);
  }
}

/** What stands for the placeholders that the steps use. */
async function placeholders(
  { baseUrl, apiKey }: { baseUrl: string; apiKey: string },
  steps: readonly Step[],
): Promise<[string, string][]> {
  const { entities, riskMatrices } = createEntityClient({ baseUrl, apiKey });
  const text = steps.map(({ source, file }) => `${source}\n${file?.text}`).join("\n");
  const found: [string, string][] = [[PLACEHOLDERS.address, new URL(baseUrl).host]];
  if (text.includes(PLACEHOLDERS.receiver)) found.push([PLACEHOLDERS.receiver, String(await freePort())]);
  if (text.includes(PLACEHOLDERS.entityId)) {
    const entity = { type: EntityType.PERSON, name: "María Sosa", countryCode: "AR" };
    found.push([PLACEHOLDERS.entityId, (await entities.createEntity({ entity })).entity?.id ?? ""]);
  }
  if (text.includes(PLACEHOLDERS.matrixId)) {
    const expression = "has(entity.attributes.pep)";
    const rule = create(RiskRuleSchema, { id: "pep", displayName: "PEP", expression, points: "35" });
    const { matrix } = await riskMatrices.createRiskMatrix({ matrix: { displayName: "Placeholder", rules: [rule] } });
    found.push([PLACEHOLDERS.matrixId, matrix?.id ?? ""]);
  }
  return found;
}

/** An answer with the addresses that the page has. The digits of a port are also within ids. */
const theirs = (said: string, own: readonly [string, string][]) =>
  own
    .filter(([from]) => !from.includes("-"))
    .reduce((text, [from, to]) => text.replaceAll(new RegExp(`(?<!\\w)${to}(?!\\w)`, "g"), from), said);

/** A step, whose output and exit code are kept. Fails where any of its commands did. */
const shellOf = (source: string, index: number) => `
__failed=0
trap '__failed=$?' ERR
{
${source}
} >.${index}.out 2>&1 </dev/null
trap - ERR
echo $__failed >.${index}.code`;

/** Ends with all that the script has left running. */
async function inOneShell(script: string, { cwd, env }: { cwd: string; env: NodeJS.ProcessEnv }): Promise<void> {
  const child = spawn("bash", ["-c", script], { cwd, env, detached: true, stdio: "ignore" });
  const end = () => {
    try {
      process.kill(-(child.pid as number), "SIGTERM");
    } catch {
      // Nothing is left.
    }
  };
  const limit = setTimeout(end, PAGE_LIMIT_MS);
  await new Promise((resolve) => child.once("close", resolve));
  clearTimeout(limit);
  end();
}
