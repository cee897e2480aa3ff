// The process: environment and arguments in, an exit code out. The only reader of process.env.
import { run } from "./cli.ts";

process.exitCode = await run(process.argv.slice(2), process.env);
