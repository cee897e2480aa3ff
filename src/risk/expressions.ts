// The expressions of rules, read and run: in the thread alone (thread.ts), since the library can neither be interrupted nor
// told what it may cost. Its public interface has no checker of types: what is checked of a tree is what its walk can see.
import { type CelInput, CelScalar, celEnv, celFunc, isCelError, parse, plan } from "@bufbuild/cel";
import { ENTITY_VARIABLES, type RuleAnswer } from "../domain/risk.ts";

/** Steps of loops: of one rule, and of all rules of a matrix over one entity. */
export const MAX_STEPS = { rule: 10_000, matrix: 50_000 };
/** UTF-16 units of a text that `+` makes: what is one only by name takes its room, at once, when it is searched. */
export const MAX_TEXT = 1_000_000;
/** Nested brackets, nodes of a tree, and loops in loops. */
const MAX_DEPTH = 50;
const MAX_NODES = 1_000;
const MAX_LOOPS = 2;

/** What is wrong with an expression, and where: lines and columns from 1, columns in code points. */
export interface ExpressionProblem {
  line: number;
  column: number;
  /** Says nothing of values in the expression. */
  description: string;
}

export interface ExpressionFacts {
  problem: ExpressionProblem | null;
  mentionsToday: boolean;
}

type Tree = ReturnType<typeof parse>;
type Node = Tree["expr"];

/** Values as the library takes them: maps are Map, since an object has keys that nobody gave it. */
export interface Variables {
  entity: CelInput;
  today: string;
}

export type RunRules = (variables: Variables, begin: (rule: number) => void) => RuleAnswer[];

export interface Expressions {
  /** Rule 144. */
  check(expression: string): ExpressionFacts;
  /**
   * Makes a matrix of its expressions, which were checked: it answers for each of them. Both tell before each which it is.
   */
  compile(expressions: readonly string[], begin?: (rule: number) => void): RunRules;
}

const STEP = "@step";
/** Refused, like constants of this type: copies outside of the heap, which no bound of the thread counts. */
const BYTES = "bytes";
const VARIABLES = ["entity", "today"];
const TYPES = ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];
/** What the library plans by itself, beside its functions. */
const PLANNED = ["_[_]", "_?_:_", "_&&_", "_||_", "@not_strictly_false"];

export function createExpressions(): Expressions {
  const steps = { rule: 0, matrix: 0 };
  const isSpent = () => steps.rule > MAX_STEPS.rule || steps.matrix > MAX_STEPS.matrix;
  const env = celEnv({
    funcs: [
      // An error of the condition ends a loop; one of its step would not.
      celFunc(STEP, [CelScalar.DYN], CelScalar.DYN, (condition) => {
        steps.rule += 1;
        steps.matrix += 1;
        if (isSpent()) throw new Error(STEP);
        return condition;
      }),
      // Instead of the library's.
      celFunc("_+_", [CelScalar.STRING, CelScalar.STRING], CelScalar.STRING, (left, right) => {
        if (left.length + right.length > MAX_TEXT) throw new Error("too long a text");
        return left + right;
      }),
    ],
  });
  const forms = formsOf(env.funcs);

  /** Whether a constant pattern of matches() can be read. */
  const isPattern = (call: Node): boolean => {
    if (call.exprKind.case !== "callExpr") return true;
    const { target, args } = call.exprKind.value;
    const [pattern] = args;
    if (call.exprKind.value.function !== "matches" || target === undefined || !isText(pattern)) return true;
    const value = { ...call.exprKind.value, target: pattern };
    return !isCelError(plan(env, { ...call, exprKind: { case: "callExpr", value } })({}));
  };

  return {
    check(expression) {
      const depth = brackets(expression);
      if (depth.most > MAX_DEPTH) return refusedAt(expression, depth.at, `has brackets more than ${MAX_DEPTH} deep`);
      let tree: Tree;
      try {
        tree = parse(expression);
      } catch (error) {
        return refusedAt(expression, offsetOf(error), isTooDeep(error) ? "is nested too deeply" : "is no expression");
      }
      const { refused, mentionsToday } = walk(tree.expr, forms, isPattern);
      if (refused === undefined) return { problem: null, mentionsToday };
      return refusedAt(expression, tree.sourceInfo?.positions[String(refused.id)] ?? 0, refused.description);
    },

    compile(expressions, begin) {
      const plans = expressions.map((expression, rule) => {
        begin?.(rule);
        const tree = parse(expression);
        countSteps(tree.expr);
        return plan(env, tree);
      });
      return (variables, begin) => {
        steps.matrix = 0;
        return plans.map((run, rule) => {
          begin(rule);
          steps.rule = 0;
          const value = run(variables as never);
          // Whatever became of it: `||` forgets the error of one side when the other is true.
          if (steps.rule > 0 && isSpent()) return "STEPS";
          if (isCelError(value)) return codeOf(value.message);
          return typeof value === "boolean" ? value : "TYPE";
        });
      };
    },
  };
}

