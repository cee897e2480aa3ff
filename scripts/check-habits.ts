// What neither compiler nor linter knows: tests that are left out, words that have no place in the project, linters
// that are told to look away, exports that nobody uses, long files that do not say why.
import { repositoryFiles } from "./repository-files.ts";

interface Habit {
  pattern: RegExp;
  files: RegExp;
  /** Also fine where this line, or the one before it, has a comment that says why. */
  orComment?: boolean;
  problem: string;
}

const CODE = /^(src|test|bench|scripts|\.ci|clients\/typescript(?!\/gen))\/.*\.ts$/;
const HABITS: Habit[] = [
  {
    pattern: /\b(?:it|test|describe|suite|bench)(?:\.\w+)*\.only\b/,
    files: CODE,
    problem: "leaves out all other tests",
  },
  {
    // A condition (skipIf, runIf) is a reason, and so is a text (context.skip("...")).
    pattern: /\b(?:(?:it|test|describe|suite|bench)(?:\.\w+)*\.(?:skip|todo|fails)\b|(?:ctx|context)\.skip\(\))/,
    files: CODE,
    orComment: true,
    problem: "leaves a test out without a comment that says why",
  },
  {
    pattern: /(?:oxlint|eslint)-disable|@ts-(?:ignore|nocheck)/,
    files: CODE,
    problem: "silences a check: mend the code, or the rule",
  },
  {
    // Every rule of biome asks for a reason itself; whole files are another matter.
    pattern: /biome-ignore-(?:all|start)/,
    files: CODE,
    problem: "silences a rule for a whole file",
  },
  {
    pattern:
      /\b(?:registry\.[\w-]+\.\w{2,3}\b|npm\.pkg\.|proxy\.golang\.|deb\.debian\.|pypi\.org|docker\.io|ghcr\.io|npmjs\.(?:com|org))/,
    files: /./,
    problem: "names the host of a package registry",
  },
  {
    pattern: /(?<![\w.$})])\/(?:work|root|home\/\w+|Users\/\w+)\//,
    files: /./,
    problem: "names a path of one machine",
  },
  {
    pattern:
      /\b(?:cl[a]ude|anthr[o]pic|open[a]i|chat[g]pt|cop[i]lot|ll[m]s?|sub-?ag[e]nts?|(?:ai|coding) (?:ag[e]nt|ass[i]stant|sess[i]on)s?)\b/i,
    files: /./,
    problem: "speaks of how the text was made",
  },
];

/** What is wrong with a file: `line: problem`. */
export function habitProblems(path: string, text: string): string[] {
  const lines = text.split("\n");
  return HABITS.filter(({ files }) => files.test(path)).flatMap(({ pattern, orComment, problem }) =>
    lines.flatMap((line, index) => {
      if (!pattern.test(line)) return [];
      const isExplained = orComment && [line, lines[index - 1] ?? ""].some((one) => /(^|\s)\/\/ \S+ \S/.test(one));
      return isExplained ? [] : [`${index + 1}: ${problem}`];
    }),
  );
}

const MAX_LINES = 300;

/** What is wrong with the length of a file of src/: over 300 lines it must say why, in the comment that it begins with. */
export function lengthProblem(path: string, text: string): string | undefined {
  const lines = text.trimEnd().split("\n");
  if (!/^src\/.*\.ts$/.test(path) || lines.length <= MAX_LINES) return undefined;
  const code = lines.findIndex((line) => !line.startsWith("//"));
  if (lines.slice(0, code).some((line) => /^\/\/ Long because \S/.test(line))) return undefined;
  return `${path}: ${lines.length} lines, over ${MAX_LINES}: cut it where a noun stands out, or say why in a line of its head that begins "// Long because"`;
}

/** Functions, classes and constants that src/ exports and that nothing but tests names, its own file included. */
export function unusedExports(files: Map<string, string>): string[] {
  const uses = new Map<string, number>();
  for (const [path, text] of files) {
    if (path.startsWith("test/")) continue;
    for (const [word] of text.matchAll(/[\w$]+/g)) uses.set(word, (uses.get(word) ?? 0) + 1);
  }
  return [...files].flatMap(([path, text]) => {
    if (!path.startsWith("src/")) return [];
    const names = [...text.matchAll(/^export (?:async )?(?:function\*?|const|class) ([\w$]+)/gm)].map(
      ([, name = ""]) => name,
    );
    return names
      .filter((name) => uses.get(name) === 1)
      .map((name) => `${path}: nobody but tests uses the export ${name}`);
  });
}

if (import.meta.main) {
  const texts = repositoryFiles();
  const code = new Map([...texts].filter(([path]) => CODE.test(path)));
  const problems = [
    ...[...texts].flatMap(([path, text]) => habitProblems(path, text).map((problem) => `${path}:${problem}`)),
    ...unusedExports(code),
    ...[...code].flatMap(([path, text]) => lengthProblem(path, text) ?? []),
  ];
  if (code.size < 60) problems.push(`only ${code.size} files of code were read`);
  if (problems.length > 0) {
    process.stderr.write(`${problems.join("\n")}\n`);
    process.exitCode = 1;
  } else {
    process.stdout.write(`${texts.size} files read\n`);
  }
}
