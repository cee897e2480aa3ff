// docs/rules.md, the tests and the comments agree: every rule in force has a test whose title names its number, and
// every number that is cited anywhere is that of a rule.
import { repositoryFiles } from "./repository-files.ts";

const RULES = "docs/rules.md";
const TESTS = /^test\/.*\.test\.ts$/;
const CITING = /^(?:(?:src|test|proto|docs|bench|scripts|clients|examples|\.ci)\/.*\.(?:ts|js|proto|md|sh)|[^/]+\.md)$/;

export interface Rules {
  inForce: Set<string>;
  /** Listed, but not built yet. */
  toCome: Set<string>;
  problems: string[];
}

/** The rules by number: entries of the form `- **49.** text`, which may begin with `*Not in force yet`. */
export function parseRules(text: string): Rules {
  const rules: Rules = { inForce: new Set(), toCome: new Set(), problems: [] };
  for (const [, list = "", remark] of text.matchAll(/^- \*\*(\d+[^*]*)\.\*\* (\*Not in force yet\b)?/gm)) {
    for (const number of numbersOf(list)) {
      if (rules.inForce.has(number) || rules.toCome.has(number)) {
        rules.problems.push(`${RULES}: rule ${number} is listed twice`);
      }
      (remark === undefined ? rules.inForce : rules.toCome).add(number);
    }
  }
  return rules;
}

// A list may go on in the next line, behind the sign of a comment.
const GAP = String.raw`\s+(?:(?:\/\/|\*|#)\s+)?`;
const AND = `(?:,${GAP}(?:(?:and|or)${GAP})?|${GAP}(?:to|and|or)${GAP})`;
const CITATION = new RegExp(String.raw`\brules?${GAP}(\d+[a-z]?(?:${AND}\d+[a-z]?)*)\b`, "gi");

/** The numbers in "7", "16, 47 and 18a", "20 to 23". */
function numbersOf(list: string): string[] {
  const numbers: string[] = [];
  let isRange = false;
  for (const [word] of list.matchAll(/\d+[a-z]?|\bto\b/g)) {
    if (word === "to") isRange = true;
    else {
      const from = isRange ? Number.parseInt(numbers.at(-1) ?? word, 10) + 1 : Infinity;
      for (let number = from; number < Number.parseInt(word, 10); number++) numbers.push(String(number));
      numbers.push(word);
      isRange = false;
    }
  }
  return numbers;
}

/** What a text cites, each number with its line. */
export function citations(text: string): { number: string; line: number }[] {
  return [...text.matchAll(CITATION)].flatMap((match) => {
    const line = text.slice(0, match.index).split("\n").length;
    return numbersOf(match[1] ?? "").map((number) => ({ number, line }));
  });
}

const STRING = String.raw`"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|` + String.raw`\x60(?:\\.|[^\x60\\])*\x60`;
const COMMENT = String.raw`\/\/[^\n]*|\/\*[^]*?\*\/`;
const REGEX = String.raw`(?<=[(,=:[!&|?{};\n]\s*)\/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n[])+\/`;
const TOKEN = new RegExp(
  String.raw`(?<comment>${COMMENT})|(?<string>${STRING})|(?<regex>${REGEX})|(?<word>[\w$]+)|\S`,
  "g",
);

/** The titles of tests and of groups of them: the first argument of it, test and describe, behind `.each(...)` too. */
export function titlesOf(source: string): string[] {
  const tokens = [...source.matchAll(TOKEN)].filter(({ groups }) => groups?.comment === undefined);
  const at = (index: number) => tokens[index]?.[0] ?? "";
  const titles: string[] = [];
  for (let i = 0; i < tokens.length; i++) {
    if (!/^(?:it|test|describe)$/.test(at(i)) || at(i - 1) === ".") continue;
    let isLeftOut = false;
    let next = i + 1;
    while (at(next) === ".") {
      isLeftOut ||= /^(?:skip|todo)$/.test(at(next + 1));
      next += 2;
      if (at(next) === "<") next = behindTypes(next);
      // What is asked for, such as the table of each; the title is in the parentheses behind it.
      const end = at(next) === "(" ? closing(next) : next;
      if (at(next) === "(" && (at(end + 1) === "(" || at(end + 1) === ".")) next = end + 1;
    }
    const title = tokens[next + 1];
    if (!isLeftOut && at(next) === "(" && title?.groups?.string !== undefined) titles.push(title[0].slice(1, -1));
  }
  return titles;

  function behindTypes(open: number): number {
    let depth = 0;
    for (let index = open; index < tokens.length; index++) {
      if (at(index) === "<") depth++;
      else if (at(index) === ">" && at(index - 1) !== "=" && --depth === 0) return index + 1;
    }
    return open;
  }

  function closing(open: number): number {
    let depth = 0;
    for (let index = open; index < tokens.length; index++) {
      if (/^[([{]$/.test(at(index))) depth++;
      else if (/^[)\]}]$/.test(at(index)) && --depth === 0) return index;
    }
    return open;
  }
}

/** What is wrong between the rules and the files, by path. */
export function ruleProblems(files: ReadonlyMap<string, string>): string[] {
  const rules = parseRules(files.get(RULES) ?? "");
  const titled = new Set<string>();
  for (const [path, text] of files) {
    if (!TESTS.test(path)) continue;
    for (const title of titlesOf(text)) for (const { number } of citations(title)) titled.add(number);
  }
  const untested = [...rules.inForce].filter((number) => !titled.has(number));
  return [
    ...rules.problems,
    ...untested.map((number) => `${RULES}: rule ${number} has no test: no title of test/ names its number`),
    ...[...files].flatMap(([path, text]) =>
      citations(text)
        .filter(({ number }) => !rules.inForce.has(number) && !rules.toCome.has(number))
        .map(({ number, line }) => `${path}:${line}: rule ${number} is cited and is not in ${RULES}`),
    ),
  ];
}

if (import.meta.main) {
  const files = repositoryFiles((path) => CITING.test(path));
  const problems = ruleProblems(files);
  const { inForce, toCome } = parseRules(files.get(RULES) ?? "");
  if (inForce.size < 70) problems.push(`${RULES}: only ${inForce.size} rules were read`);
  if (problems.length > 0) {
    process.stderr.write(`${problems.join("\n")}\n`);
    process.exitCode = 1;
  } else {
    process.stdout.write(`${inForce.size} rules in force, ${toCome.size} to come\n`);
  }
}
