// The command line: thin, over the same functions as the service and over the generated client. What only
// serve and migrate need is imported by them: it would take the others longer to load than to do their work.
import cluster from "node:cluster";
import { readFileSync } from "node:fs";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { Command, CommanderError, Option } from "commander";
import { listAdministration } from "./cli/administration.ts";
import { addAnalyze } from "./cli/analyze.ts";
import { type LookupOptions, positive, time, timestamp, typesOf, wholeNumber, withLookup } from "./cli/arguments.ts";
import { printCheckpoints, verifyAudit } from "./cli/audit.ts";
import { changeExternalIds } from "./cli/change-external-ids.ts";
import { connect, describe, type Env } from "./cli/connection.ts";
import { addDuplicates } from "./cli/duplicates.ts";
import { addExternalIds } from "./cli/external-ids.ts";
import { CHANGE_HELP, CHECKPOINTS_HELP, HELP, LISTEN_HELP, VERIFY_HELP, WATCH_HELP } from "./cli/help.ts";
import { Interrupted } from "./cli/import.ts";
import { createKey, listKeys, revokeKey } from "./cli/keys.ts";
import { addMerges } from "./cli/merges.ts";
import { lookupOf, printEntity, printEvents } from "./cli/read.ts";
import { type Counts, countsLine, errorsFileOf } from "./cli/report.ts";
import { addTaxIds } from "./cli/tax-ids.ts";
import { addExport, addImport } from "./cli/transfer.ts";
import { watchEntities } from "./cli/watch.ts";
import { type Config, ConfigError, readConfig } from "./config.ts";
import { endWithin, FORCED_EXIT_CODE, heedSignals } from "./signals.ts";

/** The exit code of a command whose output nobody reads to the end, such as `| head`: as shells show SIGPIPE. */
const READER_GONE = 141;

function endWithReader(error: NodeJS.ErrnoException): void {
  if (error.code !== "EPIPE") throw error;
  process.exit(READER_GONE);
}

/** Exit codes: 0 done, 1 failed or some rows failed, 2 the command or the environment cannot be used, 3 a service ended by force. */
export async function run(args: string[], env: Env): Promise<number> {
  const { program, exitCode } = createProgram(env);
  process.stdout.on("error", endWithReader);
  try {
    await program.parseAsync(args, { from: "user" });
    return exitCode();
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    const [what, why] = error instanceof Interrupted ? [`${error.message} - `, error.cause] : ["", error];
    process.stderr.write(`entity-service: ${what}${describe(why, env)}\n`);
    return error instanceof ConfigError ? 2 : 1;
  }
}

