// The peer in Go: its code generated from proto/ and built, by the versions that its go.mod and go.sum name.
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const FOLDER = fileURLToPath(new URL("peers/go/", import.meta.url));
const BUF = fileURLToPath(new URL("../node_modules/.bin/buf", import.meta.url));
/** The first build downloads and compiles all that it stands on. */
const LIMIT_MS = 600_000;

/** The program, or why there is none. Throws instead where it must be there: in the continuous integration. */
export async function buildGoPeer(): Promise<{ program: string } | { missing: string }> {
  const run = (file: string, ...args: string[]) =>
    promisify(execFile)(file, args, { cwd: FOLDER, timeout: LIMIT_MS, maxBuffer: 1e9 });
  try {
    await run("go", "version");
    // The generators are tools of the module: `go tool` builds them.
    await run(BUF, "generate");
    await run("go", "build", "-buildvcs=false", "-o", "build/", ".");
    return { program: `${FOLDER}build/entityservice` };
  } catch (error) {
    if (process.env.CI !== undefined) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    return { missing: code === "ENOENT" ? "there is no Go here" : message };
  }
}
