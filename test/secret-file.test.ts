// Files of secrets: readable by this user alone, whatever was there before.
import { chmod, mkdtemp, readdir, readFile, readlink, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { writeSecretFile } from "../src/secret-file.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "secret-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const NOW = new Date("2026-11-26T12:00:00.000Z");
const modeOf = async (path: string) => (await stat(path)).mode & 0o777;

test("a new file, in a folder that is not there yet: mode 0600, whatever the umask", async () => {
  const umask = process.umask(0);
  try {
    const path = join(folder, "a", "b", "key");
    await writeSecretFile(path, "new\n", NOW);
    expect(await readFile(path, "utf8")).toBe("new\n");
    expect(await modeOf(path)).toBe(0o600);
    expect(await readdir(join(folder, "a", "b"))).toEqual(["key"]);
  } finally {
    process.umask(umask);
  }
});

test("a file that is there, readable by all: what it held is kept beside, and neither can be read by others", async () => {
  const path = join(folder, "key");
  await writeFile(path, "old\n");
  await chmod(path, 0o644);
  await writeSecretFile(path, "new\n", NOW);
  expect(await readFile(path, "utf8")).toBe("new\n");
  expect((await readdir(folder)).sort()).toEqual(["key", "key.20261126T120000000Z"]);
  expect(await readFile(join(folder, "key.20261126T120000000Z"), "utf8")).toBe("old\n");
  for (const name of await readdir(folder)) expect(await modeOf(join(folder, name)), name).toBe(0o600);
});

test("a link is not followed: where it leads nothing changes", async () => {
  const [path, target] = [join(folder, "key"), join(folder, "target")];
  await writeFile(target, "of somebody else\n");
  await chmod(target, 0o644);
  await symlink(target, path);
  await writeSecretFile(path, "new\n", NOW);
  expect(await readFile(target, "utf8")).toBe("of somebody else\n");
  expect(await modeOf(target)).toBe(0o644);
  expect(await readFile(path, "utf8")).toBe("new\n");
  expect((await stat(path)).ino).not.toBe((await stat(target)).ino);
  expect(await readlink(`${path}.20261126T120000000Z`)).toBe(target);
});

test("a folder that cannot be written, a name that is a folder's: it rejects and leaves nothing", async () => {
  await writeFile(join(folder, "file"), "");
  await expect(writeSecretFile(join(folder, "file", "key"), "new\n", NOW)).rejects.toMatchObject({ code: "EEXIST" });
  expect(await readdir(folder)).toEqual(["file"]);
});
