import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http2";
import { PassThrough } from "node:stream";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { toJson } from "@bufbuild/protobuf";
import { type Timestamp, TimestampSchema } from "@bufbuild/protobuf/wkt";
import pg from "pg";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { createEntityClient, type Entity, EntityType, EventType, TaxIdCheck } from "../clients/typescript/index.ts";
import { showProgress } from "../src/cli/report.ts";
import { type CliOptions, cli, startCli, startServiceProcess, temporaryFolder } from "./cli-process.ts";
import { newPerson } from "./given.ts";
import { NO_DEADLINE, startService, type TestOrganization, type TestService } from "./harness.ts";
import { startOther } from "./wall-harness.ts";

const EXAMPLES = fileURLToPath(new URL("../examples/entities.ndjson", import.meta.url));

let service: TestService;
/** Whose key the commands have. */
let organization: TestOrganization;
let folder: Awaited<ReturnType<typeof temporaryFolder>>;
beforeAll(async () => {
  service = await startService();
  organization = service.organization;
});
afterAll(() => service[Symbol.asyncDispose]());
beforeEach(async () => {
  folder = await temporaryFolder();
});
afterEach(() => folder[Symbol.asyncDispose]());

/** Tests whose ids are in nobody's way: each has an organization of its own. */
function eachInItsOrganization(): void {
  beforeEach(async () => {
    organization = await service.newOrganization();
  });
  afterEach(() => {
    organization = service.organization;
  });
}

const env = () => ({ ENTITY_SERVICE_URL: service.baseUrl, ENTITY_SERVICE_API_KEY: organization.apiKey });
const run = (args: string[], options: CliOptions = {}) =>
  cli(args, { cwd: folder.path, ...options, env: { ...env(), ...options.env } });

/** Writes rows, one a line: objects as JSON, strings as they are. */
async function fileOf(rows: unknown[], name = "rows.ndjson"): Promise<string> {
  const path = `${folder.path}/${name}`;
  await writeFile(path, `${rows.map((row) => (typeof row === "string" ? row : JSON.stringify(row))).join("\n")}\n`);
  return path;
}

const errorsIn = async (path: string) =>
  (await readFile(path, "utf8"))
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);

const person = (externalId: string, values: object = {}) => ({
  externalId,
  type: "ENTITY_TYPE_PERSON",
  name: "Ana",
  countryCode: "AR",
  ...values,
});

async function find(externalId: string): Promise<Entity> {
  const { entity } = await organization.client.entities.getEntity({
    lookup: { by: { case: "externalId", value: externalId } },
  });
  return entity as Entity;
}

describe("entities", () => {
  const reason = ["--reason", "same person"];
  async function two() {
    const { entities } = organization.client;
    const made = async (externalId: string, fields: object) =>
      (
        await entities.createEntity({
          entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR", externalId, ...fields },
        })
      ).entity as Entity;
    return [
      await made(`p-${randomUUID()}`, { taxId: `T${randomUUID()}`, attributes: { tier: "gold" } }),
      await made(`s-${randomUUID()}`, { name: "Ana M", taxId: `T${randomUUID()}`, attributes: { tier: "plain" } }),
    ] as const;
  }

  it("rules 86, 90, 103, 108: merge says what is kept, unmerge what comes back and what is lost; a preview changes nothing", async () => {
    const [primary, secondary] = await two();
    const alias = `a-${randomUUID()}`;
    await organization.client.entities.addExternalIds({
      lookup: { by: { case: "entityId", value: secondary.id } },
      externalIds: [{ externalId: alias }],
    });
    const lines = [
      'conflict name: "Ana", not "Ana M"',
      `conflict taxId: "${primary.taxId}", not "${secondary.taxId}"`,
      'conflict attributes.tier: "gold", not "plain"',
      "activity: 0 transactions, 0 user events",
      "",
    ];
    const merge = ["entities", "merge", primary.externalId, `tax-id:${secondary.taxId}`, ...reason];
    expect(await run([...merge, "--preview"])).toEqual({
      ...{ code: 0, stderr: "" },
      stdout: [`would merge ${secondary.id} into ${primary.id}`, ...lines].join("\n"),
    });
    expect((await find(secondary.externalId)).id).toBe(secondary.id);
    const merged = await run(merge);
    const [, mergeId = ""] = /, merge (\S+)\n/.exec(merged.stdout) ?? [];
    expect(merged).toEqual({
      ...{ code: 0, stderr: "" },
      stdout: [`merged ${secondary.id} into ${primary.id}, merge ${mergeId}`, ...lines].join("\n"),
    });
    expect((await find(secondary.externalId)).id).toBe(primary.id);
    const again = await run(merge);
    expect([again.code, again.stderr]).toEqual([1, expect.stringMatching(/^entity-service: MERGE_NOT_ALLOWED: /)]);

    await run(["external-ids", "release", alias, "--force", "--reason", "no longer used"]);
    await organization.client.entities.updateEntity({
      lookup: { by: { case: "entityId", value: primary.id } },
      entity: { attributes: { tier: "silver" } },
    });
    const parted = (word: string) => [
      `${word} ${secondary.id} from ${primary.id}`,
      `edited since attributes.tier: "silver" stays with ${primary.id}, not "plain"`,
      `returned ${secondary.externalId}`,
      `lost ${alias}: RELEASED`,
      "activity: 0 transactions, 0 user events",
    ];
    const unmerge = ["entities", "unmerge", `id:${secondary.id}`, "--reason", "two after all", "--mark-distinct"];
    expect(await run([...unmerge, "--preview"])).toEqual({
      ...{ code: 0, stderr: "" },
      stdout: `${parted("would part").join("\n")}\n`,
    });
    const undone = await run(unmerge);
    expect(undone).toMatchObject({ code: 0, stderr: "" });
    const [, distinctId = ""] = /\nmarked as distinct, (\S+)\n$/.exec(undone.stdout) ?? [];
    expect(undone.stdout).toBe([...parted("parted"), `marked as distinct, ${distinctId}`, ""].join("\n"));
    expect((await find(secondary.externalId)).id).toBe(secondary.id);
    expect((await run(merge)).stderr).toMatch(/MERGE_NOT_ALLOWED: .*distinct/);

    const { events } = await organization.client.entities.listEntityEvents({
      ...{ lookup: { by: { case: "entityId", value: secondary.id } }, types: [EventType.MERGED, EventType.UNMERGED] },
    });
    expect(events.map((event) => [event.reason, event.source, event.actor])).toEqual([
      ["two after all", "cli", organization.apiKeyId],
      ["same person", "cli", organization.apiKeyId],
    ]);
  });

  it("rule 103: a merge down a chain says which to undo first; --merge undoes by its id", async () => {
    const [[a, b], [c]] = [await two(), await two()];
    for (const [primary, secondary] of [
      [b, a],
      [c, b],
    ] as const) {
      const merged = await run(["entities", "merge", `id:${primary.id}`, `id:${secondary.id}`, ...reason, "--json"]);
      expect(JSON.parse(merged.stdout)).toMatchObject({ entity: { id: primary.id }, secondary: { id: secondary.id } });
    }
    const inner = ["entities", "unmerge", a.externalId, ...reason];
    expect((await run(inner)).stderr).toMatch(
      /MERGE_NOT_ALLOWED: .*undo that merge first - .*unmerge --merge [0-9a-f-]{36}/,
    );
    const [, mergeId = ""] = /--merge ([0-9a-f-]{36})/.exec((await run(inner)).stderr) ?? [];
    const undone = await run(["entities", "unmerge", "--merge", mergeId, ...reason, "--json"]);
    const { entity, returned } = JSON.parse(undone.stdout);
    expect([entity.id, new Set(returned)]).toEqual([c.id, new Set([a.externalId, b.externalId])]);
    expect((await run(inner)).stdout).toMatch(new RegExp(`^parted ${a.id} from ${b.id}\n`));
  });

  it("refuses what names no entity, or nothing that is merged, before it changes anything", async () => {
    const [primary] = await two();
    const cases: [string[], number, RegExp][] = [
      [["merge", primary.externalId, ...reason], 2, /missing required argument 'secondary'/],
      [
        ["merge", primary.externalId, primary.id, ...reason],
        2,
        new RegExp(`id:${primary.id} or external-id:${primary.id}`),
      ],
      [["merge", primary.externalId, "external-id:nobody", ...reason], 1, /NOT_FOUND: /],
      [["merge", primary.externalId, "nobody"], 2, /required option '--reason <text>'/],
      [["merge", primary.externalId, "id:nobody", ...reason], 1, /VALIDATION_ERROR: |INVALID_LOOKUP: /],
      [["unmerge", ...reason], 2, /give the merged entity, or --merge UUID/],
      [["unmerge", "x", "--merge", primary.id, ...reason], 2, /give the merged entity, or --merge UUID/],
      [["unmerge", primary.externalId, ...reason], 2, /names no merged entity/],
      [["unmerge", "--merge", primary.id, ...reason], 1, /NOT_FOUND: /],
    ];
    for (const [args, code, stderr] of cases) {
      const ended = await run(["entities", ...args]);
      expect([ended.code, ended.stdout, ended.stderr], args.join(" ")).toEqual([
        code,
        "",
        expect.stringMatching(stderr),
      ]);
    }
  });
});