function createProgram(env: Env): { program: Command; exitCode: () => number } {
  let code = 0;
  const report = (counts: Counts, errorsFile: string) => {
    process.stdout.write(`${countsLine(counts)}\n`);
    if (counts.failed === 0) return;
    process.stderr.write(`entity-service: ${counts.failed} rows failed, see ${errorsFile}\n`);
    code = 1;
  };

  const program = new Command("entity-service")
    .description("The system of record for persons and companies.")
    .version(
      (JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as { version: string }).version,
    )
    .exitOverride()
    .showHelpAfterError("(entity-service --help shows the commands)")
    .addHelpText("after", HELP);

  program
    .command("serve")
    .description("start the service")
    .action(() => serve(readConfig(env)));

  program
    .command("migrate")
    .description("bring the database up to date")
    .action(async () => {
      const { migrateOnly } = await import("./db/database.ts");
      const ran = await migrateOnly(readConfig(env), () => {});
      process.stdout.write(ran.length === 0 ? "nothing to migrate\n" : `${ran.join("\n")}\n`);
    });

  addImport(program, () => connect(env), report);
  addExport(program, () => connect(env));

  program
    .command("change-external-ids")
    .description("give entities another primary external id, line by line; run again, it goes on where it stopped")
    .argument("<file>", 'NDJSON, {"old": "...", "new": "...", "reason": "..."} a line; - for standard input')
    .option("--errors <file>", "where rows that failed are told of (default: FILE.errors.ndjson)")
    .option("--reason <text>", "the reason of rows that have none: at least 5 characters")
    .option("--keep-previous-as-alias", "keep the old ids attached instead of freeing them", false)
    .addHelpText("after", CHANGE_HELP)
    .action(async (file: string, options: { errors?: string; reason?: string; keepPreviousAsAlias: boolean }) => {
      const errorsFile = options.errors ?? errorsFileOf(file);
      const { reason, keepPreviousAsAlias } = options;
      report(await changeExternalIds(connect(env), { file, errorsFile, reason, keepPreviousAsAlias }), errorsFile);
    });

  withLookup(program.command("get").description("print one entity as JSON"))
    .option("--at <time>", "as it was then, such as 2027-01-31T00:00:00Z; by --id or --external-id", timestamp)
    .action(async (options: LookupOptions & { at?: Timestamp }) => {
      const lookup = lookupOf(options);
      if (lookup === undefined)
        throw new ConfigError("give one of --id, --external-id, --tax-id, such as --external-id customer-1");
      await printEntity(connect(env), lookup, options.at);
    });

  withLookup(program.command("events").description("print what happened, newest first: to one entity, or to all"))
    .option("--type <type...>", "only these types, such as CREATED or ATTRIBUTE_CHANGED")
    .option("--actor <actor>", "only what this user or API key did", "")
    .option("--limit <n>", "how many at most", positive, 100)
    .option("--json", "the whole event as JSON, one a line", false)
    .action(async (options: LookupOptions & { type?: string[]; actor: string; limit: number; json: boolean }) => {
      await printEvents(connect(env), { ...options, lookup: lookupOf(options), types: typesOf(options.type) });
    });

  withLookup(program.command("watch").description("print what happens, as it happens: to one entity, or to all"))
    .option("--position <position>", "what happened since then first (default: from now on)", "")
    .option("--type <type...>", "only these types, such as CREATED or ATTRIBUTE_CHANGED")
    .option("--json", "the whole event with its position as JSON, one a line", false)
    .addHelpText("after", WATCH_HELP)
    .action(async (options: LookupOptions & { position: string; type?: string[]; json: boolean }) => {
      await watchEntities(connect(env), { ...options, lookup: lookupOf(options), types: typesOf(options.type) });
    });

  addAnalyze(
    program,
    () => connect(env),
    () => {
      code = 1;
    },
  );
  const entities = program.command("entities").description("entities that may be one: find, merge and part them");
  addDuplicates(entities, () => connect(env));
  addMerges(entities, () => connect(env));
  addExternalIds(program, () => connect(env));
  addTaxIds(program, () => connect(env));
  addAudit(program, env, () => {
    code = 1;
  });
  addKeys(program, env);
  addAdministration(program, env);
  addWebhooks(program, env);
  return { program, exitCode: () => code };
}

function addKeys(program: Command, env: Env): void {
  const keys = program.command("keys").description("make, list and revoke API keys");
  const organization = () =>
    new Option("--organization <id>", "whose key (default: the organization of your own)").default("", "");
  keys
    .command("create")
    .description("make a key; its secret is printed once, on standard output")
    .requiredOption("--name <name>", "what the key is for")
    .requiredOption("--scope <scope...>", "what it may do, such as entities:read")
    .addOption(organization())
    .option("--expires-at <time>", "when it ends, such as 2027-01-31T00:00:00Z (default: never)", time)
    .action((options: { name: string; scope: string[]; organization: string; expiresAt?: Date }) =>
      createKey(connect(env), {
        name: options.name,
        scopes: options.scope,
        organizationId: options.organization,
        expiresAt: options.expiresAt,
      }),
    );
  keys
    .command("list")
    .description("list the keys, revoked ones too; never a secret")
    .addOption(organization())
    .action((options: { organization: string }) => listKeys(connect(env), options.organization));
  keys
    .command("revoke")
    .description("revoke a key: it is refused within 5 s")
    .argument("<id>", "the key's id, as list shows it")
    .addOption(organization())
    .action((id: string, options: { organization: string }) => revokeKey(connect(env), id, options.organization));
}

