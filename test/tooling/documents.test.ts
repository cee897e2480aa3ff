// What the documents say that can be looked up: defaults, limits, figures in sentences, links, commands, names. Whatever is
// behaviour has its tests elsewhere.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { DescEnum } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import * as client from "../../clients/typescript/index.ts";
import { readConfig } from "../../src/config.ts";
import { ASIDE_CONNECTIONS } from "../../src/db/orm.ts";
import { LIMITS } from "../../src/domain/limits.ts";
import { nextAttempt } from "../../src/domain/webhook.ts";
import { CODE } from "../../src/errors.ts";
import { PAGE_BYTES } from "../../src/log/pages.ts";
import { PIECE_BYTES } from "../../src/transport/answer-limits.ts";
import { SERVICES } from "../services.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const read = (path: string) => readFileSync(join(root, path), "utf8");
const DOCUMENTS = [
  "README.md",
  "CONTRIBUTING.md",
  ...readdirSync(join(root, "docs"), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".md") && !name.startsWith(".vitepress"))
    .map((name) => join("docs", name)),
  ...readdirSync(join(root, "clients"))
    .map((name) => join("clients", name, "README.md"))
    .filter((path) => existsSync(join(root, path))),
];
const readme = read("README.md");
/** A text in which a sentence is found wherever its lines end. */
const inOneLine = (text: string) => text.replaceAll(/\s+/g, " ");
const prose = (text: string) => text.replaceAll(/```[\s\S]*?```/g, "");

/** The rows of the first table of a document, without its head. */
function tableOf(document: string): string[][] {
  const [table = ""] = /^\|[^]*?\n\n/m.exec(read(document)) ?? [];
  const lines = table.split("\n").filter((line) => line.startsWith("| "));
  return lines.slice(1).map((line) =>
    line
      .slice(2, -2)
      .split(/ \| | \|$/)
      .map((cell) => cell.trim()),
  );
}

