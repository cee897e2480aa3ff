// Bytes of requests: typed ones as far from what is meant as types allow, and valid ones that are broken afterwards.
import { gzipSync } from "node:zlib";
import { envelope } from "../../frames.ts";
import { CANARY } from "../answers.ts";
import type { Attacker, Case } from "../attacker.ts";
import { bytesOf, isGuarded, RPCS, type Rpc, type Taste } from "../messages.ts";
import type { Random } from "../random.ts";

const MIB = 1024 * 1024;

/** The size limit of the RPC: batches and imports take four times that of others. */
const limitOf = ({ method }: Rpc) => (/^(Batch|Import|Record)/.test(method.name) ? 4 * MIB : MIB);

export function varint(value: bigint | number): Buffer {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  bytes.push(Number(rest));
  return Buffer.from(bytes);
}

const tag = (field: number, wireType: number) => varint((BigInt(field) << 3n) | BigInt(wireType));
const delimited = (field: number, bytes: Uint8Array) => Buffer.concat([tag(field, 2), varint(bytes.length), bytes]);

/** Breaks bytes a few times. */
export function mutate(bytes: Uint8Array, random: Random): Buffer {
  let made = Buffer.from(bytes);
  for (let i = random.int(1, 6); i > 0; i--) {
    const at = random.int(0, made.length);
    const before = made.subarray(0, at);
    const behind = made.subarray(at);
    switch (random.int(0, 11)) {
      case 0:
        if (made.length > 0) made[at % made.length] = (made[at % made.length] ?? 0) ^ (1 << random.int(0, 7));
        break;
      case 1:
        if (made.length > 0) made[at % made.length] = random.pick([0, 0x7f, 0x80, 0xff, 0x0a, 0x08]);
        break;
      case 2:
        made = Buffer.concat([before, behind.subarray(random.int(0, 8))]);
        break;
      case 3:
        made = Buffer.concat([before, behind.subarray(0, random.int(0, 64)), behind]);
        break;
      case 4:
        made = Buffer.concat([before, Buffer.alloc(random.int(9, 12), 0xff), behind]);
        break;
      case 5:
        made = Buffer.concat([before, random.bytes(random.int(1, 8)), behind]);
        break;
      case 6:
        made = Buffer.concat([made, tag(random.int(1, 40), random.int(0, 7)), random.bytes(random.int(0, 12))]);
        break;
      case 7:
        made = Buffer.concat([made, delimited(random.int(1, 20), Buffer.from([0xc3, 0x28, 0xff, 0xfe]))]);
        break;
      case 8:
        made = Buffer.concat([
          made,
          tag(random.int(1, 20), 2),
          varint(random.pick([2 ** 31 - 1, 2 ** 32 - 1, 2 ** 40, 1e6])),
        ]);
        break;
      case 9:
        made = Buffer.concat([made, tag(random.int(1, 2 ** 29 - 1), 0), varint(random.pick([0n, 2n ** 64n - 1n]))]);
        break;
      case 10:
        made = before;
        break;
      default:
        made = Buffer.concat([made, made]);
    }
    if (made.length > 64 * 1024) made = made.subarray(0, 64 * 1024);
  }
  return made;
}

/** One field of the request, many times over, or very deep: within the limit of the RPC unless by chance. */
function heavy(rpc: Rpc, random: Random): Buffer {
  const limit = Math.floor(limitOf(rpc) * random.pick([0.01, 0.1, 0.5, 0.98, 0.98, 1.01]));
  const fields = rpc.method.input.fields;
  const field = fields.length === 0 ? undefined : random.pick(fields);
  const number = random.chance(0.9) && field !== undefined ? field.number : random.int(1, 2 ** 20);
  const fill = (one: Buffer) => Buffer.alloc(Math.max(one.length, limit - (limit % one.length)), one);
  const isNumber =
    field?.fieldKind === "enum" ||
    (field?.fieldKind === "list" && field.listKind !== "message" && field.listKind !== "scalar");
  const text = Buffer.from(random.pick(["", "\u0001", "a", "AR", CANARY, "\u00e9".repeat(300)]));
  switch (random.int(0, 6)) {
    case 0:
      return delimited(number, fill(Buffer.from([random.pick([1, 3, 99])])));
    case 1:
      return fill(
        isNumber
          ? Buffer.concat([tag(number, 0), Buffer.from([random.pick([1, 99])])])
          : delimited(number, Buffer.alloc(0)),
      );
    case 2:
      return fill(delimited(number, text));
    case 3: {
      // A message in a message in a message, from the inside.
      let nested = Buffer.alloc(0);
      const depth = random.pick([90, 110, 1_000, 5_000]);
      const way = random.pick([[5, 6], [1, 5], [6, 1], [number], [1]]);
      for (let i = 0; i < depth && nested.length < limit; i++) nested = delimited(way[i % way.length] ?? 1, nested);
      return delimited(number, nested);
    }
    case 4:
      // Groups, a form that is long deprecated.
      return Buffer.concat([
        Buffer.alloc(Math.min(limit, 200_000), tag(15, 3)),
        Buffer.alloc(random.int(0, 1_000), tag(15, 4)),
      ]);
    case 5:
      // A Struct with many keys, or with values that have no kind.
      return delimited(
        2,
        delimited(
          15,
          fill(
            delimited(
              1,
              Buffer.concat([
                delimited(1, Buffer.from(random.word(3))),
                random.chance(0.5) ? delimited(2, Buffer.alloc(0)) : Buffer.alloc(0),
              ]),
            ),
          ),
        ),
      );
    default:
      return fill(Buffer.concat([tag(random.int(100, 5_000), 0), Buffer.from([0])]));
  }
}

