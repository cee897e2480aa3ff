// Tries every import direction of oxlint.config.ts on the linter: plants each import in a copy, and expects a refusal
// exactly where the table does not allow it. Every folder must be in the table, and the linter must read every file.
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, posix } from "node:path";
import { fileURLToPath } from "node:url";
import { DIRECTIONS, SHARED_RPC } from "../oxlint.config.ts";

interface Diagnostic {
  /** None where the file does not parse. */
  code?: string;
  message: string;
  help?: string;
  filename: string;
  labels: { span: { line: number } }[];
}

const root = fileURLToPath(new URL("..", import.meta.url));
const rpcFiles = (await readdir(join(root, "src/rpc"))).map((name) => `src/rpc/${name}`);
const families = rpcFiles.filter((file) => !SHARED_RPC.includes(file));
const rootFiles = (await readdir(join(root, "src"))).filter((name) => name.endsWith(".ts"));
const folders = (await readdir(join(root, "src"), { withFileTypes: true, recursive: true }))
  .filter((entry) => entry.isDirectory())
  .map((entry) => `${posix.join("src", entry.parentPath.slice(join(root, "src").length), entry.name)}/`);

const domain = "src/domain/entity.ts";
const db = "src/db/orm.ts";
const log = "src/log/watch.ts";
const transport = "src/transport/adapter.ts";
const interceptor = "src/interceptors/errors.ts";
const generated = "clients/typescript/gen/entity/v1/entity_pb.ts";

/** Files to plant imports in, with what they may import: those of the table, one more in each of its folders, each family of RPCs. */
const importers: [file: string, allowed: string[]][] = [
  ...Object.entries(DIRECTIONS).map(([place, { imports }]): [string, string[]] => [
    place.endsWith("/") ? `${place}planted.ts` : place,
    imports,
  ]),
  ...rpcFiles.map((file): [string, string[]] => [file, DIRECTIONS["src/rpc/"]?.imports ?? []]),
  // A file that nobody gave its directions may import nothing.
  ["src/planted.ts", []],
  ["src/planted/planted.ts", []],
];
const targets = [
  ...importers.map(([file]) => file),
  ...Object.values(DIRECTIONS).flatMap(({ imports }) => imports.filter((target) => target.endsWith(".ts"))),
  ...["src/interceptors/call.ts", "src/transport/health.ts", generated, "test/harness.ts"],
];
const mayImport = (allowed: string[], target: string) =>
  allowed.some((one) =>
    one.endsWith("gen/**/")
      ? target.startsWith(one.slice(0, -"**/".length))
      : one.endsWith("/")
        ? `${dirname(target)}/` === one
        : one === target,
  );

/** What only some may take from packages: [file, import statement, refused with this]. */
const STATUS = "only errors.ts, interceptors/ and transport/";
const statements: [file: string, statement: string, refusal: string | undefined][] = [
  ...["Code as One", "type Code as Two", "ConnectError"].flatMap((name) => {
    const statement = `import { ${name} } from "@connectrpc/connect";`;
    return [
      ...[...families, ...SHARED_RPC, "src/routes.ts"].map((file): [string, string, string] => [
        file,
        statement,
        STATUS,
      ]),
      ...[domain, db, log, "src/server.ts"].map((file): [string, string, string] => [file, statement, "imports"]),
      ...["src/errors.ts", interceptor, transport].map((file): [string, string, undefined] => [
        file,
        statement,
        undefined,
      ]),
    ] as [string, string, string | undefined][];
  }),
  ["src/cli.ts", `import { Code as One } from "@connectrpc/connect";`, STATUS],
  ["src/cli/import.ts", `import { Code as One } from "@connectrpc/connect";`, STATUS],
  ["src/cli/import.ts", `import { ConnectError } from "@connectrpc/connect";`, undefined],
  ["src/rpc/write.ts", `import * as connect from "@connectrpc/connect";`, STATUS],
  ["src/rpc/write.ts", `export { Code as Three } from "@connectrpc/connect";`, STATUS],
  ["src/rpc/write.ts", `export * from "../transport/adapter.ts";`, "rpc imports"],
  ["src/rpc/write.ts", `export const late = () => import("../transport/adapter.ts");`, "rpc imports"],
  ["src/rpc/write.ts", `export type Late = import("../transport/adapter.ts").Late;`, "`import()` type annotations"],
  ["src/rpc/write.ts", `import "../domain/../transport/adapter.ts";`, "rpc imports"],
  [domain, `import { randomUUID } from "node:crypto";`, "domain imports domain and stdnum"],
  [domain, `import { fromBinary } from "@bufbuild/protobuf";`, "domain imports domain and stdnum"],
  [domain, `import { validate } from "stdnum";`, undefined],
  [db, `import pg from "pg";`, undefined],
  [log, `import { connect } from "@nats-io/transport-node";`, "log imports db, domain and slots"],
  ["src/nats/jetstream.ts", `import { connect } from "@nats-io/transport-node";`, undefined],
  ["src/config.ts", `import { readFile } from "node:fs/promises";`, "config imports nothing"],
  ["src/server.ts", `import { readFile } from "node:fs/promises";`, undefined],
  [
    "clients/typescript/index.ts",
    `import { readConfig } from "../../src/config.ts";`,
    "a client imports nothing of the service",
  ],
  [
    "clients/typescript/index.ts",
    `import { startService } from "../../test/harness.ts";`,
    "a client imports nothing of the service",
  ],
  ["test/harness.ts", `import { run } from "../src/main.ts";`, "nothing imports main.ts"],
  ["test/harness.ts", `import { startServer } from "../src/server.ts";`, undefined],
  ["scripts/planted.ts", `import { startService } from "../test/harness.ts";`, "nothing imports test/ or main.ts"],
  ["bench/planted.ts", `import { run } from "../src/main.ts";`, "nothing imports test/ or main.ts"],
];

