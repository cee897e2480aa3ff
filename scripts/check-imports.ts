// Tries every import direction on the linter: plants each in a copy of the configuration and expects a refusal,
// with the message of the folder, exactly where the table below says so. And the linter must have read every file.
import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, posix } from "node:path";
import { fileURLToPath } from "node:url";

interface Diagnostic {
  /** None where the file does not parse. */
  code?: string;
  message: string;
  help?: string;
  filename: string;
  labels: { span: { line: number } }[];
}

const root = fileURLToPath(new URL("..", import.meta.url));
const rpcFiles = (await readdir(join(root, "src/rpc"))).map((name) => name.replace(/\.ts$/, ""));
const rootFiles = (await readdir(join(root, "src"))).filter((name) => name.endsWith(".ts"));
const sharedRpc = ["entity-message", "message", "request", "violations", "well-formed", "write"];
const families = rpcFiles.filter((name) => !sharedRpc.includes(name)).map((name) => `src/rpc/${name}.ts`);
const shared = sharedRpc.map((name) => `src/rpc/${name}.ts`);

const domain = "src/domain/entity.ts";
const db = "src/db/orm.ts";
const feed = "src/feed/feed.ts";
const webhooks = "src/webhooks/send.ts";
const transport = "src/transport/adapter.ts";
const interceptor = "src/interceptors/errors.ts";
const client = "clients/typescript/index.ts";
const generated = "clients/typescript/gen/entity/v1/";
/** A file, or a folder: the files in it, not those of its folders. */
const mayImport: Record<string, string[]> = {
  "src/main.ts": ["src/cli.ts"],
  "src/cli.ts": [
    ...["src/cli/", "src/server.ts", "src/cluster.ts", "src/worker.ts", "src/config.ts", "src/log.ts"],
    ...["src/signals.ts", "src/db/database.ts", client],
  ],
  "src/cli/import.ts": [
    ...["src/cli/", "src/config.ts", "src/domain/", client, generated],
    ...["src/interceptors/json-requests.ts", "src/rpc/well-formed.ts"],
  ],
  "src/config.ts": [],
  "src/signals.ts": [],
  "src/paged.ts": [],
  "src/secret-file.ts": [],
  "src/log.ts": [],
  "src/cluster.ts": ["src/server.ts", "src/config.ts", "src/log.ts", "src/db/database.ts", "src/db/orm.ts"],
  "src/worker.ts": [
    ...["src/cluster.ts", "src/server.ts", "src/config.ts", "src/log.ts", "src/signals.ts"],
    ...["src/db/orm.ts", "src/interceptors/telemetry.ts"],
  ],
  "src/server.ts": [
    ...["src/config.ts", "src/log.ts", "src/routes.ts", "src/rpc/well-formed.ts"],
    ...["src/secret-file.ts", "src/signals.ts"],
    ...["src/db/", "src/feed/", "src/interceptors/", "src/transport/", "src/webhooks/"],
  ],
  "src/routes.ts": ["src/rpc/", generated],
  "src/errors.ts": ["src/domain/", generated],
  ...Object.fromEntries(
    [...families, ...shared].map((file) => [
      file,
      [
        ...["src/domain/", "src/db/", "src/feed/", "src/webhooks/backlog.ts", "src/webhooks/url.ts"],
        ...["src/interceptors/call.ts", "src/errors.ts", "src/paged.ts", generated, ...shared],
      ],
    ]),
  ),
  [domain]: ["src/domain/"],
  [db]: ["src/domain/", "src/db/", "src/db/migrations/index.ts"],
  "src/db/migrations/20261120120000_init.ts": ["src/db/migrations/"],
  [feed]: ["src/feed/", "src/db/", "src/domain/"],
  "src/feed/nats.ts": ["src/feed/", "src/db/", "src/domain/", "src/log.ts"],
  "src/feed/jetstream.ts": ["src/feed/event-message.ts"],
  [webhooks]: ["src/webhooks/", "src/db/", "src/feed/", "src/domain/"],
  [interceptor]: ["src/interceptors/", "src/domain/", "src/errors.ts", "src/config.ts", generated],
  [transport]: [
    ...["src/transport/", "src/interceptors/", "src/domain/"],
    ...["src/errors.ts", "src/config.ts", "src/paged.ts", generated],
  ],
  // A file that nobody gave its directions may import nothing.
  "src/planted.ts": [],
  "src/planted/planted.ts": [],
};
const files = [
  ...Object.keys(mayImport),
  ...["src/domain/errors.ts", "src/db/queries.ts", "src/db/migrations/index.ts", "src/interceptors/call.ts"],
  ...[
    "src/feed/position.ts",
    "src/feed/event-message.ts",
    "src/webhooks/url.ts",
    "src/cli/lines.ts",
    "src/transport/health.ts",
    `${generated}entity_pb.ts`,
    client,
    "test/harness.ts",
  ],
];