/** What the library says of what it cannot answer, from its beginning: behind that are values. */
function codeOf(message: string): RuleAnswer {
  if (/^(field not found|no such key|index \S+ out of bounds|unresolved attribute)/.test(message)) {
    return "NO_SUCH_FIELD";
  }
  return /^(found no matching overload|type mismatch)/.test(message) ? "TYPE" : "OTHER";
}

/** JSON as the library takes it. */
export function toInput(value: unknown): CelInput {
  if (Array.isArray(value)) return value.map(toInput);
  if (value === null || typeof value !== "object") return value as CelInput;
  return new Map(Object.entries(value).map(([key, item]) => [key, toInput(item)]));
}

// --- Reading ------------------------------------------------------------------------------------

const isTooDeep = (error: unknown) => error instanceof RangeError;

function offsetOf(error: unknown): number {
  const { location } = error as { location?: { start?: { offset?: number } } };
  return location?.start?.offset ?? 0;
}

/** How deep the brackets are at most, and where; those in texts count too. */
function brackets(expression: string): { most: number; at: number } {
  let depth = 0;
  const deepest = { most: 0, at: 0 };
  for (let at = 0; at < expression.length; at++) {
    const character = expression[at] as string;
    if ("([{".includes(character)) depth += 1;
    if (")]}".includes(character)) depth = Math.max(0, depth - 1);
    if (depth > deepest.most) [deepest.most, deepest.at] = [depth, at];
  }
  return deepest;
}

function refusedAt(expression: string, offset: number, description: string): ExpressionFacts {
  const lines = expression.slice(0, offset).split(/\r\n|\r|\n/);
  const column = [...(lines.at(-1) ?? "")].length + 1;
  return { problem: { line: lines.length, column, description }, mentionsToday: false };
}

/** For each name the forms in which it can be called: as a method or not, with how many arguments. */
function formsOf(functions: Iterable<{ name: string; target: unknown; arguments: readonly unknown[] }>) {
  const forms = new Map<string, Set<string>>();
  for (const { name, target, arguments: args } of functions) {
    if (name === STEP || name === BYTES) continue;
    forms.set(name, (forms.get(name) ?? new Set()).add(formOf(target !== undefined, args.length)));
  }
  return forms;
}

const formOf = (isMethod: boolean, args: number) => `${isMethod ? "." : ""}${args}`;

interface Found {
  nodes: number;
  mentionsToday: boolean;
  refused: { id: bigint; description: string } | undefined;
}

/** Looks at every node; the first that is refused is told. */
function walk(root: Node, forms: ReadonlyMap<string, ReadonlySet<string>>, isPattern: (call: Node) => boolean): Found {
  const found: Found = { nodes: 0, mentionsToday: false, refused: undefined };
  const refuse = (node: Node, description: string) => {
    found.refused ??= { id: node.id, description };
  };
  const visit = (node: Node | undefined, names: readonly string[], loops: number): void => {
    if (node === undefined || found.refused !== undefined) return;
    found.nodes += 1;
    if (found.nodes > MAX_NODES) return refuse(node, `has more than ${MAX_NODES} nodes`);
    const problem =
      problemOf(node, { names, loops, forms }) ?? (isPattern(node) ? undefined : "has a pattern that is none");
    if (problem !== undefined) return refuse(node, problem);
    if (node.exprKind.case === "identExpr") found.mentionsToday ||= node.exprKind.value.name === "today";
    if (node.exprKind.case !== "comprehensionExpr") {
      for (const child of partsOf(node)) visit(child, names, loops);
      return;
    }
    const { iterRange, iterVar, accuVar, accuInit, loopCondition, loopStep, result } = node.exprKind.value;
    const inner = [...names, iterVar, accuVar];
    for (const part of [iterRange, accuInit]) visit(part, names, loops);
    for (const part of [loopCondition, loopStep]) visit(part, inner, loops + 1);
    visit(result, inner, loops);
  };
  visit(root, [...VARIABLES, ...TYPES], 0);
  return found;
}