describe("external-ids", () => {
  it("rules 137, 139: release detaches an alias, once it is forced to; history says who had it when", async () => {
    const { entities } = organization.client;
    const [primary, alias] = [`p-${randomUUID()}`, `a-${randomUUID()}`];
    const { entity } = await entities.createEntity({
      entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR", externalId: primary },
    });
    const id = entity?.id ?? "";
    const lookup = { by: { case: "externalId" as const, value: primary } };
    await entities.addExternalIds({ lookup, externalIds: [{ externalId: alias, type: "web shop" }] });
    const release = ["external-ids", "release", alias, "--reason", "no longer used"];

    const refused = await run(release);
    expect(refused).toMatchObject({ code: 1, stdout: "" });
    expect(refused.stderr).toMatch(/^entity-service: EXTERNAL_ID_IN_USE: .*force/);
    expect(await run([...release, "--force", "--dry-run"])).toEqual({
      code: 0,
      stdout: `would release ${alias} of ${id}\n`,
      stderr: "",
    });
    expect(await run([...release, "--force"])).toEqual({ code: 0, stdout: `released ${alias} of ${id}\n`, stderr: "" });
    expect((await run([...release, "--force"])).stderr).toMatch(/NOT_FOUND/);

    const time = "\\d{4}-\\d\\d-\\d\\dT[\\d:.]+Z";
    const past = `${time}  until ${time}  ${alias}  ${id}  type "web shop"  RELEASED\n`;
    expect((await run(["external-ids", "history", alias])).stdout).toMatch(new RegExp(`^${past}$`));
    expect((await run(["external-ids", "history", "--id", id])).stdout).toMatch(
      new RegExp(`^${past}${time}  until now  ${primary}  ${id}\n$`),
    );
    expect((await run(["external-ids", "history", "--id", id, "--limit", "1"])).stdout.trim().split("\n")).toHaveLength(
      1,
    );
    expect(await run(["external-ids", "history", "nobody"])).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  it.each([
    [["external-ids", "history"]],
    [["external-ids", "history", "x", "--id", "y"]],
    [["external-ids", "release", "x"]],
    [["external-ids", "release", "--reason", "because"]],
  ])("%o is a wrong command: exit code 2", async (args) => {
    expect(await run(args)).toMatchObject({ code: 2, stdout: "" });
  });
});

describe("entities duplicates", () => {
  it("rules 161, 162: prints each pair with its reasons, the most certain first; those of one entity; as JSON", async () => {
    const home = await service.newOrganization();
    const asHome = { env: { ENTITY_SERVICE_API_KEY: home.apiKey } };
    const entityData = { kind: { case: "person" as const, value: { dateOfBirth: "1980-02-03" } } };
    const ids: string[] = [];
    for (const values of [
      { externalId: "Crm 1", taxId: "20-11111111-2", entityData },
      { externalId: "other", entityData },
      { taxId: "20111111112" },
    ]) {
      const { entity } = await home.client.entities.createEntity({
        entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR", ...values },
      });
      ids.push(entity?.id ?? "");
    }
    const [one, two, three] = ids as [string, string, string];
    const lookup = { by: { case: "entityId" as const, value: two } };
    await home.client.entities.addExternalIds({ lookup, externalIds: [{ externalId: "crm1" }] });

    const byTaxId = `${one}  ${three}  SAME_TAX_ID taxId\n`;
    const alike =
      "SAME_EXTERNAL_ID externalIds[0].externalId=externalIds[1].externalId  " +
      "SAME_NAME_AND_DATE name,entityData.person.dateOfBirth\n";
    const stdout = `${byTaxId}${one}  ${two}  ${alike}`;
    expect(await run(["entities", "duplicates"], asHome)).toEqual({ code: 0, stdout, stderr: "" });
    expect(await run(["entities", "duplicates", "--limit", "1"], asHome)).toMatchObject({ stdout: byTaxId });
    expect(await run(["entities", "duplicates", "--tax-id", "20-11111111-2"], asHome)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("AMBIGUOUS_TAX_ID_LOOKUP"),
    });
    const of = await run(["entities", "duplicates", "--external-id", "other"], asHome);
    expect(of.stdout).toMatch(new RegExp(`^${two}  ${one}  SAME_EXTERNAL_ID externalIds\\[1\\].*\n$`));
    const [json] = (await run(["entities", "duplicates", "--json"], asHome)).stdout.split("\n");
    expect(JSON.parse(json ?? "")).toEqual({
      ...{ firstEntityId: one, secondEntityId: three },
      reasons: [{ rule: "DUPLICATE_RULE_SAME_TAX_ID", firstPaths: ["taxId"], secondPaths: ["taxId"] }],
    });
  });

  it("reads every page, and prints no more than the limit", async () => {
    const home = await service.newOrganization();
    const asHome = { env: { ENTITY_SERVICE_API_KEY: home.apiKey } };
    const rows = Array.from({ length: 140 }, (_, i) => person(`d-${i}`, { taxId: "20-11111111-2" }));
    expect(await run(["import", await fileOf(rows)], asHome)).toMatchObject({ code: 0 });
    // Each with the next 10 by id: more than a page.
    const pairs = 130 * 10 + (10 * 9) / 2;
    const all = (await run(["entities", "duplicates", "--limit", "5000"], asHome)).stdout.trimEnd().split("\n");
    expect(new Set(all).size).toBe(pairs);
    const some = (await run(["entities", "duplicates", "--limit", "1200"], asHome)).stdout.trimEnd().split("\n");
    expect(some).toEqual(all.slice(0, 1200));
  });

  it.each([[["entities", "duplicates", "customer-1"]], [["entities", "duplicates", "--limit", "0"]], [["entities"]]])(
    "%j cannot be used: exit code 2",
    async (args) => {
      expect(await run(args)).toMatchObject({ code: 2, stdout: "" });
    },
  );
});

describe("the command line", () => {
  it("--version and --help, with examples", async () => {
    const { version } = JSON.parse(await readFile(new URL("../package.json", import.meta.url), "utf8")) as {
      version: string;
    };
    expect(await run(["--version"])).toEqual({ code: 0, stdout: `${version}\n`, stderr: "" });
    const help = await run(["--help"]);
    expect(help).toMatchObject({ code: 0, stderr: "" });
    for (const word of ["import", "change-external-ids", "keys", "get", "events", "watch", "Examples:"])
      expect(help.stdout).toContain(word);
    expect((await run(["import", "--help"])).stdout).toContain("Examples:");
  });

  it("help shows the commands that the README names", async () => {
    const readme = await readFile(new URL("../README.md", import.meta.url), "utf8");
    const [, list = ""] = /cli -- help` shows all: ([^.(]*)/.exec(readme) ?? [];
    const named = [...new Set([...list.matchAll(/`([^`]+)`/g)].map(([, command = ""]) => command.split(" ")[0]))];
    const { stdout } = await run(["help"]);
    const [, shown = ""] = /\nCommands:\n((?: .*\n)*)/.exec(stdout) ?? [];
    const commands = [...shown.matchAll(/^ {2}([a-z-]+)/gm)].map(([, command]) => command);
    expect(named.toSorted()).toEqual(commands.filter((command) => command !== "help").toSorted());
  });

  it.each([
    [["nonsense"]],
    [["import"]],
    [["get"]],
    [["get", "--id", "a", "--tax-id", "b"]],
    [["events", "--type", "NOTHING"]],
    [["events", "--limit", "0"]],
    [["keys", "create", "--name", "x"]],
    [["keys", "create", "--name", "x", "--scope", "admin", "--expires-at", "tomorrow"]],
  ])("%j cannot be used: exit code 2 and the reason on standard error", async (args) => {
    const { code, stdout, stderr } = await run(args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).not.toBe("");
  });

  it("a key that is not set: says so, and where the first one is", async () => {
    const { code, stderr } = await run(["keys", "list"], { env: { ENTITY_SERVICE_API_KEY: "" } });
    expect(code).toBe(2);
    expect(stderr).toMatch(/^entity-service: ENTITY_SERVICE_API_KEY is not set: .*bootstrap-key.*\n$/);
  });

  it("a service that is not there: says where it looked", async () => {
    for (const args of [
      ["keys", "list"],
      ["get", "--id", randomUUID()],
      ["import", EXAMPLES, "--errors", "e"],
    ]) {
      const { code, stdout, stderr } = await run(args, { env: { ENTITY_SERVICE_URL: "http://127.0.0.1:1" } });
      expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
      expect(stderr).toMatch(
        /^entity-service: nothing answers at http:\/\/127\.0\.0\.1:1 \(ECONNREFUSED\): .*ENTITY_SERVICE_URL.*\n$/,
      );
    }
  });

  it("an address that is none", async () => {
    const { code, stderr } = await run(["keys", "list"], { env: { ENTITY_SERVICE_URL: "127.0.0.1:50051" } });
    expect(code).toBe(2);
    expect(stderr).toMatch(/^entity-service: ENTITY_SERVICE_URL must be a URL .*\n$/);
  });

  it("a key that the service does not know: the reason and the cure, and not the key", async () => {
    const { code, stderr } = await run(["keys", "list"], { env: { ENTITY_SERVICE_API_KEY: "not-a-key-of-anybody" } });
    expect(code).toBe(1);
    expect(stderr).toMatch(/^entity-service: UNAUTHENTICATED: .*ENTITY_SERVICE_API_KEY.*\n$/);
    expect(stderr).not.toContain("not-a-key");
  });
});