const quoted = (text: string) => [...text.matchAll(/`([^`]+)`/g)].map(([, word]) => word as string);
const numbersIn = (text: string) =>
  [...text.replaceAll(",", "").matchAll(/\d+(?:\.\d+)?/g)].map(([number]) => Number(number));

/** The value of a constant, or of an option's default, that no module exports. */
function constantOf(path: string, name: string): number {
  const [, product] =
    new RegExp(`\\b${name}\\s*[=:]\\s*([\\d_.]+(?:\\s*\\*\\s*[\\d_.]+)*)\\s*[,;}]`).exec(read(path)) ?? [];
  if (product === undefined) throw new Error(`${path} has no number ${name}`);
  return product.split("*").reduce((value, factor) => value * Number(factor.replaceAll("_", "")), 1);
}

const MIB = 1024 * 1024;
const defaults = readConfig({});
const admission = (name: string) => constantOf("src/interceptors/admission.ts", name);
const watch = (name: string) => constantOf("src/log/watch.ts", name);
const live = (name: string) => constantOf("src/log/live.ts", name);
const sending = (name: string) => constantOf("src/webhooks/sending.ts", name);

describe("the settings of docs/operate/configuration.md", () => {
  const rows = tableOf("docs/operate/configuration.md").map(([names = "", values = ""]) => ({
    names: quoted(names),
    values: quoted(values),
  }));

  it("are read by those names, and a default that is given changes nothing", () => {
    const config = read("src/config.ts");
    for (const { names, values } of rows) {
      for (const [i, name] of names.entries()) {
        if (name.startsWith("ENTITY_SERVICE_")) continue;
        expect(config).toContain(`"${name}"`);
        const value = values[i];
        // Another variable, whose value it has.
        if (value === undefined || value === "DATABASE_URL") continue;
        // The stream counts only where there is a server.
        const env = { NATS_URL: "nats://127.0.0.1:4222" };
        const base = readConfig(env);
        expect(readConfig({ ...env, [name]: value }), name).toEqual(base);
        expect(() => expect(readConfig({ ...env, [name]: `${value}1` })).toEqual(base), name).toThrow();
      }
    }
    expect(rows.flatMap(({ names }) => names).length).toBeGreaterThan(25);
  });

  it("have no default where the page says none", () => {
    expect(defaults).toMatchObject({
      ...{ databaseUrl: undefined, migrationDatabaseUrl: undefined, tls: undefined, bootstrapApiKey: undefined },
      ...{ nats: undefined, webhookAllow: "", metricsPort: undefined },
    });
    const [, url] = /"(http:\/\/[^"]*)"/.exec(read("src/cli/connection.ts")) ?? [];
    expect(rows.find(({ names }) => names[0] === "ENTITY_SERVICE_URL")?.values).toEqual([url]);
  });
});

it("the limits of docs/operate/limits.md are those of the code, row by row", () => {
  const { mandatoryReasonMin, structBytes, structKeys, structDepth } = LIMITS;
  const expected: Record<string, number[]> = {
    name: [LIMITS.name],
    "external id; external ids of an entity": [LIMITS.externalId, LIMITS.externalIdsPerEntity],
    "tax id": [LIMITS.taxId],
    reason: [LIMITS.reason, mandatoryReasonMin],
    "any other string": [LIMITS.string],
    "attributes, metadata, entity_data, details, payload, each": [
      ...[structBytes / 1024, structKeys, structDepth, constantOf("src/domain/text.ts", "KEY_MAX")],
      ...[2, Math.log2(Number.MAX_SAFE_INTEGER + 1), 1],
    ],
    "items of a batch, page; every other list of a request": [LIMITS.batch, LIMITS.maskPaths],
    "webhook endpoints of an organization; deliveries of one that wait as rows (the log keeps the rest)": [
      LIMITS.webhookEndpoints,
      constantOf("src/webhooks/fetching.ts", "MAX_PENDING"),
    ],
    "risk matrices of an organization; rules of one; an expression": [LIMITS.riskMatrices, 200, LIMITS.riskExpression],
    message: [defaults.maxMessageBytes / MIB, defaults.maxBatchMessageBytes / MIB, LIMITS.messageValues],
    "a page; what a batch answers": [LIMITS.pageBytes / MIB, LIMITS.batchAnswerBytes / MIB],
    // The bytes are those of test/bounds.test.ts.
    "fields at fault that an error names": [LIMITS.violations, 3],
    "requests of an HTTP/1.1 connection that wait for the answer to the one before": [
      constantOf("src/transport/listener.ts", "MAX_PIPELINED"),
    ],
    "requests that have begun and are not complete, in one process": [
      constantOf("src/transport/arrivals.ts", "MAX_ARRIVING"),
      constantOf("src/transport/places.ts", "MANY"),
    ],
    deadline: [
      defaults.defaultTimeoutMs / 1_000,
      defaults.maxTimeoutMs / 1_000,
      constantOf("src/transport/handlers.ts", "MAX_STREAM_TIMEOUT_MS") / 3_600_000,
    ],
    "digits of a number or a duration in JSON": [constantOf("src/transport/values.ts", "NUMBER_DIGITS")],
    "frames of a body": [
      constantOf("src/transport/data-frames.ts", "FRAMES"),
      constantOf("src/transport/data-frames.ts", "LEAST_BYTES"),
    ],
    "streams of an HTTP/2 connection": [constantOf("src/transport/sessions.ts", "MAX_STREAMS")],
    [`time to take each ${PIECE_BYTES / 1024} KiB of an answer`]: [
      constantOf("src/transport/adapter.ts", "ANSWER_TIMEOUT_MS") / 1_000,
    ],
    "events that wait for a slow watcher": [
      ...[live("MAX_EVENTS"), live("MAX_BYTES") / MIB, PAGE_BYTES / MIB],
      ...[watch("CATCH_UP_BYTES") / MIB, watch("CATCH_UP_WAIT_MS") / 1_000],
    ],
    "`event_retention_days`": [LIMITS.retentionDaysMax, LIMITS.retentionDaysMin],
  };
  expect(LIMITS.pageSize).toBe(LIMITS.batch);
  expect(
    Object.fromEntries(tableOf("docs/operate/limits.md").map(([what = "", most = ""]) => [what, numbersIn(most)])),
  ).toEqual(expected);
});

/** Numbers that sentences spell. */
const WORDS: Record<string, number> = { half: 0.5, a: 1, two: 2, three: 3, four: 4, five: 5, ten: 10, hundred: 100 };
const numberOf = (text: string) => WORDS[text] ?? Number(text.replaceAll(",", ""));

it.each<[document: string, sentence: RegExp, numbers: () => number[]]>([
  [
    "docs/guide/watch.md",
    /usually within some (\d+) ms, and (\d+) while very many come/,
    () => [live("FIRST_MS"), live("LONGEST_MS")],
  ],
  [
    "docs/guide/webhooks.md",
    /shows every attempt, or the last (\d+) of a delivery/,
    () => [constantOf("src/webhooks/queue.ts", "KEPT_ATTEMPTS")],
  ],
  ["docs/guide/watch.md", /A checkpoint every (\d+) s brings/, () => [watch("CHECKPOINT_MS") / 1_000]],
  [
    "docs/guide/webhooks.md",
    /after (\d+) s, (\d+) and (\d+) minutes, (\d+), (\d+), (\d+) and (\d+) hours/,
    () =>
      Array.from({ length: 7 }, (_, i) => {
        const failed = { attempts: i + 1, firstAttemptAt: 0n, endedAt: 1n, retryAfterMs: 0 };
        return Number(nextAttempt(failed, 0)) / 1e6 / (i === 0 ? 1 : i < 3 ? 60 : 3_600);
      }),
  ],
  ["docs/guide/webhooks.md", /Answer 2xx within (\d+) s/, () => [defaults.webhookTimeoutMs / 1_000]],
  [
    "docs/operate/nats.md",
    /no limits, a window of (\w+) minutes/,
    () => [constantOf("src/nats/jetstream.ts", "DUPLICATE_WINDOW_MS") / 60_000],
  ],
  ["docs/guide/keys.md", /says for how many days, at least (\d+)/, () => [LIMITS.retentionDaysMin]],
  ["docs/operate/limits.md", /bytes of requests in hand \((\d+) MiB\)/, () => [admission("MAX_REQUEST_BYTES") / MIB]],
  [
    "docs/operate/limits.md",
    /places of the sender of webhooks \((\d+)\)/,
    () => [constantOf("src/webhooks/dispatcher.ts", "CONCURRENCY")],
  ],
  [
    "docs/operate/limits.md",
    /refused \(`WRITE_CONFLICT`\) after (\d+) s in all/,
    () => [defaults.lockTimeoutMs / 1_000],
  ],
  [
    "docs/operate/limits.md",
    /at most (\d+) requests under way; one whose answers take (\d+) s or more has (\d+)/,
    () => [sending("CONCURRENCY"), sending("SLOW_MS") / 1_000, sending("SLOW_CONCURRENCY")],
  ],
  [
    "docs/operate/limits.md",
    /(\d+) calls and (\d+) streams, shared out/,
    () => [admission("KEYLESS_CALLS"), admission("KEYLESS_STREAMS")],
  ],
  [
    "docs/operate/limits.md",
    /such a stream ends after (\w+) an hour/,
    () => [constantOf("src/transport/handlers.ts", "KEYLESS_STREAM_MS") / 3_600_000],
  ],
  [
    "docs/operate/limits.md",
    /looked up (\w+) at a time, on connections of their own; (\d+) wait.* good within (\w+) minutes/,
    () => [
      constantOf("src/interceptors/cached-callers.ts", "unknownLookups"),
      constantOf("src/interceptors/cached-callers.ts", "maxWaiting"),
      constantOf("src/interceptors/cached-callers.ts", "recentMs") / 60_000,
    ],
  ],
  [
    "docs/operate/configuration.md",
    /\((\w+) an hour, give or take\)/,
    () => [constantOf("src/transport/listener.ts", "maxConnectionAgeMs") / 3_600_000],
  ],
  ["docs/operate/configuration.md", /of each process; and at most (\w+) more/, () => [ASIDE_CONNECTIONS]],
  ["docs/operate/configuration.md", /`WORKERS` times \(`POOL_SIZE` \+ (\d+)\) connections/, () => [ASIDE_CONNECTIONS]],
  ["docs/operate/configuration.md", /Read again within (\d+) s when they change/, () => [defaults.tlsReloadMs / 1_000]],
  [
    "docs/operate/postgresql.md",
    /say so and wait, up to (\w+) minutes/,
    () => [constantOf("src/db/orm.ts", "waitMs") / 60_000],
  ],
  [
    "docs/design.md",
    /after (\d+) ms without an answer another begins/,
    () => [constantOf("src/entities/reader.ts", "HELD_UP_MS")],
  ],
  [
    "docs/design.md",
    /more than (\d+) writes of one organization/,
    () => [constantOf("src/entities/writer.ts", "MAX_SHARE")],
  ],
  [
    "docs/design.md",
    /waits for a lock for (\d+) ms and for a statement for (\w+) second at most/,
    () => [constantOf("src/db/transaction.ts", "lockMs"), constantOf("src/db/transaction.ts", "statementMs") / 1_000],
  ],
  [
    "docs/design.md",
    /shares none until its own attempt has ended, and for (\w+) second after/,
    () => [constantOf("src/entities/writer.ts", "ALONE_MS") / 1_000],
  ],
  ["docs/positions.md", /about once (\w+) second/, () => [constantOf("src/log/pages.ts", "MARK_MS") / 1_000]],
])("%s says the numbers of the code: %s", (document, sentence, numbers) => {
  const [, ...said] = sentence.exec(inOneLine(read(document))) ?? [];
  expect(said.map(numberOf)).toEqual(numbers());
});

const ENUMS = Object.values(client as Record<string, unknown>).filter(
  (value): value is DescEnum => typeof value === "object" && value !== null && "kind" in value && value.kind === "enum",
);

describe("names", () => {
  it.each(DOCUMENTS)("%s: links lead to files and headings that there are", (document) => {
    const anchorsOf = (path: string) =>
      [...prose(read(path)).matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) =>
        heading
          .toLowerCase()
          .replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
          .replaceAll(" ", "-"),
      );
    const broken = [...prose(read(document)).matchAll(/\]\(([^)\s]+)\)/g)]
      .map(([, link]) => link as string)
      .filter((link) => !/^https?:/.test(link))
      .filter((link) => {
        const [file = "", anchor] = link.split("#");
        const path = file === "" ? document : join(dirname(document), file);
        return !existsSync(join(root, path)) || (anchor !== undefined && !anchorsOf(path).includes(anchor));
      });
    expect(broken).toEqual([]);
  });

  it.each(DOCUMENTS)("%s: commands and paths are there", (document) => {
    const text = read(document);
    const { scripts } = JSON.parse(read("package.json")) as { scripts: Record<string, string> };
    const commands = [...text.matchAll(/npm run (?:--silent )?([a-z][\w:-]*)/g)].map(([, name]) => name as string);
    expect(commands.filter((name) => scripts[name] === undefined)).toEqual([]);
    const paths = quoted(prose(text))
      .filter((word) => /^(?:src|test|bench|scripts|proto|docs|clients|examples|\.ci)\/[\w./-]*$/.test(word))
      .map((word) => word.replace(/\/$/, ""))
      // A tag of git, as Go wants it.
      .filter((path) => !/^clients\/go\/v\d/.test(path));
    expect(paths.filter((path) => !existsSync(join(root, path)))).toEqual([]);
  });

  it("errors, RPCs and services in the documents are those of the contract", () => {
    const pages = DOCUMENTS.filter((document) => /^README|^docs\/(?!reference)/.test(document));
    const words = new Set(pages.flatMap((document) => quoted(prose(read(document)))));
    const quotedWords = (path: string) => [...read(path).matchAll(/"([A-Z_]+)"/g)].map(([, name]) => name as string);
    const settings = quotedWords("src/config.ts");
    // A stream of NATS, the status of health, a code of HTTP/2, the command line's own.
    const enums = ENUMS.flatMap(({ values, sharedPrefix = "" }) =>
      values.flatMap(({ name }) => [name, name.slice(sharedPrefix.length), name.replace(/^[A-Z_]*?CAUSE_/, "")]),
    );
    const others = [
      ...enums,
      ...quotedWords("src/domain/errors.ts"),
      ...Object.keys(Code).map((code) => code.replaceAll(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase()),
      "ENTITY_EVENTS",
      "NOT_SERVING",
      "ENHANCE_YOUR_CALM",
      "ENTITY_SERVICE_URL",
      "ENTITY_SERVICE_API_KEY",
    ].filter((word) => !(word in CODE));
    const reasons = [...words].filter(
      (word) => /^[A-Z]+(?:_[A-Z]+)+$/.test(word) && !settings.includes(word) && !others.includes(word),
    );
    expect(reasons.filter((reason) => !(reason in CODE))).toEqual([]);
    expect(reasons.length).toBeGreaterThan(5);
    const methods = SERVICES.flatMap(({ name, methods }) =>
      methods.map((rpc) => [rpc.name, `${name}/${rpc.name}`]),
    ).flat();
    const rpcs = [...words].filter((word) =>
      /^(?:\w+Service\/\w+|(?:Get|List|Replay|Watch|Change|Create|Update)[A-Z]\w+)$/.test(word),
    );
    expect(rpcs.filter((rpc) => !methods.includes(rpc))).toEqual([]);
    expect(rpcs.length).toBeGreaterThan(2);
  });

  it("the README's map has every file and folder of src, and names nothing else", () => {
    const [, map = ""] = /\n## Map\n[\s\S]*?```text\n([\s\S]*?)```/.exec(readme) ?? [];
    const named = [...map.matchAll(/^( {0,2})(\S+(?:, \S+)*) {2,}/gm)].flatMap(([, indent, names = ""]) =>
      names.split(", ").map((name) => join(indent === "" ? "" : "src", name)),
    );
    expect(named.filter((path) => !existsSync(join(root, path)))).toEqual([]);
    const inSource = readdirSync(join(root, "src"), { withFileTypes: true }).map((entry) =>
      join("src", entry.isDirectory() ? `${entry.name}/` : entry.name),
    );
    expect(inSource.filter((path) => !named.includes(path))).toEqual([]);
  });
});