interface Place {
  names: readonly string[];
  loops: number;
  forms: ReadonlyMap<string, ReadonlySet<string>>;
}

/** What is wrong with a node by itself. */
function problemOf({ exprKind }: Node, { names, loops, forms }: Place): string | undefined {
  switch (exprKind.case) {
    case "identExpr":
      return names.includes(exprKind.value.name) ? undefined : `has an unknown name${shown(exprKind.value.name)}`;
    case "selectExpr":
      return isEntity(exprKind.value.operand) ? unknownField(exprKind.value.field) : undefined;
    case "callExpr": {
      const { function: name, target, args } = exprKind.value;
      if (name === "_[_]" && isEntity(args[0]) && isText(args[1]))
        return unknownField(args[1].exprKind.value.constantKind.value);
      if (PLANNED.includes(name)) return undefined;
      const known = forms.get(name);
      if (known === undefined) return `has an unknown function${shown(name)}`;
      return known.has(formOf(target !== undefined, args.length))
        ? undefined
        : `has a function that is not called so${shown(name)}`;
    }
    case "constExpr":
      return exprKind.value.constantKind.case === "bytesValue" ? "has a constant of bytes" : undefined;
    case "structExpr":
      return exprKind.value.messageName === "" ? undefined : "has an unknown type";
    case "comprehensionExpr":
      if ([...VARIABLES, ...TYPES].includes(exprKind.value.iterVar)) return "has a loop over a name that is taken";
      return loops >= MAX_LOOPS ? `has loops more than ${MAX_LOOPS} deep` : undefined;
    default:
      return undefined;
  }
}

const isEntity = (node: Node | undefined): boolean =>
  node?.exprKind.case === "identExpr" && node.exprKind.value.name === "entity";

const unknownField = (name: string): string | undefined =>
  (ENTITY_VARIABLES as readonly string[]).includes(name) ? undefined : `has an unknown field of entity${shown(name)}`;

/** A name, where it is one and no text of the caller's. */
const shown = (name: string) => (/^[A-Za-z]\w{0,63}$/.test(name) ? `: ${name}` : "");

interface TextNode {
  exprKind: { case: "constExpr"; value: { constantKind: { case: "stringValue"; value: string } } };
}

const isText = (node: Node | undefined): node is Node & TextNode =>
  node?.exprKind.case === "constExpr" && node.exprKind.value.constantKind.case === "stringValue";

/** What a node is put together of. */
function partsOf({ exprKind }: Node): (Node | undefined)[] {
  switch (exprKind.case) {
    case "selectExpr":
      return [exprKind.value.operand];
    case "callExpr":
      return [exprKind.value.target, ...exprKind.value.args];
    case "listExpr":
      return exprKind.value.elements;
    case "structExpr":
      return exprKind.value.entries.flatMap(({ keyKind, value }) =>
        keyKind.case === "mapKey" ? [keyKind.value, value] : [value],
      );
    case "comprehensionExpr": {
      const { iterRange, accuInit, loopCondition, loopStep, result } = exprKind.value;
      return [iterRange, accuInit, loopCondition, loopStep, result];
    }
    default:
      return [];
  }
}

// --- Counting -----------------------------------------------------------------------------------

/** Lets every loop of the tree count its steps. */
function countSteps(node: Node | undefined): void {
  if (node === undefined) return;
  partsOf(node).forEach(countSteps);
  if (node.exprKind.case !== "comprehensionExpr") return;
  const loop = node.exprKind.value;
  const args = loop.loopCondition === undefined ? [] : [loop.loopCondition];
  const call = { $typeName: "cel.expr.Expr.Call", function: STEP, args } as const;
  loop.loopCondition = { ...node, exprKind: { case: "callExpr", value: call } };
}
