// Bodies of Connect's JSON: broken, repeated, deep, with keys and numbers that confuse parsers.
import { type DescField, type DescMessage, toJson } from "@bufbuild/protobuf";
import { envelope } from "../../frames.ts";
import { CANARY } from "../answers.ts";
import type { Attacker, Case } from "../attacker.ts";
import { isGuarded, messageOf, oddObject, RPCS, type Rpc } from "../messages.ts";
import type { Random } from "../random.ts";

const FRAGMENTS = [
  ...[
    "1e999999",
    "-0",
    "1E+400",
    "0.1e-999999",
    "99999999999999999999999999",
    "NaN",
    "Infinity",
    "0x10",
    "01",
    "1.",
    ".5",
  ],
  ...['"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"\\x41"', "null", "true", "[]", "{}", "[[]]", '{"a":{}}', '""'],
  ...['{"__proto__":{"polluted":1}}', '{"constructor":{"prototype":{"x":1}}}', '{"toString":1}', '{"":1}'],
  ...['{"a":1,"a":2}', '"2024-13-45T99:99:99Z"', '"9999999999999s"', '"-1s"', "undefined", "'a'", "/*x*/1", "1,"],
  ...[
    `"${CANARY}"`,
    `{"${CANARY}":1}`,
    '"ENTITY_STATUS_BLOCKED"',
    '"NO_SUCH_ENUM"',
    "1.5",
    "-1",
    "2147483648",
    '"2147483648"',
  ],
];

const repeat = (text: string, times: number) => text.repeat(Math.max(0, times));

