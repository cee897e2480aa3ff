// A page of the documents as steps for the workshop, and what is wrong where these do not do what the page says.
import { type DescMessage, type DescMethod, fromJsonString, type JsonValue } from "@bufbuild/protobuf";
import * as client from "../../clients/typescript/index.ts";
import { type Block, blocksOf, commandsOf, isAnswer, isRun } from "./blocks.ts";
import type { Outcome, PageOptions, Step, Workshop } from "./workshop.ts";

interface Trial extends Step {
  block: Block;
  line: number;
  /** What is wrong with the outcome; undefined where nothing is. */
  judge(outcome: Outcome): string | undefined;
  /** Of a command of a transcript. */
  answer?: string | undefined;
  isCommand?: boolean;
}

const exported = Object.values(client as Record<string, unknown>);
const isDesc = (value: unknown, kind: string): boolean =>
  typeof value === "object" && value !== null && "kind" in value && value.kind === kind;
const MESSAGES = exported.filter((value): value is DescMessage => isDesc(value, "message"));
const METHODS: readonly DescMethod[] = exported
  .filter((value): value is { methods: DescMethod[] } => isDesc(value, "service"))
  .flatMap(({ methods }) => methods);

const failed = ({ said, code }: Outcome) =>
  code === 0 ? undefined : `ended with ${code ?? "the page's time limit"}:\n${said}`;

/** The name under which a block of TypeScript is compiled and run. */
export const tsName = ({ file, line }: Block) => `${file.replaceAll(/\W+/g, "-")}-${line}.ts`;

/** All that a page has its reader do, in order. Throws on JSON that is not what it claims to be. */
export function trialsOf(file: string, text: string): Trial[] {
  return blocksOf(file, text).filter(isRun).flatMap(trialsOfBlock);
}

function trialsOfBlock(block: Block): Trial[] {
  const { language, line, text } = block;
  switch (language) {
    case "console":
      return commandsOf(block).map(({ line: at, source, answer }) => ({
        ...{ block, line: at, source, answer, isCommand: true },
        judge: (outcome) => {
          if (answer === undefined)
            return failed(outcome) ?? (outcome.said === "" ? undefined : `says:\n${outcome.said}`);
          return isAnswer(answer, outcome.said) ? undefined : `shown:\n${answer}\nthe service says:\n${outcome.said}`;
        },
      }));
    case "sh":
      return [{ block, line, source: text, judge: failed }];
    case "ts":
      return [
        {
          ...{ block, line, file: { name: tsName(block), text }, judge: failed },
          source: `timeout 60 node --import "$TS/prelude.mjs" "$TS/${tsName(block)}"`,
        },
      ];
    case "json":
      return jsonTrials(block);
    case "cel":
      return [celTrial(block)];
    default:
      return [];
  }
}

function jsonTrials(block: Block): Trial[] {
  const [name = "", reason] = block.words;
  if (name === "plain") {
    JSON.parse(block.text);
    return [];
  }
  const message = MESSAGES.find(({ typeName }) => typeName === name || typeName === `entity.v1.${name}`);
  if (message === undefined) throw new Error(`${block.file}:${block.line}: the client has no message ${name}`);
  try {
    fromJsonString(message, block.text);
  } catch (error) {
    throw new Error(`${block.file}:${block.line}: not a ${name}: ${(error as Error).message}`);
  }
  const method = METHODS.find(({ input }) => input.typeName === message.typeName);
  return method === undefined || method.methodKind !== "unary" ? [] : [callTrial(block, method, block.text, reason)];
}

/** A call with the JSON of its request, which has to be answered, or refused with that reason. */
function callTrial(block: Block, method: DescMethod, request: string, reason: string | undefined): Trial {
  const file = { name: `${tsName(block)}.json`.replace(/\.ts\.json$/, ".json"), text: request };
  return {
    ...{ block, line: block.line, file },
    source: `curl -s "$ENTITY_SERVICE_URL/${method.parent.typeName}/${method.name}" -H "authorization: Bearer $ENTITY_SERVICE_API_KEY" -H 'content-type: application/json' --data-binary @${file.name}`,
    judge: (outcome) => {
      const { said } = outcome;
      if (said === "") return failed(outcome) ?? "no answer";
      const answer = JSON.parse(said) as { code?: string; details?: { debug?: { reason?: string } }[] };
      const refused = answer.code === undefined ? undefined : (answer.details?.[0]?.debug?.reason ?? answer.code);
      return refused === reason ? undefined : `the service says ${refused ?? "OK"}, not ${reason ?? "OK"}:\n${said}`;
    },
  };
}

/** Each line is an expression that a matrix with it may be saved with. */
function celTrial(block: Block): Trial {
  const rules: JsonValue = block.text
    .split("\n")
    .filter((one) => one.trim() !== "")
    .map((expression, index) => ({ id: `rule-${index + 1}`, displayName: "Example", expression, points: "10" }));
  const method = METHODS.find(({ name }) => name === "CreateRiskMatrix");
  if (method === undefined) throw new Error("the contract has no CreateRiskMatrix");
  const request = JSON.stringify({ matrix: { displayName: "Examples", rules }, validateOnly: true });
  return callTrial(block, method, request, undefined);
}

export interface PageResult {
  /** `file:line: what is wrong`. */
  problems: string[];
  /** How many steps were tried. */
  trials: number;
  /** The page with the answers of the service in the place of those that it shows. */
  filled: string;
}

/** Tries a page from top to bottom. */
export async function tryPage(
  workshop: Workshop,
  { file, text }: { file: string; text: string },
  options: PageOptions = {},
): Promise<PageResult> {
  const trials = trialsOf(file, text);
  if (trials.length === 0) return { problems: [], trials: 0, filled: text };
  const outcomes = await workshop.run(trials, { isEmpty: /import examples\/entities\.ndjson/.test(text), ...options });
  const problems: string[] = [];
  const lines = text.split("\n");
  for (const [index, trial] of [...trials.entries()].reverse()) {
    const outcome = outcomes[index] as Outcome;
    const problem = trial.judge(outcome);
    if (problem === undefined) continue;
    problems.unshift(`${file}:${trial.line}: ${trial.source}\n${problem}`);
    if (trial.isCommand !== true || outcome.code === undefined) continue;
    const begin = trial.line - 1 + trial.source.split("\n").length;
    const shown = trial.answer === undefined ? 0 : trial.answer.split("\n").length;
    lines.splice(begin, shown, ...(outcome.said.trimEnd() === "" ? [] : [outcome.said.trimEnd()]));
  }
  return { problems, trials: trials.length, filled: lines.join("\n") };
}

/** The programs that the blocks of a page call and that npm does not bring. */
export function toolsOf(file: string, text: string): string[] {
  const blocks = blocksOf(file, text).filter(isRun);
  const shell = blocks.filter(({ language }) => language === "console" || language === "sh");
  const commands = shell.map(({ text: source }) => source).join("\n");
  const called = ["grpcurl", "curl", "jq", "openssl", "python3"].filter((name) =>
    new RegExp(String.raw`(?:^|[|$(&]\s*)${name}\s`, "m").test(commands),
  );
  const sent = blocks.some(
    ({ language, words }) => language === "cel" || (language === "json" && words[0] !== "plain"),
  );
  return [...new Set([...called, ...(sent ? ["curl"] : [])])];
}
