// The linter: correctness beside biome, and which file may import what. scripts/check-imports.ts plants every import that
// the table allows or refuses, and expects the linter to say so.
import { dirname, posix } from "node:path";
import type { OxlintConfig, OxlintOverride } from "oxlint";

/** What a file, or every file of a folder (its path ends with a slash), may import. */
export interface Direction {
  /** Files and folders of this repository: the files in the folder, not those of its folders, but for generated code. */
  imports: string[];
  packages?: string[];
  /** The refusal of all else. */
  message: string;
  /** Names of `@connectrpc/connect` that are refused, and why. */
  refusedNames?: { names: string[]; message: string };
}

const node = ["node:*", "node:*/*"];
const protobuf = ["@bufbuild/protobuf", "@bufbuild/protobuf/**"];
const connect = ["@connectrpc/connect", "@connectrpc/connect/**"];
const generated = "clients/typescript/gen/**/";
const client = "clients/typescript/index.ts";

/** What the families of RPCs share; they never import each other. */
export const SHARED_RPC = [
  "entity-fields",
  "entity-filter",
  "entity-message",
  "entity-update",
  "import-groups",
  "message",
  "page",
  "read-mask",
  "request",
  "update-mask",
  "violations",
  "well-formed",
  "write",
].map((name) => `src/rpc/${name}.ts`);

const nameOfCode = {
  names: ["Code"],
  message: "only errors.ts, interceptors/ and transport/ name a Code: match the reason",
};
const buildingErrors = {
  names: ["Code", "ConnectError"],
  message: "only errors.ts, interceptors/ and transport/ build a ConnectError or name a Code: throw DomainError",
};

