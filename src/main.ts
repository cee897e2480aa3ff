// The process: environment and arguments in, an exit code out. The only reader of process.env.
import { run } from "./cli.ts";

// Rules ask timestamps for hours and days, which the library reads in the zone of the process, summer time included: a
// receipt must not depend on where it was made. A thread cannot set this for itself.
process.env.TZ = "UTC";

process.exitCode = await run(process.argv.slice(2), process.env);
