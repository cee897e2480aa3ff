// The command line: thin, over the same functions as the service and over the generated client.
import { Command, CommanderError } from "commander";
import { type Config, ConfigError, readConfig } from "./config.ts";
import { migrateOnly } from "./db/database.ts";
import { createLogger } from "./log.ts";
import { startServer } from "./server.ts";

type Env = Record<string, string | undefined>;

/** Runs one command; the exit code. Errors are one line on standard error. */
export async function run(args: string[], env: Env): Promise<number> {
  const program = new Command("entity-service").description("The system of record for persons and companies.").exitOverride();
  program.command("serve", { isDefault: true }).description("start the service").action(() => serve(readConfig(env)));
  program
    .command("migrate")
    .description("bring the database up to date")
    .action(async () => {
      const ran = await migrateOnly(readConfig(env), () => {});
      process.stdout.write(ran.length === 0 ? "nothing to migrate\n" : `${ran.join("\n")}\n`);
    });
  try {
    await program.parseAsync(args, { from: "user" });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode;
    process.stderr.write(`entity-service: ${error instanceof Error ? error.message : String(error)}\n`);
    return error instanceof ConfigError ? 2 : 1;
  }
}

async function serve(config: Config): Promise<void> {
  const log = createLogger(config.logLevel);
  const stopped = Promise.withResolvers<string>();
  // From the first moment: a signal during the start ends it in good order too.
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => stopped.resolve(signal));
  const server = await startServer(config, log);
  if (server.bootstrapKey !== undefined) {
    const { secret, file } = server.bootstrapKey;
    log.info({ file }, "made an API key for the new database");
    if (process.stderr.isTTY) process.stderr.write(`\n  API key (shown once, also in ${file}): ${secret}\n\n`);
  }
  log.info({ host: config.host, port: server.port }, "serving");
  const reason = await Promise.race([stopped.promise, server.failed]);
  log.info({ reason }, "draining");
  await server[Symbol.asyncDispose]();
  log.info("stopped");
  if (reason !== "SIGTERM" && reason !== "SIGINT") throw new Error(reason);
}
