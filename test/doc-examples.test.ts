// Every block of code in the documents is run: those of a page one after the other, in an organization of its own, against
// a real service. scripts/documents/blocks.ts says what a block has to say of itself; one that nothing runs fails here.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ErrorReasonSchema } from "../clients/typescript/index.ts";
import { blockProblem, blocksOf, isAnswer, isRun, NO_RUN, RUN_ELSEWHERE } from "../scripts/documents/blocks.ts";
import { toolsOf, trialsOf, tryPage, tsName } from "../scripts/documents/page.ts";
import { openWorkshop, type Workshop } from "../scripts/documents/workshop.ts";
import { newSigningKey } from "../src/audit/signing-key.ts";
import { startService, type TestService } from "./harness.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const read = (path: string) => readFileSync(join(root, path), "utf8");
const PAGES = [
  "README.md",
  "CONTRIBUTING.md",
  ...readdirSync(join(root, "docs"), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".md") && !name.startsWith(".vitepress"))
    .map((name) => join("docs", name)),
  ...readdirSync(join(root, "clients"))
    .map((name) => join("clients", name, "README.md"))
    .filter((path) => existsSync(join(root, path)) && RUN_ELSEWHERE[path] === undefined),
].toSorted();
/** Pages for who has just started the service, or administers all of it. */
const OF_NEWCOMER = ["README.md", "docs/guide/keys.md"];

