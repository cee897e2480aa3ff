// How the console gets into memory. An image has it built already; in a checkout a child process of low priority builds
// it when somebody first asks for it, or at the start of a worker, which takes it a second or two, and does nothing where
// that was done before.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { extname, join, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import type { KeptFile } from "./page.ts";

const CONSOLE = fileURLToPath(new URL("../../clients/console/", import.meta.url));
const BUILDER = join(CONSOLE, "build.ts");
/** Where it is built once and for all: npm run console, and the image. */
const PREBUILT = join(CONSOLE, "dist");
const BUILD_LIMIT_MS = 120_000;
/** What is kept in memory at most. */
const MAX_FILES = 100;
const MAX_BYTES = 8 * 1024 * 1024;
const MAX_SAID = 4_000;

const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};

/** Whether it has been built with the program, as in an image. */
export const isPrebuilt = (): boolean => !existsSync(BUILDER);

/** The files of the console by their path below /console/, built where they are not. Rejects with what the build said. */
export async function consoleFiles(dataDir: string, signal: AbortSignal): Promise<Map<string, KeptFile>> {
  if (isPrebuilt()) return filesIn(await onlyFolderIn(PREBUILT));
  return filesIn(await build(resolve(dataDir, "console"), signal));
}

/** Builds in another process, and returns the folder with the result. */
function build(folder: string, signal: AbortSignal): Promise<string> {
  // None of the service's secrets is in its environment.
  const { PATH, HOME, TMPDIR } = process.env;
  const env = { PATH, HOME, TMPDIR, NODE_ENV: "production" };
  const child = spawn(process.execPath, ["--max-old-space-size=256", BUILDER, folder], {
    env,
    signal,
    cwd: CONSOLE,
    timeout: BUILD_LIMIT_MS,
    stdio: ["ignore", "pipe", "pipe"],
  });
  // Where there is no descriptor left there are no pipes either: the error is all that comes.
  const failed = new Promise<never>((_, reject) => child.once("error", reject));
  let said = "";
  let complaints = "";
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    said = (said + text).slice(-MAX_SAID);
  });
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    complaints = (complaints + text).slice(-MAX_SAID);
  });
  const ended = new Promise<string>((settle, reject) => {
    child.once("close", (code, how) => {
      const built = said.trimEnd().split("\n").at(-1);
      if (code === 0 && built) settle(built);
      else reject(new Error(complaints.trim() || `the build ended with ${code ?? how}`));
    });
  });
  return Promise.race([failed, ended]);
}

async function onlyFolderIn(folder: string): Promise<string> {
  const [first] = await readdir(folder);
  if (first === undefined) throw new Error(`${folder} is empty`);
  return join(folder, first);
}

async function filesIn(folder: string): Promise<Map<string, KeptFile>> {
  const names = await readdir(folder, { recursive: true });
  const files = new Map<string, KeptFile>();
  let bytes = 0;
  for (const name of names) {
    const type = TYPES[extname(name)];
    const file = join(folder, name);
    if (type === undefined || !(await stat(file)).isFile()) continue;
    const [body, gzipped] = await Promise.all([readFile(file), readFile(`${file}.gz`)]);
    bytes += body.length + gzipped.length;
    if (files.size >= MAX_FILES || bytes > MAX_BYTES) throw new Error("the console is larger than it may be");
    const path = name.split(sep).join("/");
    files.set(path, { type, body, gzipped, isImmutable: path.startsWith("assets/") });
  }
  return files;
}
