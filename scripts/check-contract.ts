// No change of the contract breaks a caller: compares proto/ with what landed last. The commit to compare with is
// where this branch left main, or the one before when it is main itself. third_party/ is not in git: both sides
// get today's.
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

const base = lastLanded();
if (base === undefined) {
  process.stdout.write("nothing to compare with: no earlier commit here has a contract\n");
} else {
  const before = mkdtempSync(join(tmpdir(), "contract-"));
  try {
    const archive = git("archive", base, "proto", "buf.yaml");
    execFileSync("tar", ["-x", "-C", before], { input: archive });
    cpSync(join(root, "third_party"), join(before, "third_party"), { recursive: true, dereference: true });
    // So may be what is declared in proto/ beside the contract.
    cpSync(join(root, "proto/google"), join(before, "proto/google"), { recursive: true, force: false });
    execFileSync(join(root, "node_modules/.bin/buf"), ["breaking", "--against", before], {
      cwd: root,
      stdio: "inherit",
      timeout: 60_000,
    });
    process.stdout.write(`compared with ${base.slice(0, 12)}\n`);
  } catch (error) {
    if ((error as { status?: number }).status === undefined) throw error;
    process.stderr.write(`the contract breaks callers of ${base.slice(0, 12)}\n`);
    process.exitCode = 1;
  } finally {
    rmSync(before, { recursive: true, force: true });
  }
}

function lastLanded(): string | undefined {
  const head = commit("HEAD");
  const main = commit("refs/remotes/origin/main") ?? commit("refs/heads/main");
  if (head === undefined) return undefined;
  const fork = main && tryGit("merge-base", head, main);
  const isEdited = tryGit("status", "--porcelain", "--", "proto", "buf.yaml") !== "";
  // Main itself with nothing to land compares with the commit before.
  const candidate = fork !== undefined && (fork !== head || isEdited) ? fork : commit("HEAD^1");
  return candidate !== undefined && tryGit("cat-file", "-e", `${candidate}:proto`) !== undefined
    ? candidate
    : undefined;
}

function commit(name: string): string | undefined {
  return tryGit("rev-parse", "--verify", "--quiet", `${name}^{commit}`);
}

/** The output, or undefined where git refuses: no repository, no such commit, a clone without history. */
function tryGit(...args: string[]): string | undefined {
  try {
    return git(...args)
      .toString()
      .trim();
  } catch {
    return undefined;
  }
}

function git(...args: string[]): Buffer {
  // A clone of another user's is fine to read.
  return execFileSync("git", ["-c", "safe.directory=*", ...args], {
    cwd: root,
    stdio: ["ignore", "pipe", "pipe"],
    maxBuffer: 1e9,
    timeout: 60_000,
  });
}