function mutate(text: string, random: Random): string {
  let made = text;
  for (let i = random.int(1, 4); i > 0; i--) {
    const at = random.int(0, made.length);
    const values = [...made.matchAll(/:("[^"]*"|-?\d+|true|false|null)/g)];
    switch (random.int(0, 6)) {
      case 0:
      case 1:
      case 2: {
        if (values.length === 0) break;
        const value = random.pick(values);
        made = `${made.slice(0, value.index + 1)}${random.pick(FRAGMENTS)}${made.slice(value.index + value[0].length)}`;
        break;
      }
      case 3:
        made =
          made.slice(0, at) +
          random.pick(["{", "}", "[", "]", ",", ":", '"', "\\", "\u0000", "\ud800", "\ufeff", " "]) +
          made.slice(at);
        break;
      case 4:
        made = made.slice(0, at) + made.slice(at + random.int(1, 10));
        break;
      case 5: {
        const open = made.indexOf("{");
        made = `${made.slice(0, open + 1)}"${random.pick([CANARY, "__proto__", "lookup", "entity", "a"])}":${random.pick(FRAGMENTS)},${made.slice(open + 1)}`;
        break;
      }
      default:
        made = made.slice(0, at);
    }
  }
  return made;
}

function heavy(random: Random, limit: number): string {
  const n = Math.floor(limit * random.pick([0.05, 0.5, 0.97]));
  const keys = (count: number, key: (i: number) => string) =>
    Array.from({ length: count }, (_, i) => `"${key(i)}":1`).join();
  const field = random.pick(["attributes", "metadata", "entityData", "name", "externalIds"]);
  switch (random.int(0, 11)) {
    case 0:
      return `{"entity":{"${field}":{"a":${repeat("[", n / 2)}${repeat("]", n / 2)}}}}`;
    case 1:
      return `{"entity":{"${field}":${repeat('{"a":', n / 6)}1${repeat("}", n / 6)}}}`;
    case 2:
      return `{"entity":{"${field}":{${keys(Math.min(100_000, Math.floor(n / 12)), (i) => `k${i}`)}}}}`;
    case 3:
      return `{"entity":{"${field}":{${keys(Math.min(100_000, Math.floor(n / 8)), () => "k")}}}}`;
    case 4:
      return `{"entity":{"${field}":{${keys(Math.min(90_000, Math.floor(n / 14)), (i) => String(i * 65_536))}}}}`;
    case 5:
      return `{${keys(Math.min(80_000, Math.floor(n / 12)), (i) => `z${i}`)}}`;
    case 6:
      return `{"pageSize":${random.chance(0.5) ? `"${repeat("9", n)}"` : repeat("9", n)}}`;
    case 7:
      return `{"from":"${repeat("9", n)}","updatedAfter":"${repeat("1", 20)}"}`;
    case 8:
      return `{"endpointId":"a","previousSecretLifetime":"${repeat("9", n)}s"}`;
    case 9:
      return `{"namePrefix":"${repeat(random.pick(["a", "\\u0301", "\\ud83d\\ude00"]), n / 12)}"}`;
    case 10: {
      const list = random.pick([
        "externalIds",
        "countryCodes",
        "statuses",
        "lookups",
        "transactions",
        "types",
        "scopes",
        "requests",
        "eventTypes",
      ]);
      const item = random.pick(['"a"', '"\\u0001"', "{}", "1", '""', "null", "99"]);
      return `{"${list}":[${repeat(`${item},`, n / (item.length + 1))}${item}]}`;
    }
    default:
      return `{"lookup":{"externalId":"small-1"},"readMask":"${repeat("name,", n / 5)}name","updateMask":"${repeat("a.", 500)}b"}`;
  }
}

const LONG_OF = ["9", "0", "a", "A", "a,", "aB,", ".", " ", "é", "e\u0301", "\\ud83d\\ude00", "\\ud800", "\\u0031"];
/** As the library's errors begin, which repeat keys and values of the request. */
LONG_OF.push('duplicate object key \\"', "cannot decode field a.b from JSON: ", 'key \\"');

/** The request with one text of megabytes in any of its fields, or as a key: in a form over which something may take long. */
function longText(desc: DescMessage, random: Random, limit: number): string {
  const unit = random.pick(LONG_OF);
  const before = random.pick(["", "", "-", "0.", "1e", "2026-01-01T00:00:00.", "2026-02-30T10"]);
  const long = `${before}${repeat(unit, Math.floor((limit * random.pick([0.3, 0.97])) / unit.length))}${random.pick(["", "", "s", "Z", "_"])}`;
  let leaf = unit === "9" && random.chance(0.3) ? long : `"${long}"`;
  const way: DescField[] = [];
  for (let inside: DescMessage | undefined = desc; inside !== undefined && inside.fields.length > 0; ) {
    const field: DescField = random.pick(inside.fields);
    way.push(field);
    inside = way.length > 6 || field.message?.typeName.startsWith("google.protobuf.") ? undefined : field.message;
  }
  if (way.length === 0 || random.chance(0.1)) leaf = `{"${long}":1}`;
  return way.reduceRight(
    (json, { jsonName, fieldKind }) => `{"${jsonName}":${fieldKind === "list" ? `[${json}]` : json}}`,
    leaf,
  );
}

const rpcOf = ({ random }: Case): Rpc => {
  for (;;) {
    const rpc = random.pick(RPCS);
    if (!isGuarded(rpc)) return rpc;
  }
};

async function send(one: Case, rpc: Rpc, text: string): Promise<void> {
  const { random, party } = one;
  const isUnary = rpc.method.methodKind === "unary";
  const type = isUnary
    ? random.pick(["application/json", "application/json", "application/grpc+json"])
    : random.pick(["application/connect+json", "application/grpc+json"]);
  const bytes = Buffer.from(text, random.chance(0.02) ? "utf16le" : "utf8");
  await one.call({
    path: rpc.path,
    headers: {
      "content-type": type,
      authorization: `Bearer ${party.keys.all}`,
      ...(type.startsWith("application/grpc") && { te: "trailers" }),
      ...(random.chance(0.1) && { "connect-protocol-version": random.pick(["1", "2", ""]) }),
      ...(random.chance(0.1) && {
        [type.startsWith("application/grpc") ? "grpc-timeout" : "connect-timeout-ms"]: random.pick([
          "1",
          "0",
          "-1",
          "99999999999",
          "x",
          "1n",
          "99999999H",
        ]),
      }),
    },
    body: type === "application/json" ? bytes : envelope(bytes),
    ...(rpc.method.methodKind === "server_streaming" && { leaveAfterMs: random.int(20, 300) }),
  });
}

export const jsonAttackers: Attacker[] = [
  {
    name: "json",
    perSecond: 150,
    atOnce: 12,
    async attack(one) {
      const { random, ground, party } = one;
      const rpc = rpcOf(one);
      const taste = { random, ground, party, wild: random.pick([0, 10, 40]), maxList: 20, maxText: 500 };
      let text: string;
      try {
        text = JSON.stringify(toJson(rpc.method.input, messageOf(rpc.method.input, taste)));
      } catch {
        text = JSON.stringify({ entity: { attributes: oddObject(taste) }, lookup: { externalId: "small-1" } });
      }
      await send(one, rpc, random.chance(0.9) ? mutate(text, random) : text);
    },
  },
  {
    name: "heavy-json",
    perSecond: 6,
    atOnce: 3,
    async attack(one) {
      const rpc = rpcOf(one);
      const limit = /^(Batch|Import|Record)/.test(rpc.method.name) ? 4_000_000 : 1_000_000;
      const { random } = one;
      await send(one, rpc, random.chance(0.5) ? heavy(random, limit) : longText(rpc.method.input, random, limit));
    },
  },
];