/** What only some may take from packages: [file, import statement, refused with this]. */
const STATUS = "only errors.ts, interceptors/ and transport/";
const statements: [file: string, statement: string, refusal: string | undefined][] = [
  ...["Code as One", "type Code as Two", "ConnectError"].flatMap((name) => {
    const statement = `import { ${name} } from "@connectrpc/connect";`;
    return [
      ...[...families, ...shared, "src/routes.ts"].map((file): [string, string, string] => [file, statement, STATUS]),
      ...[domain, db, feed, "src/server.ts"].map((file): [string, string, string] => [file, statement, "imports"]),
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
  [feed, `import { connect } from "@nats-io/transport-node";`, "feed imports db and domain"],
  ["src/feed/jetstream.ts", `import { connect } from "@nats-io/transport-node";`, undefined],
  ["src/config.ts", `import { readFile } from "node:fs/promises";`, "config imports nothing"],
  ["src/server.ts", `import { readFile } from "node:fs/promises";`, undefined],
  ["clients/typescript/index.ts", `import { readConfig } from "../../src/config.ts";`, "a client stands alone"],
  ["clients/typescript/index.ts", `import { startService } from "../../test/harness.ts";`, "a client stands alone"],
  ["test/harness.ts", `import { run } from "../src/main.ts";`, "nothing imports main.ts"],
  ["test/harness.ts", `import { startServer } from "../src/server.ts";`, undefined],
  ["scripts/planted.ts", `import { startService } from "../test/harness.ts";`, "nothing imports test/ or main.ts"],
  ["bench/planted.ts", `import { run } from "../src/main.ts";`, "nothing imports test/ or main.ts"],
];

const problems: string[] = [];
for (const name of rootFiles) {
  if (mayImport[`src/${name}`] === undefined)
    problems.push(`src/${name} is not in the table of scripts/check-imports.ts`);
}

const plants = [...statements];
for (const [from, allowed] of Object.entries(mayImport)) {
  for (const to of files) {
    if (from === to) continue;
    const relative = posix.relative(dirname(from), to);
    const specifier = relative.startsWith(".") ? relative : `./${relative}`;
    const refusal =
      allowed.includes(to) || allowed.includes(`${dirname(to)}/`)
        ? undefined
        : from.startsWith("src/planted")
          ? "give this file"
          : "import";
    plants.push(
      [from, `import "${specifier}";`, refusal],
      [from, `import type { T as T${plants.length} } from "${specifier}";`, refusal],
    );
  }
}

const copy = await mkdtemp(join(tmpdir(), "check-imports-"));
try {
  await cp(join(root, ".oxlintrc.json"), join(copy, ".oxlintrc.json"));
  const lines = new Map<string, string[]>();
  for (const [file, statement] of plants) lines.set(file, [...(lines.get(file) ?? []), statement]);
  // And a cycle, which takes two files.
  lines.set("src/domain/hen.ts", [`import { egg } from "./egg.ts";`, "export const hen = () => egg;"]);
  lines.set("src/domain/egg.ts", [`import { hen } from "./hen.ts";`, "export const egg = () => hen;"]);
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
    const command = join(root, "node_modules/.bin/oxlint");
    execFile(
      command,
      ["--format=json", "."],
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
