// Builds the console into a folder that is named by what it is made of, and prints that folder's path. Where it is there
// already there is nothing to do. What is finished appears at once: two that build at the same time do not meet.
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { setPriority } from "node:os";
import { join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { gzip } from "node:zlib";

// Before anything else is loaded, so that its threads have it too: nobody's call waits for a page.
setPriority(19);

const here = fileURLToPath(new URL(".", import.meta.url));
const [folder = join(here, "dist")] = process.argv.slice(2);
const target = join(resolve(folder), await digestOfSources());
if (!existsSync(join(target, "index.html.gz"))) {
  // What is there without it is left of a removal that was cut short.
  await rm(target, { recursive: true, force: true });
  await build();
}
process.stdout.write(`${target}\n`);

/** Everything that the result depends on: the sources, what they take of the client and the versions of the packages. */
async function digestOfSources(): Promise<string> {
  const root = resolve(here, "../..");
  const hash = createHash("sha256");
  for (const file of ["package-lock.json", "clients/typescript/errors.ts"])
    hash.update(await readFile(join(root, file)));
  for (const place of ["clients/console", "clients/typescript/gen"]) {
    const names = await readdir(join(root, place), { recursive: true, withFileTypes: true });
    const files = names.flatMap((one) => (one.isFile() ? [join(one.parentPath, one.name)] : []));
    for (const file of files.sort()) {
      if (relative(here, file).startsWith("dist")) continue;
      hash.update(`\0${relative(root, file)}\0`).update(await readFile(file));
    }
  }
  return hash.digest("hex").slice(0, 16);
}

async function build(): Promise<void> {
  const { build: bundle } = await import("vite");
  const { settings } = await import("./vite.config.ts");
  const unfinished = `${target}.${process.pid}`;
  await bundle({ ...settings, configFile: false, logLevel: "error", build: { ...settings.build, outDir: unfinished } });
  await compress(unfinished);
  await rename(unfinished, target).catch(async (error: NodeJS.ErrnoException) => {
    await rm(unfinished, { recursive: true, force: true });
    if (!existsSync(target)) throw error;
  });
  await removeOthers();
}

async function compress(place: string): Promise<void> {
  const entries = await readdir(place, { recursive: true, withFileTypes: true });
  for (const entry of entries.filter((one) => one.isFile())) {
    const file = join(entry.parentPath, entry.name);
    await writeFile(`${file}.gz`, await promisify(gzip)(await readFile(file), { level: 9 }));
  }
}

/** Builds of other sources. A process that serves one of them has it in memory. */
async function removeOthers(): Promise<void> {
  await mkdir(folder, { recursive: true });
  for (const name of await readdir(folder)) {
    const other = join(resolve(folder), name);
    if (/^[0-9a-f]{16}$/.test(name) && other !== target) await rm(other, { recursive: true, force: true });
  }
}