describe("whose output nobody reads to the end", () => {
  it.each([["get"], ["events"], ["export", "-"]])("%s ends as others do there, without a trace", async (...args) => {
    const { externalId } = await newPerson(organization.client, { externalId: `unread-${randomUUID()}` });
    const child = startCli([...args, ...(args[0] === "export" ? [] : ["--external-id", externalId])], {
      env: env(),
      cwd: folder.path,
    });
    child.stdout?.destroy();
    expect(await child.ended).toEqual({ code: 141, stdout: "", stderr: "" });
  });
});

describe("a command that is nearly right", () => {
  it("without a command: the help, and no service is started", async () => {
    const { code, stderr } = await run([]);
    expect(code).toBe(2);
    expect(stderr).toContain("Usage: entity-service");
    expect(existsSync(`${folder.path}/.data`)).toBe(false);
  });

  it.each([
    [["imprt", "a.ndjson"], "error: unknown command 'imprt'\n(Did you mean import?)"],
    [["frobnicate"], "error: unknown command 'frobnicate'"],
    [["get", "--extrnal-id", "a"], "(Did you mean --external-id?)"],
    [["get", "newc-1"], "get takes no bare value: did you mean --external-id newc-1?"],
    [["events", randomUUID()], "events takes no bare value: did you mean --id "],
    [["get"], "give one of --id, --external-id, --tax-id, such as --external-id customer-1"],
  ])("%j", async (args, said) => {
    const { code, stderr } = await run(args);
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining(said) });
  });

  it("https where the service speaks no TLS", async () => {
    const url = service.baseUrl.replace("http:", "https:");
    const { code, stderr } = await run(["get", "--external-id", "a"], { env: { ENTITY_SERVICE_URL: url } });
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringContaining(`what listens at ${url} speaks no TLS, so use http:// in place of https://`),
    });
  });

  it("a setting that cannot be used is refused before anything is made", async () => {
    for (const workers of ["1", "2"]) {
      const dataDir = `${folder.path}/data`;
      const env = { WEBHOOK_ALLOW: "127.0.0.1, a b", DATA_DIR: dataDir, PORT: "0", WORKERS: workers };
      const { code, stderr } = await run(["serve"], { env });
      expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining("WEBHOOK_ALLOW: entry 2") });
      expect(existsSync(dataDir)).toBe(false);
    }
  });
});