/** The later of two that are for a file is the one that counts. */
export const DIRECTIONS: Record<string, Direction> = {
  "src/main.ts": { imports: ["src/cli.ts"], packages: node, message: "main imports cli" },
  "src/cli.ts": {
    imports: [
      ...["src/cli/", "src/server.ts", "src/cluster.ts", "src/worker.ts", "src/config.ts", "src/logger.ts"],
      ...["src/signals.ts", "src/defects.ts", "src/audit-key.ts", "src/db/database.ts", client],
    ],
    packages: [...node, "commander", "cli-progress", ...protobuf, "@connectrpc/connect"],
    message:
      "the command line imports its commands, server, cluster, worker, signals, defects, database, config, log and clients",
    refusedNames: nameOfCode,
  },
  "src/cli/": {
    imports: [
      ...["src/cli/", "src/config.ts", "src/file-lock.ts", "src/domain/", client, generated],
      ...["src/interceptors/json-problem.ts", "src/rpc/well-formed.ts"],
    ],
    packages: [
      ...[...node, "commander", "standardwebhooks", "cli-progress", "csv-parse", "csv-parse/sync"],
      ...[...protobuf, "@connectrpc/connect"],
    ],
    message:
      "a command imports other commands, config, file-lock, domain, json-problem, well-formed and clients: it is a caller, not the service",
    refusedNames: nameOfCode,
  },
  "src/config.ts": { imports: [], message: "config imports nothing" },
  "src/signals.ts": { imports: [], packages: node, message: "signals imports nothing" },
  "src/defects.ts": { imports: ["src/logger.ts"], packages: node, message: "defects imports log" },
  "src/logger.ts": { imports: [], packages: ["pino"], message: "logger imports pino" },
  "src/paged.ts": { imports: [], message: "paged imports nothing" },
  "src/file-lock.ts": { imports: [], packages: node, message: "file-lock imports nothing" },
  "src/secret-file.ts": { imports: [], packages: node, message: "secret-file imports nothing" },
  "src/audit-key.ts": {
    imports: ["src/audit/", "src/config.ts", "src/secret-file.ts"],
    packages: node,
    message: "audit-key imports audit, config and secret-file",
  },
  "src/cluster.ts": {
    imports: [
      ...["src/server.ts", "src/audit-key.ts", "src/config.ts", "src/logger.ts"],
      ...["src/db/database.ts", "src/db/orm.ts", "src/transport/taken-port.ts"],
    ],
    packages: [...node, "prom-client"],
    message: "cluster imports server, audit-key, database, orm, taken-port, config and log",
  },
  "src/worker.ts": {
    imports: [
      ...["src/cluster.ts", "src/server.ts", "src/config.ts", "src/logger.ts", "src/signals.ts"],
      ...["src/db/orm.ts", "src/defects.ts", "src/interceptors/telemetry.ts"],
    ],
    packages: [...node, "prom-client"],
    message: "worker imports cluster, server, signals, defects, orm, telemetry, config and log",
  },
  "src/server.ts": {
    imports: [
      ...[
        "src/audit/",
        "src/audit-key.ts",
        "src/config.ts",
        "src/defects.ts",
        "src/logger.ts",
        "src/routes.ts",
        "src/rpc/well-formed.ts",
        "src/secret-file.ts",
      ],
      ...[
        "src/signals.ts",
        "src/bell.ts",
        "src/slots.ts",
        "src/console/",
        "src/db/",
        "src/entities/",
        "src/log/",
        "src/nats/",
        "src/risk/",
        "src/webhooks/",
      ],
      ...["src/interceptors/", "src/transport/"],
    ],
    packages: [...node, "pino"],
    message: "server imports everything but what a call is answered with: that is for routes",
  },
  "src/routes.ts": {
    imports: ["src/rpc/", generated],
    packages: ["@bufbuild/protobuf", "@connectrpc/connect"],
    message: "routes imports rpc and the generated code",
    refusedNames: buildingErrors,
  },
  "src/errors.ts": {
    imports: ["src/domain/", generated],
    packages: [...protobuf, "@connectrpc/connect"],
    message: "errors imports domain and the generated code",
  },
  "src/domain/": {
    imports: ["src/domain/"],
    packages: ["stdnum"],
    message: "domain imports domain and stdnum",
  },
  "src/domain/seal.ts": {
    imports: ["src/domain/"],
    packages: ["node:crypto"],
    message: "seal imports domain and, for its hash, node:crypto",
  },
  "src/domain/checkpoint.ts": {
    imports: ["src/domain/"],
    packages: ["node:crypto"],
    message: "checkpoint imports domain and, for its hashes, node:crypto",
  },
  "src/bell.ts": { imports: [], message: "bell imports nothing" },
  "src/slots.ts": { imports: ["src/domain/"], message: "slots imports domain" },
  "src/in-turn.ts": { imports: [], message: "in-turn imports nothing" },
  "src/db/": {
    imports: ["src/domain/", "src/db/", "src/db/migrations/index.ts", "src/postgres/embedded.ts"],
    packages: [...node, "@mikro-orm/*", "kysely", "pg", "pg-protocol", "prom-client"],
    message: "db, the way in, imports domain, the embedded server, MikroORM, Kysely, pg and prom-client",
  },
  "src/db/migrations/": {
    imports: ["src/db/migrations/"],
    packages: ["@mikro-orm/migrations"],
    message: "a migration imports nothing of ours: it never changes with the code",
  },
  "src/postgres/": {
    imports: ["src/postgres/", "src/file-lock.ts"],
    packages: node,
    message: "the embedded server imports file-lock alone",
  },
  "src/log/": {
    imports: ["src/log/", "src/db/", "src/domain/", "src/bell.ts", "src/slots.ts"],
    packages: node,
    message: "log imports db, domain and slots",
  },
  "src/audit/": {
    imports: [
      ...["src/audit/", "src/entities/", "src/log/", "src/db/", "src/domain/", "src/slots.ts"],
      ...["evaluations", "matrices"].map((name) => `src/risk/${name}.ts`),
    ],
    packages: [...node, "pino", "prom-client"],
    message: "audit imports entities, log, the receipts of risk, db, domain and slots",
  },
  "src/entities/": {
    imports: ["src/entities/", "src/log/", "src/db/", "src/domain/", "src/bell.ts", "src/slots.ts", "src/in-turn.ts"],
    packages: [...node, "@mikro-orm/postgresql"],
    message: "entities imports log, db, domain, slots and in-turn",
  },
  "src/console/": {
    imports: ["src/console/", "src/transport/pages.ts", "src/logger.ts"],
    packages: [...node, "pino"],
    message: "console imports the pages of the transport and the log: its data comes by the public API",
  },
  "src/nats/": {
    imports: ["src/nats/", "src/log/", "src/db/", "src/domain/", "src/bell.ts", "src/logger.ts"],
    packages: [...node, "prom-client"],
    message: "nats imports log, db, domain and logger",
  },
  "src/nats/jetstream.ts": {
    imports: ["src/nats/event-message.ts"],
    packages: ["@nats-io/*"],
    message: "jetstream imports the client of NATS and the message",
  },
  "src/webhooks/": {
    imports: ["src/webhooks/", "src/log/", "src/db/", "src/domain/", "src/bell.ts", "src/slots.ts"],
    packages: [...node, "pino", "prom-client", "@mikro-orm/core", "@mikro-orm/postgresql"],
    message: "webhooks imports log, db, domain and slots",
  },
  "src/risk/": {
    imports: ["src/risk/", "src/db/", "src/domain/", "src/slots.ts"],
    packages: [...node, "@mikro-orm/core", "@mikro-orm/postgresql"],
    message: "risk imports db, domain and slots",
  },
  "src/risk/expressions.ts": {
    imports: ["src/domain/"],
    packages: ["@bufbuild/cel"],
    message: "expressions imports domain and the library of CEL",
  },
  "src/risk/thread.ts": {
    imports: ["src/risk/expressions.ts", "src/domain/"],
    packages: node,
    message: "the thread imports expressions and domain",
  },
  "src/rpc/": {
    imports: [
      ...["src/domain/", "src/db/", "src/entities/", "src/log/"],
      ...["checkpoints", "short-turns", "signing-key", "verify"].map((name) => `src/audit/${name}.ts`),
      ...["evaluations", "evaluator", "matrices"].map((name) => `src/risk/${name}.ts`),
      ...["backlog", "endpoint-row", "history", "queue", "signature", "url"].map((name) => `src/webhooks/${name}.ts`),
      ...[
        "src/bell.ts",
        "src/slots.ts",
        "src/in-turn.ts",
        "src/interceptors/call.ts",
        "src/errors.ts",
        "src/paged.ts",
        generated,
        ...SHARED_RPC,
      ],
    ],
    packages: [...node, ...protobuf, "@connectrpc/connect", "@mikro-orm/core", "@mikro-orm/postgresql"],
    message:
      "rpc imports its nouns, slots, in-turn, interceptors/call, errors and the generated code; families never import each other",
    refusedNames: buildingErrors,
  },
  "src/interceptors/": {
    imports: [
      ...["src/interceptors/", "src/domain/", "src/errors.ts"],
      ...["src/config.ts", "src/defects.ts", "src/in-turn.ts", generated],
    ],
    packages: [...node, "pino", "prom-client", ...protobuf, ...connect],
    message: "interceptors import domain, errors, config, defects, in-turn and the generated code",
  },
  "src/transport/": {
    imports: [
      ...["src/transport/", "src/interceptors/", "src/domain/"],
      ...["src/errors.ts", "src/config.ts", "src/paged.ts", "src/slots.ts", "src/in-turn.ts", generated],
    ],
    packages: [...node, "pino", "prom-client", ...protobuf, ...connect, "@connectrpc/connect-node"],
    message: "transport imports interceptors, domain, errors, config, paged, slots, in-turn and the generated code",
  },
};