const tasteOf = ({ random, ground, party }: Case, wild: number, maxList: number, maxText: number): Taste => ({
  random,
  ground,
  party,
  wild,
  maxList,
  maxText,
});

async function send(
  one: Case,
  rpc: Rpc,
  message: Uint8Array,
  more: { compressed?: boolean; messages?: number } = {},
): Promise<void> {
  const { random, party } = one;
  const isStream = rpc.method.methodKind !== "unary";
  const packed = more.compressed ? gzipSync(message) : message;
  const whole = envelope(packed, more.compressed ? 1 : 0);
  const protocol = random.pick(["grpc", "grpc", "grpc", "web", "connect"]);
  const type = {
    grpc: "application/grpc+proto",
    web: "application/grpc-web+proto",
    connect: isStream ? "application/connect+proto" : "application/proto",
  }[protocol] as string;
  await one.call({
    path: rpc.path,
    headers: {
      "content-type": type,
      authorization: `Bearer ${random.chance(0.97) ? party.keys.all : party.keys.read}`,
      ...(protocol === "grpc" && { te: "trailers" }),
      ...(more.compressed &&
        (protocol === "connect"
          ? { [isStream ? "connect-content-encoding" : "content-encoding"]: "gzip" }
          : { "grpc-encoding": "gzip" })),
    },
    body: protocol === "connect" && !isStream ? packed : Array.from({ length: more.messages ?? 1 }, () => whole),
    ...(rpc.method.methodKind === "server_streaming" && { leaveAfterMs: random.int(20, 300) }),
  });
}

const rpcOf = ({ random }: Case): Rpc => {
  for (;;) {
    const rpc = random.pick(RPCS);
    if (!isGuarded(rpc)) return rpc;
  }
};