describe("keys", () => {
  it("create prints the secret alone on standard output; list shows the key and never the secret; revoke ends it", async () => {
    const made = await run([
      "keys",
      "create",
      "--name",
      "night job",
      "--scope",
      "entities:read",
      "--scope",
      "admin",
      "--expires-at",
      "2099-01-31T00:00:00Z",
    ]);
    expect(made.code).toBe(0);
    const secret = made.stdout.trim();
    expect(made.stdout).toBe(`${secret}\n`);
    const id = /[0-9a-f-]{36}/.exec(made.stderr)?.[0] ?? "";
    const asKey = { env: { ENTITY_SERVICE_API_KEY: secret } };

    const list = await run(["keys", "list"], asKey);
    expect(list.code).toBe(0);
    expect(list.stdout.split("\n").find((line) => line.startsWith(id))).toMatch(
      /"night job" {2}entities:read,admin {2}created \d{4}-\d\d-\d\d {2}expires 2099-01-31$/,
    );
    expect(list.stdout).not.toContain(secret);

    expect(await run(["keys", "revoke", id])).toEqual({ code: 0, stdout: `revoked ${id}\n`, stderr: "" });
    expect(await run(["keys", "revoke", id])).toMatchObject({ code: 0, stdout: `${id} was revoked before\n` });
    await expect
      .poll(async () => (await run(["keys", "list"], asKey)).stderr, { timeout: 30_000 })
      .toContain("UNAUTHENTICATED");
    expect((await run(["keys", "list"])).stdout).toMatch(new RegExp(`${id}.*revoked \\d{4}`));

    const trail = await run(["administration", "--limit", "1000"]);
    expect(trail).toMatchObject({ code: 0, stderr: "" });
    const acts = trail.stdout.split("\n").filter((line) => line.includes(id));
    expect(acts.map((line) => line.split("  ")[1])).toEqual(["API_KEY_REVOKED", "API_KEY_CREATED"]);
    expect(acts[1]).toContain('"displayName":"night job"');
    expect(trail.stdout).not.toContain(secret);
    expect((await run(["administration", "--limit", "1"])).stdout.trim().split("\n")).toHaveLength(1);
  });

  it("of another organization, by an operator", async () => {
    const other = await service.newOrganization();
    const made = await run(["keys", "create", "--name", "theirs", "--scope", "admin", "--organization", other.id]);
    expect(made.code).toBe(0);
    const theirs = await run(["keys", "list"], { env: { ENTITY_SERVICE_API_KEY: made.stdout.trim() } });
    expect(theirs.stdout).toContain('"theirs"');
    expect(theirs.stdout).not.toContain('"bootstrap"');
  });

  it("a key without the scope: which one is missing, and how to get it", async () => {
    const { stdout: secret } = await run(["keys", "create", "--name", "reader", "--scope", "entities:read"]);
    const file = await fileOf([person("no-scope")]);
    for (const [args, scope] of [
      [["keys", "list"], "admin"],
      [["import", file], "entities:write"],
    ] as const) {
      const { code, stdout, stderr } = await run([...args], { env: { ENTITY_SERVICE_API_KEY: secret.trim() } });
      expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
      expect(stderr).toMatch(new RegExp(`^entity-service: PERMISSION_DENIED: .*--scope ${scope}.*\\n$`));
    }
  });

  it("a scope that there is not", async () => {
    const { code, stderr } = await run(["keys", "create", "--name", "x", "--scope", "everything"]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^entity-service: VALIDATION_ERROR: scopes\[0\]: must be one of entities:read.*\n$/);
  });
});