function addAudit(program: Command, env: Env, failed: () => void): void {
  program
    .command("audit-key")
    .description("print the public half of the key that signs checkpoints, on the machine that has it")
    .action(async () => {
      const { publicSigningKey } = await import("./audit-key.ts");
      process.stdout.write(await publicSigningKey(readConfig(env)));
    });
  program
    .command("audit-checkpoints")
    .description("print the signed checkpoints of the log as JSON, one a line, to be kept elsewhere")
    .option("--after <number>", "only those behind this one", wholeNumber(0, 999_999_999), 0)
    .option("--leaves", "with the list of their events, 64 bytes each", false)
    .addHelpText("after", CHECKPOINTS_HELP)
    .action((options: { after: number; leaves: boolean }) => printCheckpoints(connect(env), options));
  withLookup(
    program.command("verify-audit").description("verify that nobody has changed the log: of one entity, or all"),
  )
    .option("--from <time>", "only what was recorded since, such as 2027-01-31T00:00:00Z", time)
    .option("--checkpoints <file>", "that was kept elsewhere: each must still be there")
    .option("--public-key <file...>", "PEM: each checkpoint must be signed by one of these")
    .option("--json", "each finding as JSON, one a line", false)
    .addHelpText("after", VERIFY_HELP)
    .action(
      async (options: LookupOptions & { from?: Date; checkpoints?: string; publicKey?: string[]; json: boolean }) => {
        const { from, checkpoints, publicKey: publicKeys = [], json } = options;
        const lookup = lookupOf(options);
        if ((await verifyAudit(connect(env), { lookup, from, checkpoints, publicKeys, json })) > 0) failed();
      },
    );
}

function addAdministration(program: Command, env: Env): void {
  program
    .command("administration")
    .description("print who made or revoked a key or an endpoint, or changed the organization, newest first")
    .option("--organization <id>", "of which (default: the organization of your own)", "")
    .option("--limit <n>", "how many at most", positive, 100)
    .action(({ organization, limit }: { organization: string; limit: number }) =>
      listAdministration(connect(env), { organizationId: organization, limit }),
    );
}

function addWebhooks(program: Command, env: Env): void {
  program
    .command("webhooks")
    .description("try webhooks out")
    .command("listen")
    .description("a receiver for development, on 127.0.0.1: verify, print and answer what comes")
    .option("--port <port>", "where it listens", wholeNumber(0, 65_535), 8484)
    .option(
      "--secret <whsec>",
      "of the endpoint (default: ENTITY_SERVICE_WEBHOOK_SECRET); without it nothing is verified",
    )
    .option("--answer <status>", "answer this to what is verified, to rehearse failures", wholeNumber(200, 599), 204)
    .option("--json", "the whole delivery as JSON, one a line", false)
    .addHelpText("after", LISTEN_HELP)
    .action(async (options: { port: number; secret?: string; answer: number; json: boolean }) => {
      // No other command needs the library that verifies.
      const { listenForWebhooks } = await import("./cli/webhooks.ts");
      const secret = options.secret ?? (env.ENTITY_SERVICE_WEBHOOK_SECRET?.trim() || undefined);
      await listenForWebhooks({ ...options, secret });
    });
}

async function serve(config: Config): Promise<void> {
  if (config.workers > 1 && cluster.isWorker) return (await import("./worker.ts")).serveAsWorker(config);
  // From the first moment: a signal during the start ends it in good order too.
  const signals = heedSignals(["SIGTERM", "SIGINT"]);
  let reload = () => {};
  process.on("SIGHUP", () => reload());
  const { createLogger } = await import("./logger.ts");
  const log = createLogger(config.logLevel);
  const starting =
    config.workers > 1
      ? (await import("./cluster.ts")).startCluster(config, log)
      : (await import("./server.ts")).startServer(config, log);
  const server = await starting;
  ({ reload } = server);
  // Not during the start, which would wait for ever for what was to come of it.
  const defect = (await import("./defects.ts")).heedDefects(log);
  if (server.bootstrapKey !== undefined) {
    const { secret, file } = server.bootstrapKey;
    log.info({ file }, "made an API key for the new database");
    if (process.stderr.isTTY) process.stderr.write(`\n  API key (shown once, also in ${file}): ${secret}\n\n`);
  }
  const { host, workers } = config;
  log.info({ host, port: server.port, ...(workers > 1 && { workers }) }, "serving");
  const reason = await Promise.race([signals.stop, server.failed, defect]);
  log.info({ reason }, "draining");
  const forced = await endWithin(async () => server[Symbol.asyncDispose](), {
    timeoutMs: config.lameDuckMs + config.drainTimeoutMs,
    force: signals.force,
  });
  if (forced !== undefined) {
    log.error({ reason: forced, open: server.open() }, "ended by force");
    await server.abandon();
    process.exit(FORCED_EXIT_CODE);
  }
  log.info("stopped");
  if (reason !== "SIGTERM" && reason !== "SIGINT") throw new Error(reason);
  // Nothing is left to do, whatever a library may still keep a timer for.
  process.exit(0);
}