export const protobufAttackers: Attacker[] = [
  {
    name: "protobuf",
    perSecond: 150,
    atOnce: 12,
    async attack(one) {
      const { random } = one;
      const rpc = rpcOf(one);
      const valid = bytesOf(rpc.method.input, tasteOf(one, 10, 20, 500));
      const bytes = random.chance(0.85) ? mutate(valid, random) : random.bytes(random.int(0, 400));
      await send(one, rpc, bytes, {
        compressed: random.chance(0.05),
        messages: random.chance(0.03) ? random.pick([0, 2, 50]) : 1,
      });
    },
  },
  {
    name: "typed",
    perSecond: 100,
    atOnce: 12,
    async attack(one) {
      const { random } = one;
      const rpc = rpcOf(one);
      const wild = random.pick([0, 5, 5, 30, 100]);
      await send(one, rpc, bytesOf(rpc.method.input, tasteOf(one, wild, random.pick([3, 30, 1_200]), 6_000)), {
        messages: rpc.method.methodKind === "bidi_streaming" ? random.int(1, 30) : 1,
      });
    },
  },
  {
    name: "heavy-protobuf",
    perSecond: 8,
    atOnce: 4,
    async attack(one) {
      const rpc = rpcOf(one);
      const bytes = heavy(rpc, one.random);
      await send(one, rpc, bytes, { compressed: one.random.chance(0.15) });
    },
  },
  {
    name: "heavy-typed",
    perSecond: 4,
    atOnce: 3,
    async attack(one) {
      const { random } = one;
      const rpc = rpcOf(one);
      await send(
        one,
        rpc,
        bytesOf(rpc.method.input, tasteOf(one, random.pick([10, 60]), random.pick([1_000, 20_000]), 200_000)),
        {
          messages: rpc.method.methodKind === "bidi_streaming" ? random.int(1, 400) : 1,
        },
      );
    },
  },
  {
    name: "batches",
    perSecond: 6,
    atOnce: 3,
    async attack(one) {
      // Full batches and pages, all of them valid.
      const { random, party } = one;
      const n = random.pick([1, 200, 1_000, 1_001, 5_000]);
      const large = random.chance(0.3);
      const lookup = () => ({ externalId: large ? `big-${random.int(0, 3)}` : `small-${random.int(0, 39)}` });
      const same = lookup();
      const cases: [string, object][] = [
        [
          "EntityService/BatchGetEntities",
          { lookups: Array.from({ length: n }, random.chance(0.5) ? () => same : lookup) },
        ],
        [
          "EntityService/ListEntities",
          { pageSize: n, externalIds: Array.from({ length: n }, (_, i) => `small-${i % 40}`) },
        ],
        ["EntityService/ListEntities", { pageSize: random.pick([-1, 0, 1, 1000, 2 ** 31 - 1]), showDeleted: true }],
        [
          "EntityService/ListEntityEvents",
          { pageSize: 1_000, ...(random.chance(0.5) && { lookup: { externalId: "big-0" } }) },
        ],
        ["WebhookService/ListWebhookEndpoints", { pageSize: 1_000 }],
        ["OrganizationService/ListApiKeys", { pageSize: 1_000 }],
        [
          "ActivityService/RecordTransactions",
          {
            transactions: Array.from({ length: Math.min(n, 2_000) }, (_, i) => ({
              externalId: `t-${one.index}-${i}`,
              type: CANARY,
              amount: "1.00",
              currency: "EUR",
              origin: lookup(),
              destination: { name: CANARY },
              transactedAt: "2024-01-01T00:00:00Z",
            })),
          },
        ],
        [
          "ActivityService/RecordUserEvents",
          {
            userEvents: Array.from({ length: Math.min(n, 2_000) }, () => ({
              entityExternalId: lookup().externalId,
              eventType: "login",
              occurredAt: "2024-01-01T00:00:00Z",
              payload: { a: CANARY },
            })),
          },
        ],
        ["ActivityService/ListTransactions", { lookup: same, pageSize: 1_000 }],
        ["ActivityService/ListUserEvents", { lookup: same, pageSize: 1_000 }],
      ];
      const [method, body] = random.pick(cases);
      await one.call({
        path: `/entity.v1.${method}`,
        headers: { "content-type": "application/json", authorization: `Bearer ${party.keys.all}` },
        body: Buffer.from(JSON.stringify(body)),
      });
    },
  },
  {
    name: "bombs",
    perSecond: 2,
    atOnce: 2,
    async attack(one) {
      // Small bodies that unpack to large ones; lengths without the bytes.
      const { random, party } = one;
      const rpc = rpcOf(one);
      const key = random.chance(0.5) ? party.keys.all : `${CANARY}${random.word(20)}`;
      const bomb = gzipSync(Buffer.alloc(random.pick([2, 20, 60]) * 1_000_000, random.pick([0, 0x20, 0x0a])));
      const headers = { authorization: `Bearer ${key}` };
      switch (random.int(0, 3)) {
        case 0:
          await one.call({
            path: rpc.path,
            headers: { ...headers, "content-type": "application/grpc", te: "trailers", "grpc-encoding": "gzip" },
            body: envelope(bomb, 1),
          });
          break;
        case 1:
          await one.call({
            path: rpc.path,
            headers: {
              ...headers,
              "content-type": rpc.method.methodKind === "unary" ? "application/json" : "application/connect+json",
              [rpc.method.methodKind === "unary" ? "content-encoding" : "connect-content-encoding"]: "gzip",
            },
            body: rpc.method.methodKind === "unary" ? bomb : envelope(bomb, 1),
          });
          break;
        case 2:
          await one.call({
            path: rpc.path,
            headers: { ...headers, "content-type": "application/grpc", te: "trailers" },
            body: envelope(Buffer.from([1, 2, 3]), 0, random.pick([2 ** 32 - 1, 2 ** 31, 5 * MIB])),
          });
          break;
        default:
          // Several bombs in one stream, and bytes that are not gzip.
          await one.call({
            path: rpc.path,
            headers: {
              ...headers,
              "content-type": "application/grpc",
              te: "trailers",
              "grpc-encoding": random.pick(["gzip", "br", "identity", "deflate"]),
            },
            body: Array.from({ length: 10 }, () => envelope(random.chance(0.5) ? bomb : random.bytes(100), 1)),
          });
      }
    },
  },
];