const problems: string[] = [];
for (const place of [...rootFiles.map((name) => `src/${name}`), ...folders]) {
  if (DIRECTIONS[place] === undefined) problems.push(`${place} has no directions in oxlint.config.ts`);
}
for (const place of Object.keys(DIRECTIONS)) {
  if (!existsSync(join(root, place))) problems.push(`oxlint.config.ts: there is no ${place}`);
}

const plants = [...statements];
for (const [from, allowed] of importers) {
  for (const to of new Set(targets)) {
    if (from === to) continue;
    const relative = posix.relative(dirname(from), to);
    const specifier = relative.startsWith(".") ? relative : `./${relative}`;
    const refusal = mayImport(allowed, to) ? undefined : from.startsWith("src/planted") ? "give this file" : "import";
    plants.push(
      [from, `import "${specifier}";`, refusal],
      [from, `import type { T as T${plants.length} } from "${specifier}";`, refusal],
    );
  }
}

const copy = await mkdtemp(join(tmpdir(), "check-imports-"));
try {
  await cp(join(root, "oxlint.config.ts"), join(copy, "oxlint.config.ts"));
  const lines = new Map<string, string[]>();
  for (const [file, statement] of plants) lines.set(file, [...(lines.get(file) ?? []), statement]);
  // And a cycle of types, which takes two files.
  lines.set("src/domain/hen.ts", [`import type { Egg } from "./egg.ts";`, "export type Hen = Egg;"]);
  lines.set("src/domain/egg.ts", [`import type { Hen } from "./hen.ts";`, "export type Egg = Hen;"]);
  for (const [file, text] of lines) {
    await mkdir(dirname(join(copy, file)), { recursive: true });
    await writeFile(join(copy, file), text.join("\n"));
  }
  const { diagnostics } = await oxlint(copy);
  const found = (file: string, line: number) =>
    diagnostics
      .filter((one) => one.filename === file && one.labels.some((label) => label.span.line === line))
      .filter((one) => one.code?.includes("restricted-imports") || one.message.includes("`import()` type"));
  const at = new Map<string, number>();
  for (const [file, statement, refusal] of plants) {
    const line = (at.get(file) ?? 0) + 1;
    at.set(file, line);
    const texts = found(file, line).map((one) => `${one.message} ${one.help ?? ""}`);
    const isRight = refusal === undefined ? texts.length === 0 : texts.some((text) => text.includes(refusal));
    if (isRight) continue;
    const expected = refusal === undefined ? "be allowed" : `be refused with "${refusal}"`;
    problems.push(`${file}: ${statement} should ${expected}; the linter says: ${texts.join(" | ") || "nothing"}`);
  }
  for (const { code, filename, message } of diagnostics)
    if (code === undefined) problems.push(`${filename}: a plant does not parse: ${message}`);
  if (!diagnostics.some(({ code }) => code?.includes("no-cycle"))) problems.push("a planted cycle was not reported");
} finally {
  await rm(copy, { recursive: true, force: true });
}

// The rules above are worth nothing on files that the linter does not read.
const { read, unread } = await coverage();
if (unread.length > 0) problems.push(`the linter does not read ${unread.join(", ")}`);

if (problems.length > 0) {
  process.stderr.write(`${problems.join("\n")}\n`);
  process.exitCode = 1;
} else {
  const refused = plants.filter(([, , refusal]) => refusal !== undefined).length;
  process.stdout.write(
    `${refused} planted imports refused, ${plants.length - refused} allowed; ${read} files linted\n`,
  );
}

function oxlint(directory: string): Promise<{ diagnostics: Diagnostic[]; number_of_files: number }> {
  return new Promise((resolve, reject) => {
    // By this Node, which reads its configuration.
    const arguments_ = [join(root, "node_modules/oxlint/bin/oxlint"), "--format=json", "."];
    execFile(
      process.execPath,
      arguments_,
      { cwd: directory, maxBuffer: 1e9, timeout: 60_000 },
      (error, stdout, stderr) => {
        try {
          resolve(JSON.parse(stdout));
        } catch {
          reject(new Error(`oxlint: ${stderr || stdout || error?.message}`));
        }
      },
    );
  });
}

async function coverage(): Promise<{ read: number; unread: string[] }> {
  const { number_of_files: read } = await oxlint(root);
  const expected: string[] = [];
  for (const folder of ["src", "test", "scripts", "clients/typescript"]) {
    for (const name of await readdir(join(root, folder), { recursive: true })) {
      if (name.endsWith(".ts") && !/(^|\/)(gen|node_modules)\//.test(name)) expected.push(`${folder}/${name}`);
    }
  }
  return {
    read,
    unread: read >= expected.length && expected.length > 60 ? [] : [`all of ${expected.length} files, but ${read}`],
  };
}
