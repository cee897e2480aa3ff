// The files of the repository, those that are not committed yet too, as the checks read them.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** By their path, each with its text, where `isWanted` says so. */
export function repositoryFiles(isWanted: (path: string) => boolean = () => true): Map<string, string> {
  const root = fileURLToPath(new URL("..", import.meta.url));
  const list = execFileSync(
    "git",
    ["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    { cwd: root, maxBuffer: 1e9, timeout: 60_000 },
  );
  const paths = list
    .toString()
    .split("\0")
    .filter((path) => path !== "" && isWanted(path) && existsSync(join(root, path)));
  return new Map(paths.map((path) => [path, readFileSync(join(root, path), "utf8")]));
}