describe("import", () => {
  eachInItsOrganization();

  it("the examples: created, then unchanged; keys that the contract does not list are in additional (rule 25)", async () => {
    expect(await run(["import", EXAMPLES, "--errors", "e"])).toEqual({
      code: 0,
      stderr: "",
      stdout: "created 13, updated 0, unchanged 0, failed 0\n",
    });
    expect(await run(["import", EXAMPLES, "--errors", "e"])).toEqual({
      code: 0,
      stderr: "",
      stdout: "created 0, updated 0, unchanged 13, failed 0\n",
    });
    expect(existsSync(`${folder.path}/e`)).toBe(false);
    const { entityData, taxIdCheck } = await find("supplier-2001");
    expect(entityData?.kind.value).toMatchObject({ employees: 250, additional: { revenue: 50_000_000 } });
    expect(taxIdCheck).toBe(TaxIdCheck.VALID);
    expect((await find("customer-1001")).entityData?.kind.value).toMatchObject({
      address: { city: "Buenos Aires", additional: { neighborhood: "Palermo" } },
      additional: { occupation: "architect" },
    });
    const ids = (await readFile(EXAMPLES, "utf8"))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line).externalId as string);
    const { entities } = await organization.client.entities.listEntities({ externalIds: ids });
    const checked = entities.filter(({ taxId }) => taxId !== undefined);
    expect(checked.length).toBeGreaterThan(2);
    expect(checked.map(({ externalId, taxIdCheck }) => [externalId, taxIdCheck])).toEqual(
      checked.map(({ externalId }) => [externalId, TaxIdCheck.VALID]),
    );
    const { stdout } = await run(["events", "--external-id", "supplier-2002", "--json"]);
    expect(JSON.parse(stdout)).toMatchObject({
      source: "cli",
      reason: "Sanctions screening: possible match under investigation",
    });
  });

  it("from standard input, with the default file of errors beside the command", async () => {
    const stdin = `${JSON.stringify(person("stdin-1"))}\r\n\n{"external_id":"stdin-2"}`;
    const { code, stdout, stderr } = await run(["import", "-"], { stdin });
    expect({ code, stdout, stderr }).toEqual({
      code: 1,
      stdout: "created 1, updated 0, unchanged 0, failed 1\n",
      stderr: "entity-service: 1 rows failed, see stdin.errors.ndjson\n",
    });
    expect(await errorsIn(`${folder.path}/stdin.errors.ndjson`)).toMatchObject([
      { line: 3, reason: "VALIDATION_ERROR", field: "entity.type" },
    ]);
  });

  it("rows at fault: line, reason, message and field in the file, nothing of the row, and the others are imported", async () => {
    const canary = "Zyxwvut";
    let deep: object = { [canary]: canary };
    for (let i = 0; i < 300; i++) deep = { a: deep };
    // It can be encoded and not decoded by the server: it would end the stream.
    let deeper = 1 as unknown;
    for (let i = 0; i < 60; i++) deeper = { a: deeper };
    const rows: [row: unknown, expected?: [reason: string, field?: string]][] = [
      [person("ok-1")],
      [`{"external_id":"x", name: "${canary}"}`, ["VALIDATION_ERROR"]],
      [`["${canary}"]`, ["VALIDATION_ERROR"]],
      [person("bad-1", { nam: canary }), ["VALIDATION_ERROR", "entity.nam"]],
      [
        person("bad-2", { entityData: { persona: { firstName: canary } } }),
        ["VALIDATION_ERROR", "entity.entity_data.persona"],
      ],
      [person("bad-3", { name: { first: canary } }), ["VALIDATION_ERROR", "entity.name"]],
      [person("bad-4", { type: canary }), ["VALIDATION_ERROR", "entity.type"]],
      [person("bad-5", { countryCode: canary }), ["VALIDATION_ERROR", "entity.country_code"]],
      [person("bad-6", { status: "ENTITY_STATUS_BLOCKED", name: canary }), ["STATUS_REASON_REQUIRED", "reason"]],
      [
        `{"externalId":"bad-7","type":"ENTITY_TYPE_PERSON","name":"${canary}","name":"${canary}","countryCode":"AR"}`,
        ["VALIDATION_ERROR"],
      ],
      [person("bad-8", { attributes: deep }), ["VALIDATION_ERROR", "entity.attributes"]],
      [person("bad-15", { attributes: deeper as object }), ["VALIDATION_ERROR", `entity.attributes${".a".repeat(33)}`]],
      [person("bad-9", { metadata: { a: `${canary}\u0000` } }), ["VALIDATION_ERROR", "entity.metadata.a"]],
      [person("bad-10", { name: `${canary}\ud800` }), ["VALIDATION_ERROR", "entity.name"]],
      [
        person("bad-11", { external_ids: Array.from({ length: 1100 }, () => ({ external_id: canary.repeat(570) })) }),
        ["VALIDATION_ERROR", "external_ids"],
      ],
      [
        person("bad-12", { entityData: { person: { additional: { extra: canary }, extra: canary } } }),
        ["VALIDATION_ERROR", "entity.entity_data.person.additional"],
      ],
      [
        person("bad-13", { entityData: { person: { additional: canary, extra: canary } } }),
        ["VALIDATION_ERROR", "entity.entity_data.person.additional"],
      ],
      [
        person("bad-14", { name: "", countryCode: canary, request_id: canary }),
        ["VALIDATION_ERROR", "entity.country_code"],
      ],
      [person("ok-2", { reason: "because", request_id: randomUUID(), occurredAt: "2026-01-31T12:00:00Z" })],
    ];
    const file = await fileOf(rows.map(([row]) => row));
    const { code, stdout, stderr } = await run(["import", file]);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "created 2, updated 0, unchanged 0, failed 17\n" });
    expect(stderr).toBe(`entity-service: 17 rows failed, see ${file}.errors.ndjson\n`);
    const text = await readFile(`${file}.errors.ndjson`, "utf8");
    expect(text).not.toContain(canary);
    const errors = await errorsIn(`${file}.errors.ndjson`);
    expect(errors.map(({ line, reason, field }) => [line, reason, field])).toEqual(
      rows.flatMap(([, expected], i) => (expected === undefined ? [] : [[i + 1, expected[0], expected[1]]])),
    );
    for (const error of errors) expect(error.message).toMatch(/\S/);
    expect(errors.at(-1)?.violations).toMatchObject([{ field: "entity.country_code" }, { field: "request_id" }]);

    // A run without errors removes the errors file.
    await writeFile(file, JSON.stringify(person("ok-1")));
    expect(await run(["import", file])).toMatchObject({ code: 0, stderr: "" });
    expect(existsSync(`${file}.errors.ndjson`)).toBe(false);
  });

  it("a line that is not UTF-8, and a last line without an end", async () => {
    const file = `${folder.path}/bytes.ndjson`;
    await writeFile(
      file,
      Buffer.concat([
        Buffer.from([0xef, 0xbb, 0xbf]),
        Buffer.from(JSON.stringify(person("bytes-1"))),
        Buffer.from([10, 0x22, 0xff, 0x22, 10]),
        Buffer.from(JSON.stringify(person("bytes-2", { name: "Zoë" }))),
      ]),
    );
    expect(await run(["import", file])).toMatchObject({
      code: 1,
      stdout: "created 2, updated 0, unchanged 0, failed 1\n",
    });
    expect(await errorsIn(`${file}.errors.ndjson`)).toMatchObject([
      { line: 2, message: "The line is not valid UTF-8" },
    ]);
    expect((await find("bytes-2")).name).toBe("Zoë");
  });

  it("a file that is packed by gzip is read, one that is cut off ends the run and says so", async () => {
    const packed = gzipSync(await readFile(EXAMPLES));
    const file = `${folder.path}/examples.ndjson.gz`;
    await writeFile(file, packed);
    expect(await run(["import", file, "--dry-run"])).toMatchObject({ code: 0, stderr: "" });
    expect(await run(["import", "-", "--dry-run"], { stdin: packed })).toMatchObject({ code: 0 });
    await writeFile(file, packed.subarray(0, packed.length / 2));
    const cut = await run(["import", file, "--dry-run"]);
    expect({ code: cut.code, stderr: cut.stderr }).toEqual({
      code: 1,
      stderr: expect.stringContaining("unexpected end of file"),
    });
  });

  it.each([
    [
      "UTF-16 with a mark",
      Buffer.from(`\ufeff${JSON.stringify(person("u-1"))}\n`, "utf16le"),
      "is UTF-16: write it as UTF-8",
    ],
    [
      "UTF-16 without one",
      Buffer.from(`${JSON.stringify(person("u-1"))}\n`, "utf16le"),
      "is UTF-16: write it as UTF-8",
    ],
    [
      "one JSON array",
      Buffer.from(JSON.stringify([person("u-1")], null, 2)),
      "is one JSON array: write an object a line",
    ],
    ["an array, packed", gzipSync(JSON.stringify([person("u-1")])), "is one JSON array: write an object a line"],
    [
      "CSV",
      Buffer.from('external_id,name\nu-1,"Ana, the first"\n'),
      "looks like CSV: say with --columns which field each column is",
    ],
    [
      "CSV with semicolons",
      Buffer.from('"external id";name\r\nu-1;Ana\r\n'),
      "looks like CSV: say with --columns which field each column is",
    ],
  ])("a file of another kind is one sentence and no file of errors: %s", async (_, bytes, said) => {
    const file = `${folder.path}/other`;
    await writeFile(file, bytes);
    for (const [args, stdin] of [[["import", file]], [["import", "-", "--errors", "e"], bytes]] as const) {
      const { code, stdout, stderr } = await run([...args], stdin === undefined ? {} : { stdin });
      expect({ code, stdout, stderr }).toEqual({ code: 1, stdout: "", stderr: expect.stringContaining(said) });
      expect(stderr.split("\n")).toHaveLength(2);
    }
    expect(existsSync(`${file}.errors.ndjson`)).toBe(false);
    expect(existsSync(`${folder.path}/e`)).toBe(false);
  });

  it("keys such as __proto__ are kept, in a person and in an address (rule 74)", async () => {
    const file = await fileOf([
      '{"externalId":"proto","type":"ENTITY_TYPE_PERSON","name":"Ana","countryCode":"AR","entityData":{"person":{"__proto__":{"a":1},"constructor":"x","address":{"city":"Salta","__proto__":"y"},"additional":{"kept":true}}}}',
    ]);
    expect(await run(["import", file])).toMatchObject({ code: 0 });
    const data = (await find("proto")).entityData?.kind.value;
    const members = (object: object | undefined) => Object.entries(object ?? {}).toSorted();
    expect(members(data?.additional)).toEqual([
      ["__proto__", { a: 1 }],
      ["constructor", "x"],
      ["kept", true],
    ]);
    expect(members(data?.address?.additional)).toEqual([["__proto__", "y"]]);
  });

  it("--dry-run writes nothing and counts what would be; --reason is that of rows without one", async () => {
    const file = await fileOf([
      person("dry-1", { status: "ENTITY_STATUS_BLOCKED" }),
      person("dry-2", { status: "ENTITY_STATUS_REJECTED", reason: "its own" }),
    ]);
    const before = await service.sql("select count(*) from entity_event");
    expect(await run(["import", file, "--dry-run"])).toMatchObject({
      code: 1,
      stdout: "created 1, updated 0, unchanged 0, failed 1\n",
    });
    expect(await run(["import", file, "--dry-run", "--reason", "screening"])).toMatchObject({
      code: 0,
      stdout: "created 2, updated 0, unchanged 0, failed 0\n",
    });
    expect(await service.sql("select count(*) from entity_event")).toEqual(before);
    expect(await run(["import", file, "--reason", "screening"])).toMatchObject({
      code: 0,
      stdout: "created 2, updated 0, unchanged 0, failed 0\n",
    });
    const reasons = await service.sql(
      "select reason from entity_event where external_id like 'dry-%' order by external_id",
    );
    expect(reasons).toEqual([{ reason: "screening" }, { reason: "its own" }]);
  });

  it("a file that is not there, and errors that would go into the input", async () => {
    expect(await run(["import", "nowhere.ndjson"])).toMatchObject({
      code: 1,
      stdout: "",
      stderr: expect.stringMatching(/^entity-service: ENOENT: .*\n$/),
    });
    expect(await run(["import", "."])).toMatchObject({
      code: 1,
      stdout: "",
      stderr: expect.stringContaining("is a folder"),
    });
    const file = await fileOf([person("input")]);
    expect(await run(["import", file, "--errors", file])).toMatchObject({ code: 1, stdout: "" });
    expect(await readFile(file, "utf8")).toContain('"input"');
  });

  it("a connection that breaks in the middle: how far it came, that it is safe to run again, no counts; then it goes on", async () => {
    const rows = Array.from({ length: 20_000 }, (_, i) => person(`broken-${i}`));
    const file = await fileOf(rows);
    const data = await temporaryFolder();
    try {
      const first = await startServiceProcess(data.path);
      const own = { ENTITY_SERVICE_URL: first.baseUrl, ENTITY_SERVICE_API_KEY: first.apiKey };
      const running = startCli(["import", file], { env: own });
      // Not by a process, which takes as long to start as a fast machine to import the rest.
      const { entities } = createEntityClient({ ...first, ...NO_DEADLINE });
      const some = { lookup: { by: { case: "externalId" as const, value: "broken-600" } } };
      const isThere = async () => (await entities.getEntity(some).catch(() => undefined)) !== undefined;
      await expect.poll(isThere, { timeout: 60_000, interval: 20 }).toBe(true);
      await first.kill();
      const { code, stdout, stderr } = await running.ended;
      expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
      expect(stderr).toMatch(
        /^entity-service: ended after line (\d+) \(created \1, updated 0, unchanged 0, failed 0\): .*Run the same command again: it is safe, .*\n$/,
      );
      const done = Number(/after line (\d+)/.exec(stderr)?.[1]);
      expect(done).toBeGreaterThan(0);
      expect(done).toBeLessThan(rows.length);

      await using second = await startServiceProcess(data.path);
      const again = await cli(["import", file], { env: { ...own, ENTITY_SERVICE_URL: second.baseUrl } });
      const [, created, unchanged] = /^created (\d+), updated 0, unchanged (\d+), failed 0\n$/.exec(again.stdout) ?? [];
      expect(Number(created) + Number(unchanged)).toBe(rows.length);
      expect(Number(unchanged)).toBeGreaterThanOrEqual(done);
    } finally {
      await data[Symbol.asyncDispose]();
    }
  }, 120_000);

  it("an answer that is none of the service's", async () => {
    await using server = createServer((_, response) => response.writeHead(404).end());
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const url = `http://127.0.0.1:${(server.address() as { port: number }).port}`;
    const { code, stdout, stderr } = await run(["import", EXAMPLES, "--errors", "e"], {
      env: { ENTITY_SERVICE_URL: url },
    });
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(/^entity-service: .*\n$/);
    expect(stderr).toContain(url);
  });

  it("progress: on a terminal rows, rate and time left; elsewhere nothing", () => {
    const terminal = Object.assign(new PassThrough(), { isTTY: true, columns: 80 });
    let written = "";
    terminal.on("data", (chunk: Buffer) => (written += chunk.toString()));
    {
      using progress = showProgress(terminal as unknown as NodeJS.WriteStream, 1000);
      progress.update(500, 42);
    }
    expect(written).toMatch(/50% \| 42 rows \| \d+ rows\/s \| .*left/);
    const pipe = Object.assign(new PassThrough(), { isTTY: false });
    {
      using progress = showProgress(pipe as unknown as NodeJS.WriteStream, 1000);
      progress.update(500, 42);
    }
    expect(pipe.read()).toBe(null);
  });
});