const isThere = (tool: string) => {
  try {
    execFileSync("sh", ["-c", `command -v ${tool}`], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
};
// A user's machine may lack them; the continuous integration must not.
const missing = (page: string) =>
  process.env.CI === undefined ? toolsOf(page, read(page)).filter((tool) => !isThere(tool)) : [];

const auditSigningKey = join(mkdtempSync(join(tmpdir(), "documents-key-")), "audit-key");
let workshop: Workshop;
let service: TestService;
beforeAll(async () => {
  writeFileSync(auditSigningKey, newSigningKey(), { mode: 0o600 });
  service = await startService({ config: { auditCheckpointSeconds: 1, auditSigningKey } });
  workshop = await openWorkshop({ baseUrl: service.baseUrl, apiKey: service.organization.apiKey, auditSigningKey });
}, 120_000);
afterAll(async () => {
  await workshop[Symbol.asyncDispose]();
  await service[Symbol.asyncDispose]();
  rmSync(dirname(auditSigningKey), { recursive: true });
});

describe("the documents", () => {
  it("have no block that nothing runs, and no reason that no block gives", () => {
    const blocks = PAGES.flatMap((page) => blocksOf(page, read(page)));
    expect(blocks.flatMap((block) => blockProblem(block, read) ?? [])).toEqual([]);
    const given = blocks.filter((block) => !isRun(block)).map(({ words }) => words[1]);
    expect(Object.keys(NO_RUN).filter((reason) => !given.includes(reason))).toEqual([]);
    const elsewhere = Object.entries(RUN_ELSEWHERE).filter(([page]) => blocksOf(page, read(page)).length > 0);
    expect(elsewhere.filter(([, test]) => !existsSync(join(root, test)))).toEqual([]);
    expect(blocks.filter(isRun).length).toBeGreaterThan(80);
  });

  it("type-check: every block of TypeScript, strictly, against the package", async () => {
    const blocks = PAGES.flatMap((page) => trialsOf(page, read(page)))
      .map(({ block }) => block)
      .filter(({ language }) => language === "ts");
    expect(await workshop.typeErrors(new Map(blocks.map((block) => [tsName(block), block.text])))).toBe("");
    expect(blocks.length).toBeGreaterThan(10);
  }, 120_000);

  const withSteps = PAGES.filter((page) => trialsOf(page, read(page)).length > 0);
  for (const page of withSteps) {
    const lacking = missing(page);
    it.skipIf(lacking.length > 0)(
      `${page}: every example is answered as it says${lacking.length > 0 ? ` (needs ${lacking.join(", ")})` : ""}`,
      { timeout: 250_000 },
      async () => {
        const asNewcomer = OF_NEWCOMER.includes(page);
        const { problems } = await tryPage(workshop, { file: page, text: read(page) }, { asNewcomer });
        expect(problems.join("\n\n")).toBe("");
      },
    );
  }
});

describe("an example that is wrong is noticed:", () => {
  const problemOf = (text: string) => blocksOf("x.md", text).map((block) => blockProblem(block, () => "a test"));
  const fence = (info: string, text = "x") => `\`\`\`${info}\n${text}\n\`\`\`\n`;

  it.each([
    ["a language that nothing runs", fence("ruby"), "nothing runs a block of ruby"],
    ["no language", fence(""), "without a language"],
    ["no-run without a reason", fence("sh no-run"), "needs one reason"],
    ["no-run for a reason that is not in the list", fence("sh no-run later"), "needs one reason"],
    ["no-run for a test that does not know the block", fence("sql no-run postgres"), "has to run it"],
    ["JSON of nothing", fence("json", "{}"), "needs the name of its message"],
    ["a word too many", fence("sh please"), "nothing knows the word"],
  ])("%s", (_, text, problem) => {
    expect(problemOf(text)).toEqual([expect.stringContaining(problem)]);
  });

  it("JSON with a field that the message does not have, or of a message that there is not", () => {
    expect(() => trialsOf("x.md", fence("json GetEntityRequest", '{"lookup":{"email":"a"}}'))).toThrow(
      /not a GetEntity/,
    );
    expect(() => trialsOf("x.md", fence("json GetPersonRequest", "{}"))).toThrow(/no message GetPersonRequest/);
  });

  it("TypeScript with a wrong name", async () => {
    const errors = await workshop.typeErrors(new Map([["wrong.ts", "await entities.getEntities({});\n"]]));
    expect(errors).toContain("getEntities");
  }, 60_000);

  it.each([
    ["console", "$ echo a\nb", "shown"],
    ["console", "$ false", "ended with 1"],
    ["console", "$ echo a", "says"],
    ["sh", "false\ntrue", "ended with 1"],
    ["ts", 'throw new Error("no")', "ended with 1"],
    ["json GetEntityRequest", '{"lookup":{"externalId":"nobody"}}', "the service says NOT_FOUND"],
    ["json GetEntityRequest INVALID_LOOKUP", '{"lookup":{"externalId":"nobody"}}', "not INVALID_LOOKUP"],
    ["cel", "entity.nothing == 1", "the service says VALIDATION_ERROR"],
  ])("%s: %j", async (info, text, problem) => {
    const page = { file: "planted.md", text: fence(info, text) };
    await workshop.typeErrors(new Map([["planted.ts", ""]]));
    const { problems } = await tryPage(workshop, page);
    expect(problems).toEqual([expect.stringContaining(problem)]);
  });

  it("an answer is compared whole, ids and times aside", () => {
    expect(
      isAnswer('{"id": "01a1f948-2ad7-74b2-b54d-0aafbdcd68d8"}', '{"id":  "01a20c40-5b0e-7d31-9c3f-6a0c1d2e7b55"}'),
    ).toBe(true);
    expect(isAnswer("a ... z", "a b c z")).toBe(true);
    expect(isAnswer("created 13", "created 130")).toBe(false);
    expect(isAnswer("created 13", "created 12")).toBe(false);
  });
});

describe("docs/migrate-from-rest.md", () => {
  const page = read("docs/migrate-from-rest.md");

  // What the REST interfaces have that this service replaces.
  it.each([
    "POST /entities",
    "PATCH /entities/:id",
    "PATCH /entities/by-external-id/:externalId",
    "PATCH /entities/by-tax-id/:taxId",
    "GET /entities/:id",
    "POST /entities/:entityId/analyze",
    "POST /entities/change-external-id",
    "GET /entity-events",
    "POST /v1/events",
    "PATCH /entities/persons/{entity_token}",
  ])("has the call %s with its RPC", (call) => {
    const headings = [...page.matchAll(/^## .*$/gm)].map(([heading]) => heading);
    expect(headings.filter((heading) => heading.includes(call)).length).toBeGreaterThan(0);
  });

  it("has every field of their requests, answers, events and webhooks", () => {
    const fields = [
      ..."name taxId nationality status reason riskMatrixId entityData attributes metadata type countryCode".split(" "),
      ..."firstName lastName middleName dateOfBirth email phone address street city state country postalCode".split(
        " ",
      ),
      ..."legalName tradingNames registrationNumber incorporationDate industry employees website revenue".split(" "),
      ..."entity evaluation previousEntity id organizationId externalId riskScore createdAt updatedAt error".split(" "),
      ..."entityId newExternalId success changed event_type data entity_token external_entity_id".split(" "),
      ..."external_entity_ids designation timestamp event updatedFields previousValues newValues".split(" "),
      ..."oldStatus newStatus changedBy eventType source externalIdChangeReason".split(" "),
      ..."origin_external_id destination_external_id entity_external_id".split(" "),
    ];
    expect(fields.filter((field) => !new RegExp(`["\`?&]${field}["\`=[]`).test(page))).toEqual([]);
  });

  it("has every one of their errors, with a refusal that is tried", () => {
    const tried = blocksOf("x.md", page).flatMap(({ language, words }) =>
      language === "json" ? (words[1] ?? []) : [],
    );
    const theirs = [
      "NOT_FOUND",
      "VALIDATION_ERROR",
      "INVALID_LOOKUP",
      "DUPLICATE_EXTERNAL_ID",
      "AMBIGUOUS_TAX_ID_LOOKUP",
    ];
    const byText = ["STATUS_REASON_REQUIRED", "IMMUTABLE_FIELD"];
    expect(tried).toEqual(expect.arrayContaining([...theirs, ...byText]));
    const reasons = ErrorReasonSchema.values.map(({ name }) => name.replace("ERROR_REASON_", ""));
    expect(tried.filter((reason) => !reasons.includes(reason))).toEqual([]);
  });
});
