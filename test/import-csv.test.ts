// `entity-service import --columns`: CSV with a header; and --update-only.
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { cli, temporaryFolder } from "./cli-process.ts";
import { byExternalId } from "./given.ts";
import { startService, type TestService } from "./harness.ts";

const EXAMPLE = fileURLToPath(new URL("../examples/companies.csv", import.meta.url));
const EXAMPLE_COLUMNS = fileURLToPath(new URL("../examples/companies.columns.json", import.meta.url));

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());
let folder: Awaited<ReturnType<typeof temporaryFolder>>;
beforeEach(async () => {
  folder = await temporaryFolder();
});
afterEach(() => folder[Symbol.asyncDispose]());

const run = (...args: string[]) =>
  cli(args, {
    env: { ENTITY_SERVICE_URL: service.baseUrl, ENTITY_SERVICE_API_KEY: service.organization.apiKey },
    cwd: folder.path,
  });
const found = async (externalId: string) =>
  (await service.client.entities.getEntity({ lookup: byExternalId(externalId) })).entity;

/** Imports a CSV, by columns of the fields that most of these tests have. */
async function importCsv(csv: string | Uint8Array, columns: unknown = COLUMNS, ...options: string[]) {
  await writeFile(`${folder.path}/a.csv`, csv);
  await writeFile(`${folder.path}/columns.json`, typeof columns === "string" ? columns : JSON.stringify(columns));
  return run("import", "a.csv", "--columns", "columns.json", ...options);
}
const COLUMNS = { columns: { id: "external_id", name: "name" }, values: { type: "person", country_code: "AR" } };