describe("change-external-ids", () => {
  eachInItsOrganization();

  const create = (...externalIds: string[]) =>
    Promise.all(
      externalIds.map(async (externalId) => {
        const { entity } = await organization.client.entities.createEntity({
          entity: { externalId, type: EntityType.PERSON, name: "Ana", countryCode: "AR" },
        });
        return entity?.id ?? "";
      }),
    );
  const reason = "CRM migration";
  const changes = () =>
    service.sql<{ n: number }>("select count(*)::int as n from entity_event where type = 'EXTERNAL_ID_CHANGED'");

  it("changes each row in order: ids that move on, ids that swap; run again, all are unchanged and nothing is written", async () => {
    const [a, b, c] = await create("swap-a", "swap-b", "chain-1");
    const file = await fileOf([
      { old: "swap-a", new: "swap-tmp", reason },
      { old: "swap-b", new: "swap-a", reason },
      { old: "swap-tmp", new: "swap-b", reason },
      { old: "chain-1", new: "chain-2", reason },
      { old: "chain-2", new: "chain-3", reason },
    ]);
    expect(await run(["change-external-ids", file])).toEqual({
      code: 0,
      stderr: "",
      stdout: "created 0, updated 5, unchanged 0, failed 0\n",
    });
    const after = await changes();
    expect(await run(["change-external-ids", file])).toEqual({
      code: 0,
      stderr: "",
      stdout: "created 0, updated 0, unchanged 5, failed 0\n",
    });
    expect(await changes()).toEqual(after);
    expect([(await find("swap-b")).id, (await find("swap-a")).id, (await find("chain-3")).id]).toEqual([a, b, c]);
  });

  it("a row that was done otherwise is unchanged: the old id is gone and the entity changed to the new one from it", async () => {
    await create("else-1", "else-2");
    await organization.client.entities.changeExternalId({
      lookup: { by: { case: "externalId", value: "else-1" } },
      newExternalId: "else-1b",
      reason,
    });
    const file = await fileOf([
      { old: "else-1", new: "else-1b", reason },
      { old: "never-there", new: "else-2", reason },
      { old: "never-there", new: "nor-this", reason },
    ]);
    expect(await run(["change-external-ids", file])).toMatchObject({
      code: 1,
      stdout: "created 0, updated 0, unchanged 1, failed 2\n",
    });
    expect(await errorsIn(`${file}.errors.ndjson`)).toMatchObject([
      { line: 2, reason: "NOT_FOUND" },
      { line: 3, reason: "NOT_FOUND" },
    ]);
  });

  it("rows at fault fail alone, by line, reason and field, and say nothing of the row", async () => {
    await create("fault-1", "fault-2");
    const rows = [
      "no json fault-1",
      { old: "fault-1", new: "fault-2", reason },
      { old: "fault-1", new: "fault-9", reason: "no" },
      { old: "fault-1", new: " " },
      { old: 5, new: "fault-9", reason },
      { old: "fault-1", newer: "fault-9", reason },
      { old: " fault-1 ", new: " fault-3 ", reason },
    ];
    const file = await fileOf(rows);
    const { code, stdout, stderr } = await run(["change-external-ids", file]);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "created 0, updated 1, unchanged 0, failed 6\n" });
    const errors = await errorsIn(`${file}.errors.ndjson`);
    expect(errors.map(({ line, reason, field }) => [line, reason, field])).toEqual([
      [1, "VALIDATION_ERROR", undefined],
      [2, "DUPLICATE_EXTERNAL_ID", "new_external_id"],
      [3, "VALIDATION_ERROR", "reason"],
      [4, "VALIDATION_ERROR", "new"],
      [5, "VALIDATION_ERROR", "old"],
      [6, "VALIDATION_ERROR", "newer"],
    ]);
    expect(`${stderr}${JSON.stringify(errors)}`).not.toContain("fault-");
  });

  it("--reason for rows without one; --keep-previous-as-alias where ids cannot be freed (rule 53)", async () => {
    const strict = await service.newOrganization("IMMUTABLE");
    const asStrict = { env: { ENTITY_SERVICE_API_KEY: strict.apiKey } };
    await strict.client.entities.createEntity({
      entity: { externalId: "kept-1", type: EntityType.PERSON, name: "Ana", countryCode: "AR" },
    });
    const file = await fileOf([{ old: "kept-1", new: "kept-2" }]);
    expect(await run(["change-external-ids", file, "--reason", reason], asStrict)).toMatchObject({ code: 1 });
    expect(await errorsIn(`${file}.errors.ndjson`)).toMatchObject([{ reason: "EXTERNAL_ID_IMMUTABLE" }]);
    const keep = ["change-external-ids", file, "--reason", reason, "--keep-previous-as-alias"];
    expect(await run(keep, asStrict)).toMatchObject({
      code: 0,
      stdout: "created 0, updated 1, unchanged 0, failed 0\n",
    });
    expect(await run(keep, asStrict)).toMatchObject({
      code: 0,
      stdout: "created 0, updated 0, unchanged 1, failed 0\n",
    });
  });

  it("killed in the middle and run again: every row is done once, those before count as unchanged", async () => {
    const names = Array.from({ length: 80 }, (_, i) => `kill-${i}`);
    const ids = await create(...names);
    const file = await fileOf(names.map((old) => ({ old, new: `${old}-new`, reason })));
    const before = (await changes())[0]?.n ?? 0;
    // Somewhere in the middle it waits.
    const holder = new pg.Client(service.database);
    await holder.connect();
    onTestFinished(() => holder.end());
    await holder.query("begin");
    await holder.query("select from entity where id = $1 for no key update", [ids[40]]);
    const running = startCli(["change-external-ids", file], { env: env() });
    const done = async () => ((await changes())[0]?.n ?? 0) - before;
    await expect.poll(done).toBe(40);
    running.kill("SIGKILL");
    await running.ended;
    const first = await done();
    expect(first).toBe(40);
    await holder.query("rollback");
    const again = await run(["change-external-ids", file]);
    expect(again).toMatchObject({ code: 0, stderr: "" });
    const [, updated, unchanged] = /^created 0, updated (\d+), unchanged (\d+), failed 0\n$/.exec(again.stdout) ?? [];
    expect(Number(updated) + Number(unchanged)).toBe(80);
    expect(Number(unchanged)).toBeGreaterThanOrEqual(first);
    expect(await done()).toBe(80);
    for (const name of names) expect((await find(`${name}-new`)).externalIds).toHaveLength(1);
  });

  it("a refusal of the whole run ends it: which scope is missing", async () => {
    const { stdout: secret } = await run([
      "keys",
      "create",
      "--name",
      "writer",
      "--scope",
      "entities:read",
      "--scope",
      "entities:write",
    ]);
    await create("scope-1");
    const file = await fileOf([{ old: "scope-1", new: "scope-2", reason }]);
    const { code, stdout, stderr } = await run(["change-external-ids", file], {
      env: { ENTITY_SERVICE_API_KEY: secret.trim() },
    });
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(/^entity-service: PERMISSION_DENIED: .*--scope external_ids:change.*\n$/);
  });
});

