// The code blocks of the documents, and which of them something runs. The words behind the language of a block decide:
//   ```console          commands behind "$ ", each with its answer, which has to be the service's; "..." stands for anything
//   ```sh               commands, which have to end with 0
//   ```ts               checked as strict TypeScript against the client's package, then run
//   ```json MESSAGE     the JSON of that message of the contract; a request is sent to the service and has to be answered,
//                       or refused with the reason that stands behind the message
//   ```json plain       any JSON
//   ```cel              an expression of a risk matrix in each line
//   ```text             no code: a picture of letters, a form of bytes
//   no-run REASON       behind any language: not run here, for one of NO_RUN
// Everything else is a problem, so that no example gets into the documents that nothing has tried.

export interface Block {
  file: string;
  /** Of the fence, from 1. */
  line: number;
  language: string;
  words: string[];
  text: string;
  /** NAME of the comment `<!-- NAME -->` right before the block, by which a test finds it. */
  marker: string | undefined;
}

const RUN: ReadonlySet<string> = new Set(["console", "sh", "ts", "json", "cel", "text"]);

/** Why a block is not run with the others, and which test or step runs it instead, if one does. */
export const NO_RUN: Record<string, { why: string; runBy?: string }> = {
  starts: { why: "starts a service in the foreground: scripts/smoke.ts starts one the same way" },
  tests: { why: "runs all tests, of which this is one" },
  registry: {
    why: "installs a package that is not published; test/client-package.test.ts installs it as it is packed",
  },
  postgres: { why: "needs a superuser, and roles that are not there yet", runBy: "test/postgres.test.ts" },
  languages: { why: "needs the compilers of another language", runBy: "test/protos.test.ts" },
  docker: { why: "needs a container engine" },
  kubernetes: { why: "needs a cluster of Kubernetes" },
  nginx: { why: "needs nginx in front of the service", runBy: "test/proxy.test.ts" },
  proxy: { why: "is the configuration of a proxy or a pooler that is not installed here" },
  owner: { why: "changes a row as the owner of the database, as test/audit-tampering.test.ts does" },
  superuser: { why: "makes an owner as a superuser, as test/postgres.test.ts does under names of its own" },
};

/** Documents whose blocks a test of their own runs: they need another language, or the package as it is packed. */
export const RUN_ELSEWHERE: Record<string, string> = {
  "clients/typescript/README.md": "test/client-package.test.ts",
  "clients/go/README.md": "clients/go/readme_test.go",
  "clients/python/README.md": "clients/python/tests/test_readme.py",
};

/** Every fenced block of a document. */
export function blocksOf(file: string, text: string): Block[] {
  const lines = text.split("\n");
  const blocks: Block[] = [];
  for (let i = 0; i < lines.length; i++) {
    const [, indent, info] = /^(\s*)```(.*)$/.exec(lines[i] ?? "") ?? [];
    if (info === undefined) continue;
    const end = lines.findIndex((line, at) => at > i && line === `${indent}\`\`\``);
    const last = end === -1 ? lines.length : end;
    const [language = "", ...words] = info.trim().split(/\s+/);
    const before = lines.slice(0, i).findLast((line) => line.trim() !== "") ?? "";
    const [, marker] = /^<!-- (\S+) -->$/.exec(before) ?? [];
    blocks.push({ file, line: i + 1, language, words, text: lines.slice(i + 1, last).join("\n"), marker });
    i = last;
  }
  return blocks;
}

export const isRun = ({ words }: Block): boolean => !words.includes("no-run");

/** What is wrong with a block before anything runs it. `testText` reads a test that says it runs one. */
export function blockProblem(block: Block, testText: (path: string) => string): string | undefined {
  const at = `${block.file}:${block.line}`;
  const [word, reason = "", ...more] = block.words;
  if (block.language === "") return `${at}: a block without a language: name one, or text`;
  if (word === "no-run") {
    const known = NO_RUN[reason];
    if (known === undefined || more.length > 0) return `${at}: no-run needs one reason of NO_RUN, not "${reason}"`;
    if (known.runBy !== undefined && !(block.marker !== undefined && testText(known.runBy).includes(block.marker))) {
      return `${at}: ${known.runBy} has to run it, and does not name the comment <!-- ${block.marker ?? "..."} --> before it`;
    }
    return undefined;
  }
  if (!RUN.has(block.language)) return `${at}: nothing runs a block of ${block.language}`;
  if (/^(?:\$ )?npm (?:ci|install|i|start)\b/m.test(block.text)) return `${at}: installs or starts something: no-run`;
  if (block.language === "json" && word === undefined) return `${at}: json needs the name of its message, or plain`;
  if (block.language !== "json" && word !== undefined) return `${at}: nothing knows the word ${word}`;
  return undefined;
}

export interface Command {
  line: number;
  source: string;
  /** Undefined where the document shows none. */
  answer: string | undefined;
}

/** The commands of a transcript. */
export function commandsOf({ line, text }: Block): Command[] {
  const commands: (Command & { answers: string[] })[] = [];
  let goesOn = false;
  for (const [index, one] of text.split("\n").entries()) {
    const last = commands.at(-1);
    if (one.startsWith("$ ")) {
      commands.push({ line: line + 1 + index, source: one.slice(2), answer: undefined, answers: [] });
    } else if (last === undefined) {
      throw new Error(`line ${line + 1 + index}: a transcript begins with "$ "`);
    } else if (goesOn) last.source += `\n${one}`;
    else last.answers.push(one);
    goesOn = (one.startsWith("$ ") || goesOn) && one.endsWith("\\");
  }
  return commands.map(({ answers, ...command }) => ({
    ...command,
    answer: answers.length === 0 ? undefined : answers.join("\n"),
  }));
}

/** A text without what differs each time: ids, hashes, times, positions, and details that hold ids, encoded. */
export const masked = (text: string): string =>
  text
    .replaceAll(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, "ID")
    .replaceAll(
      /"(salt|previousHash|hash|value|watchPosition|nextPageToken|position|secret|entityHash)": ?"[^"]*"/g,
      '"$1":"TEXT"',
    )
    .replaceAll(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/g, "TIME")
    .replaceAll(/\b(?:whsec|es)_[\w+/=-]{30,}/g, "SECRET")
    .replaceAll(/\bcreated \d{4}-\d\d-\d\d/g, "created DATE")
    .replaceAll(/(?<=": ?"?)\d{4}-\d\d-\d\d(?=")/g, "DATE")
    .replaceAll(/\s+/g, " ")
    .trim();

/** Whether the service said what the document shows. */
export function isAnswer(shown: string, said: string): boolean {
  const pattern = masked(shown)
    .split("...")
    .map((part) => part.replaceAll(/[\\^$.*+?()[\]{}|]/g, "\\$&"))
    .join("[^]*");
  return new RegExp(`^${pattern}$`).test(masked(said));
}