describe("import --columns", () => {
  it("the example: fields, addresses, lists, numbers, aliases with labels; blank cells say nothing", async () => {
    expect(await run("import", EXAMPLE, "--columns", EXAMPLE_COLUMNS, "--errors", "e")).toEqual({
      ...{ code: 0, stderr: "", stdout: "created 2, updated 0, unchanged 0, failed 0\n" },
    });
    const first = await found("crm-9001");
    expect(first).toMatchObject({ externalId: "C-501", name: "Aceites del Valle S.A.", taxId: "30-71644921-8" });
    expect(first?.entityData?.kind.value).toMatchObject({
      ...{ employees: 250, tradingNames: ["Del Valle", "Oliva Norte"], address: { city: "Rosario" } },
    });
    expect(first?.externalIds[1]).toMatchObject({ externalId: "crm-9001", type: "crm" });
    expect(first?.attributes).toEqual({ segment: "wholesale" });
    const second = await found("C-502");
    expect(second).toMatchObject({ name: "Talleres Ficticios; Hermanos S.L." });
    expect(second?.attributes).toBeUndefined();
    expect((await run("import", EXAMPLE, "--columns", EXAMPLE_COLUMNS, "--errors", "e")).stdout).toBe(
      "created 0, updated 0, unchanged 2, failed 0\n",
    );
  });

  it.each([
    [
      "commas, quotation marks, a line end in a cell, a mark of the bytes",
      '\ufeffid,name,x\nv-1,"Ana ""A"", of\u00a0Sur",1\n',
      'Ana "A", of\u00a0Sur',
    ],
    ["tabs and CRLF", "x\tname\tid\r\n1\tAna\tv-1\r\n", "Ana"],
    ["no line end at the end, blank lines", "id;name\n\n;\nv-1;Ana Á", "Ana Á"],
  ])("delimiters are found by the columns: %s", async (_, csv, name) => {
    const rename = await importCsv(csv);
    expect(rename).toMatchObject({ code: 0, stderr: "" });
    expect(rename.stdout).toMatch(/^created [01], updated [01], unchanged 0, failed 0\n$/);
    expect((await found("v-1"))?.name).toBe(name);
    const packed = await importCsv(gzipSync(csv));
    expect(packed.stdout).toBe("created 0, updated 0, unchanged 1, failed 0\n");
  });

  it("a key that every object has is a key as any other", async () => {
    const keys = ["__proto__", "constructor", "plain"];
    const paths = keys.flatMap((key) => [`attributes.${key}`, `entity_data.person.address.additional.${key}`]);
    const columns = { ...COLUMNS.columns, ...Object.fromEntries(paths.map((path, i) => [`c${i}`, path])) };
    const cells = paths.map((_, i) => `cell ${i}`);
    const csv = `id,name,${Object.keys(paths).map((i) => `c${i}`)}\nk-1,Ana,${cells}\n`;
    expect(await importCsv(csv, { ...COLUMNS, columns })).toMatchObject({ code: 0, stderr: "" });
    const entity = await found("k-1");
    expect(Object.entries(entity?.attributes ?? {}).toSorted()).toEqual([
      ["__proto__", "cell 0"],
      ["constructor", "cell 2"],
      ["plain", "cell 4"],
    ]);
    const address = entity?.entityData?.kind.value?.address;
    expect(Object.keys(address?.additional ?? {}).toSorted()).toEqual(keys);
  });

  it("a row at fault fails alone, with its line and nothing of it", async () => {
    const { code, stdout } = await importCsv("id,name\nw-1,Ana\nw-2,Ana,secret\n,secret\nw-3,Eva\n");
    expect({ code, stdout }).toEqual({ code: 1, stdout: "created 2, updated 0, unchanged 0, failed 2\n" });
    const errors = (await readFile(`${folder.path}/a.csv.errors.ndjson`, "utf8")).trimEnd().split("\n");
    expect(errors.map((line) => JSON.parse(line))).toMatchObject([
      { line: 3, reason: "VALIDATION_ERROR", message: expect.stringContaining("has 3 cells, and the header has 2") },
      { line: 4, reason: "VALIDATION_ERROR", field: "entity.external_id" },
    ]);
    expect(errors.join()).not.toContain("secret");
  });

  it.each([
    ["a column that is not there", "id,nombre\nx,y\n", COLUMNS, 'has no column "name" in its first line'],
    ["a column that is there twice", "id,name,name\nx,y,z\n", COLUMNS, 'has several columns "name"'],
    ["Latin-1", Buffer.from("id,name\nx,Mar\xeda\n", "latin1"), COLUMNS, 'is not UTF-8: save it as "CSV UTF-8"'],
    ["UTF-16", Buffer.from("id,name\nx,y\n", "utf16le"), COLUMNS, "is UTF-16"],
    ["a quotation mark that is open", 'id,name\nx-1,"secret\nx-2,y\n', COLUMNS, "is no CSV (CSV_QUOTE_NOT_CLOSED)"],
  ])("a file that cannot be read is one sentence: %s", async (_, csv, columns, said) => {
    const { code, stdout, stderr } = await importCsv(csv, columns);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toContain(said);
    expect(stderr).not.toContain("secret");
    expect(stderr.trimEnd().split("\n")).toHaveLength(1);
  });

  it.each([
    ["no JSON", "{", "must be JSON"],
    ["no columns", { values: {} }, 'must have "columns"'],
    ["a path of nothing", { columns: { id: "external_id", x: "surname" } }, "has a path that is no field of a row"],
    ["an output-only path", { columns: { id: "external_id", x: "id" } }, "has a path that is no field of a row"],
    ["no external id", { columns: { x: "name" } }, "must have a column for external_id"],
    ["two columns of one field", { columns: { id: "external_id", x: "name", y: "name" } }, "names name for several"],
    ["a value that is no string", { columns: { id: "external_id" }, values: { type: 1 } }, "must have a string"],
  ])("columns that say nothing usable: %s", async (_, columns, said) => {
    const { code, stderr } = await importCsv("id,name\nx,y\n", columns);
    expect(code).toBe(2);
    expect(stderr).toContain(said);
  });

  it("--update-only creates nothing", async () => {
    expect((await importCsv("id,name\ny-1,Ana\n")).stdout).toBe("created 1, updated 0, unchanged 0, failed 0\n");
    const { code, stdout } = await importCsv("id,name\ny-1,Eva\ny-2,Ana\n", COLUMNS, "--update-only");
    expect({ code, stdout }).toEqual({ code: 1, stdout: "created 0, updated 1, unchanged 0, failed 1\n" });
    expect(await readFile(`${folder.path}/a.csv.errors.ndjson`, "utf8")).toContain('"reason":"NOT_FOUND"');
  });
});