describe("get and events", () => {
  beforeAll(async () => {
    const write = (externalId: string, values: object, reason = "") =>
      organization.client.entities.updateEntity({
        lookup: { by: { case: "externalId", value: externalId } },
        entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR", ...values },
        allowMissing: true,
        reason,
      });
    await write("read-1", { taxId: "20-11111111-2" });
    await write("read-1", { name: "Ana María" }, "married\nand renamed");
    await write("read-2", { taxId: "27-22222222-3" });
    await write("read-3", { taxId: "27222222223" });
  });

  it("get prints one entity as JSON, by its id, an external id or its tax id", async () => {
    const { id } = await find("read-1");
    const answers = [];
    for (const lookup of [
      ["--id", id],
      ["--external-id", "read-1"],
      ["--tax-id", "20.11111111.2"],
    ])
      answers.push(await run(["get", ...lookup]));
    for (const answer of answers) expect(answer).toEqual(answers[0]);
    expect(answers[0]?.code).toBe(0);
    expect(JSON.parse(answers[0]?.stdout ?? "")).toMatchObject({
      id,
      externalId: "read-1",
      type: "ENTITY_TYPE_PERSON",
      name: "Ana María",
    });
    expect(answers[0]?.stdout.split("\n").length).toBeGreaterThan(2);
  });

  it("get --at prints it as it was then, to the microsecond", async () => {
    const now = await find("read-1");
    const { events } = await organization.client.entities.listEntityEvents({
      lookup: { by: { case: "entityId", value: now.id } },
    });
    const [renamed, created] = events.map(({ recordedAt }) => recordedAt) as [Timestamp, Timestamp];
    const at = async (time: string) => run(["get", "--external-id", "read-1", "--at", time]);
    const nameAt = async (time: Timestamp) => JSON.parse((await at(toJson(TimestampSchema, time))).stdout).name;
    expect(await nameAt(created)).toBe("Ana");
    expect(await nameAt({ ...renamed, nanos: renamed.nanos - 1_000 })).toBe("Ana");
    expect(await nameAt(renamed)).toBe("Ana María");
    expect(await at("2001-01-31T00:00:00+02:00")).toEqual({
      code: 1,
      stdout: "",
      stderr: "entity-service: NOT_FOUND: Entity not found\n",
    });
    expect((await run(["get", "--tax-id", "20111111112", "--at", "2026-01-31T00:00:00Z"])).stderr).toMatch(
      /^entity-service: VALIDATION_ERROR: lookup.tax_id: .*use entity_id or external_id\n$/,
    );
    for (const time of ["yesterday", "2026-02-30T00:00:00Z", "2026-11-30", "2026-11-30T10:00Z"]) {
      expect(await at(time), time).toMatchObject({ code: 2, stdout: "", stderr: expect.stringContaining("--at") });
    }
  });

  it("get says that there is none, that the lookup is none, and who the candidates are", async () => {
    expect(await run(["get", "--external-id", "nobody"])).toEqual({
      code: 1,
      stdout: "",
      stderr: "entity-service: NOT_FOUND: Entity not found\n",
    });
    expect((await run(["get", "--id", "42"])).stderr).toMatch(
      /^entity-service: VALIDATION_ERROR: lookup.entity_id: .*\n$/,
    );
    const ambiguous = await run(["get", "--tax-id", "27-22222222-3"]);
    expect(ambiguous.code).toBe(1);
    for (const externalId of ["read-2", "read-3"]) expect(ambiguous.stderr).toContain((await find(externalId)).id);
  });

  it("events, newest first, one readable line each, whatever the reason holds", async () => {
    const { code, stdout } = await run(["events", "--external-id", "read-1"]);
    expect(code).toBe(0);
    const lines = stdout.trimEnd().split("\n");
    expect(lines).toHaveLength(2);
    expect(lines[0]).toMatch(
      /^\d{4}-.*Z {2}\S+ read-1 v2 {2}ATTRIBUTE_CHANGED {2}name {2}by \S+ via api {2}reason "married\\nand renamed"$/,
    );
    expect(lines[1]).toMatch(/ v1 {2}CREATED /);
  });

  it("events by type, actor and limit, as JSON, and across the organization", async () => {
    const events = async (...args: string[]) =>
      (await run(["events", "--json", ...args])).stdout
        .trimEnd()
        .split("\n")
        .filter(Boolean)
        .map((line) => JSON.parse(line) as Record<string, string>);
    expect((await events("--external-id", "read-1", "--type", "created")).map(({ type }) => type)).toEqual([
      "EVENT_TYPE_CREATED",
    ]);
    expect(
      (await events("--external-id", "read-1", "--type", "CREATED", "ATTRIBUTE_CHANGED")).map(
        ({ entityVersion }) => entityVersion,
      ),
    ).toEqual(["2", "1"]);
    expect(await events("--external-id", "read-1", "--limit", "1")).toMatchObject([
      { entityVersion: "2", previousValues: { name: "Ana" } },
    ]);
    expect(await events("--external-id", "read-1", "--actor", "somebody")).toEqual([]);
    const latest = await events("--limit", "3");
    expect(latest.map(({ externalId }) => externalId)).toEqual(["read-3", "read-2", "read-1"]);
  });

  it("events of more than one page", async () => {
    const other = await service.newOrganization();
    const file = await fileOf(Array.from({ length: 1300 }, (_, i) => person(`page-${i}`)));
    const asOther = { env: { ENTITY_SERVICE_API_KEY: other.apiKey } };
    expect(await run(["import", file], asOther)).toMatchObject({ code: 0 });
    const all = await run(["events", "--limit", "5000"], asOther);
    expect(
      new Set(
        all.stdout
          .trimEnd()
          .split("\n")
          .map((line) => line.split("  ")[1]),
      ).size,
    ).toBe(1300);
    expect((await run(["events", "--limit", "1200"], asOther)).stdout.trimEnd().split("\n")).toHaveLength(1200);
    expect((await run(["events"], asOther)).stdout.trimEnd().split("\n")).toHaveLength(100);
  });
});

