// What is made from the contract and checked in: the code of each client, and the service config of all languages.
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { DescService } from "@bufbuild/protobuf";
import { serviceConfig } from "./service-config.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const env = { ...process.env, PATH: `${root}node_modules/.bin:${process.env.PATH}` };
/** A module of Go reads no file from outside its folder. */
const SERVICE_CONFIGS = ["clients/service-config.json", "clients/go/service-config.json"];
const GO_TEMPLATE = "clients/go/buf.gen.yaml";

/** Generates all of it below `into`. Answers the paths that were made, and what could not be made here. */
export async function generate(into: string): Promise<{ paths: string[]; missing: string[] }> {
  const paths = ["clients/typescript/gen", ...SERVICE_CONFIGS];
  buf(["generate", "--output", into]);
  // Only now: its generated code may have been made this moment.
  const exported: Record<string, unknown> = await import("../clients/typescript/index.ts");
  const config = serviceConfig(Object.values(exported).filter(isService));
  for (const path of SERVICE_CONFIGS) {
    mkdirSync(dirname(join(into, path)), { recursive: true });
    writeFileSync(join(into, path), config);
  }
  const missing = hasGo() ? [] : ["clients/go/gen (needs go, and once a network for the generators)"];
  if (missing.length === 0) {
    buf(["generate", "--template", GO_TEMPLATE, "--output", into]);
    paths.push("clients/go/gen");
  }
  return { paths, missing };
}

/** The files of a path below a folder, by their names: one, or all of a folder; none where nothing is there. */
export function filesOf(folder: string, path: string): Map<string, string> {
  const at = join(folder, path);
  const found = statSync(at, { throwIfNoEntry: false });
  if (found === undefined) return new Map();
  if (found.isFile()) return new Map([[path, readFileSync(at, "utf8")]]);
  return new Map(readdirSync(at).flatMap((name) => [...filesOf(folder, `${path}/${name}`)]));
}

const isService = (value: unknown): value is DescService =>
  typeof value === "object" && value !== null && "kind" in value && value.kind === "service";

function buf(args: string[]): void {
  execFileSync("buf", args, { cwd: root, env, stdio: "inherit", timeout: 120_000 });
}

/** Whether Go's generators run here; they come from the modules that Go keeps, or by its ordinary download. */
function hasGo(): boolean {
  const generators = [...readFileSync(join(root, GO_TEMPLATE), "utf8").matchAll(/\[go, run, (\S+)\]/g)];
  try {
    for (const [, generator = ""] of generators) {
      execFileSync("go", ["run", generator, "--version"], { env, stdio: "ignore", timeout: 120_000 });
    }
    return generators.length > 0;
  } catch {
    return false;
  }
}