/** What a file of the repository may not import by any name. */
const REFUSED: Record<string, { regex: string; message: string }> = {
  "clients/**": { regex: "(^|/)(src|test)/", message: "a client imports nothing of the service" },
  "test/**": { regex: "(^|/)main\\.ts$", message: "nothing imports main.ts" },
};

const restricted = (options: object): OxlintOverride["rules"] => ({
  "no-restricted-imports": ["error", options] as never,
});

function overrideOf([place, { imports, packages = [], message, refusedNames }]: [string, Direction]): OxlintOverride {
  const folder = place.endsWith("/") ? place : `${dirname(place)}/`;
  const allowed = imports.map((target) => {
    const relative = posix.relative(folder, target);
    const specifier = relative.startsWith(".") ? relative : `./${relative}`;
    return target.endsWith("/") ? `${specifier === "./" ? "." : specifier}/*.ts` : specifier;
  });
  return {
    files: [place.endsWith("/") ? `${place}**` : place],
    rules: restricted({
      ...(refusedNames !== undefined && {
        paths: [{ name: "@connectrpc/connect", importNames: refusedNames.names, message: refusedNames.message }],
      }),
      patterns: [{ group: ["**", ...[...packages, ...allowed].map((one) => `!${one}`)], message }],
    }),
  };
}

const config: OxlintConfig = {
  plugins: ["typescript", "import", "oxc", "promise"],
  categories: { correctness: "error" },
  rules: {
    "no-unused-vars": "off", // tsc's noUnusedLocals and noUnusedParameters
    "typescript/no-this-alias": "off", // getters of an object literal need one
    // Types too: a circle of types is one that a reader walks.
    "import/no-cycle": ["error", { ignoreTypes: false }] as never,
    ...restricted({ patterns: [{ regex: "(^|/)(test/|main\\.ts$)", message: "nothing imports test/ or main.ts" }] }),
  },
  ignorePatterns: ["clients/*/gen/**", "third_party/**"],
  // Each replaces the rule of those before it.
  overrides: [
    {
      files: ["src/**"],
      rules: {
        "typescript/consistent-type-imports": "error",
        // Files have a bound in scripts/check-habits.ts.
        "max-lines-per-function": ["error", { max: 150 }],
        ...restricted({
          patterns: [{ group: ["**"], message: "give this file or folder its directions in oxlint.config.ts" }],
        }),
      },
    },
    // Statements one after the other, which never change once they have landed.
    { files: ["src/db/migrations/**"], rules: { "max-lines-per-function": "off" } },
    ...Object.entries(DIRECTIONS).map(overrideOf),
    ...Object.entries(REFUSED).map(([files, pattern]) => ({
      files: [files],
      rules: restricted({ patterns: [pattern] }),
    })),
  ],
};

export default config;