describe("watch", () => {
  eachInItsOrganization();

  /** Everything that a watch prints, and a wait for N lines of it. */
  const watchLines = (args: string[], url: string) => {
    const child = startCli(["watch", ...args], { env: { ...env(), ENTITY_SERVICE_URL: url } });
    let text = "";
    child.stdout?.on("data", (chunk: string) => {
      text += chunk;
    });
    const lines = () => text.split("\n").slice(0, -1);
    return {
      lines: async (count: number) => {
        await expect.poll(() => lines().length, { timeout: 15_000 }).toBeGreaterThanOrEqual(count);
        return lines();
      },
      ended: child.ended,
      [Symbol.asyncDispose]: async () => {
        child.kill("SIGTERM");
        await child.ended;
      },
    };
  };
  const create = async (externalId: string) => {
    await organization.client.entities.createEntity({
      entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR", externalId },
    });
  };

  it("prints events as they come, goes on by itself after the service was away, and from a position that it printed", async () => {
    const { watchPosition } = await organization.client.entities.listEntities({ pageSize: 1 });
    const first = await startOther(service);
    const port = Number(new URL(first.baseUrl).port);
    await create("watch-1");
    await using watch = watchLines(["--json", "--type", "CREATED", "--position", watchPosition], first.baseUrl);
    await create("watch-2");
    const [line = ""] = await watch.lines(2);
    await first[Symbol.asyncDispose]();
    await create("watch-3");
    await using second = await startOther(service, { config: { port } });
    const all = (await watch.lines(3)).map((one) => JSON.parse(one) as { position: string; event: Entity });
    expect(all.map(({ event }) => event.externalId)).toEqual(["watch-1", "watch-2", "watch-3"]);

    const { position } = JSON.parse(line) as { position: string };
    await using rest = watchLines(["--position", position], second.baseUrl);
    const readable = await rest.lines(2);
    expect(readable.map((one) => /\S+ {2}\S+ (\S+) v1 {2}CREATED/.exec(one)?.[1])).toEqual(["watch-2", "watch-3"]);
  });

  it("says what is wrong with a position, and ends", async () => {
    await using watch = watchLines(["--position", "x"], service.baseUrl);
    const { code, stderr } = await watch.ended;
    expect(code).toBe(1);
    expect(stderr).toContain("POSITION_INVALID");
  });
});
