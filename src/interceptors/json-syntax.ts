// Where a text stops being JSON, in words that hold nothing of it: JSON.parse says it with a piece of the text.

const BLANK = /[ \t\n\r]*/y;
const LITERAL = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;
const ESCAPE = /\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})/y;
const CONTROL_MAX = 0x1f;

/** For a text that JSON.parse refuses: what should be where, by its offset from 0 in UTF-16 units. */
export function syntaxProblem(text: string): string {
  let at = 0;
  /** The closing brackets that are still to come. */
  const open: ("}" | "]")[] = [];
  let state: "value" | "key" | "behind" = "value";
  let isBehindComma = false;
  for (;;) {
    skip(BLANK);
    const closing = open.at(-1);
    if (state === "behind") {
      if (closing === undefined) return stopped("the end");
      if (take(closing)) open.pop();
      else if (take(",")) [state, isBehindComma] = [closing === "}" ? "key" : "value", true];
      else return stopped(`a comma or ${closing}`);
      continue;
    }
    if (closing !== undefined && text[at] === closing) {
      if (isBehindComma) return `there is a comma too many before offset ${at}`;
      at += 1;
      open.pop();
      state = "behind";
      continue;
    }
    if (state === "key") {
      if (!string()) return stopped("a key in quotation marks");
      skip(BLANK);
      if (!take(":")) return stopped("a colon");
      skip(BLANK);
    }
    isBehindComma = false;
    if (take("{")) {
      open.push("}");
      state = "key";
    } else if (take("[")) {
      open.push("]");
      state = "value";
    } else if (string() || skip(LITERAL)) state = "behind";
    else return stopped("a value");
  }

  function skip(pattern: RegExp): boolean {
    pattern.lastIndex = at;
    if (!pattern.test(text)) return false;
    at = pattern.lastIndex;
    return true;
  }

  function take(character: string): boolean {
    if (text[at] !== character) return false;
    at += 1;
    return true;
  }

  /** A whole string; where it is none, `at` is where it ends being one. */
  function string(): boolean {
    if (!take('"')) return false;
    for (;;) {
      const code = text.charCodeAt(at);
      if (Number.isNaN(code) || code <= CONTROL_MAX) return false;
      if (take('"')) return true;
      if (code !== 0x5c) at += 1;
      else if (!skip(ESCAPE)) return false;
    }
  }

  function stopped(wanted: string): string {
    return at >= text.length ? `it ends before ${wanted}` : `${wanted} should be at offset ${at}`;
  }
}
