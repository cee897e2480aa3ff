// Attacks that once succeeded, each the smallest input that showed it. One after the other, beside the good client.

import { setTimeout as sleep } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import { create, toBinary } from "@bufbuild/protobuf";
import {
  BatchGetEntitiesRequestSchema,
  GetEntityRequestSchema,
  ListEntitiesRequestSchema,
  ListEntityEventsRequestSchema,
  UpdateEntityRequestSchema,
} from "../../clients/typescript/index.ts";
import { CANCEL, callHead, envelope, FLAG, FRAME, frame, headerBlock, PREFACE, settings, uint32 } from "../frames.ts";
import { CANARY, problemOf } from "./answers.ts";
import { atOnceCases } from "./at-once.ts";
import type { Attacker, Case } from "./attacker.ts";
import { open } from "./raw-connection.ts";

const GET = "/entity.v1.EntityService/GetEntity";
const LIST = "/entity.v1.EntityService/ListEntities";
const BATCH = "/entity.v1.EntityService/BatchGetEntities";
const RECORD = "/entity.v1.ActivityService/RecordTransactions";
const LOOKUP = envelope(Buffer.from([0x0a, 0x03, 0x12, 0x01, 0x78]));
/** `{list_services: ""}`. */
const REFLECTION = envelope(Buffer.from([0x3a, 0]));
/** At most this many places that callers without a key hold together; what the service allows is below. */
const MAX_OPEN = 2_000;

const grpc = (
  one: Case,
  path: string,
  message: Uint8Array,
  key: string | undefined = one.party.keys.all,
  more: Record<string, string> = {},
) =>
  one.call({
    path,
    headers: {
      "content-type": "application/grpc",
      te: "trailers",
      ...(key !== undefined && { authorization: `Bearer ${key}` }),
      ...more,
    },
    body: envelope(message, more["grpc-encoding"] === undefined ? 0 : 1),
    limitMs: 60_000,
  });

const json = (one: Case, method: string, text: string, more: Record<string, string> = {}) =>
  one.call({
    path: `/${method.includes(".") ? method : `entity.v1.${method}`}`,
    headers: { "content-type": "application/json", authorization: `Bearer ${one.party.keys.all}`, ...more },
    body: more["content-encoding"] === undefined ? Buffer.from(text) : gzipSync(text),
    limitMs: 60_000,
  });

const numbered = (count: number, of: (i: number) => string) => Array.from({ length: count }, (_, i) => of(i)).join();

/** Streams that were answered or still wait, over some connections. */
async function openStreams(
  one: Case,
  connections: number,
  head: Buffer,
  body: Buffer | undefined,
  holdMs: number,
  isComplete = true,
): Promise<number> {
  const made = await Promise.all(Array.from({ length: connections }, () => open(one.port)));
  for (const connection of made) {
    const parts = [PREFACE, settings()];
    for (let i = 0; i < 100; i++) {
      parts.push(frame(FRAME.HEADERS, FLAG.END_HEADERS, 1 + 2 * i, head));
      if (body !== undefined) parts.push(frame(FRAME.DATA, isComplete ? FLAG.END_STREAM : 0, 1 + 2 * i, body));
    }
    await connection.send(Buffer.concat(parts));
    one.sent(100);
  }
  await sleep(holdMs);
  let held = 0;
  for (const connection of made) {
    if (!connection.isClosed()) held += 100 - endedStreams(connection.head()).size;
    connection[Symbol.dispose]();
  }
  return held;
}

/** Streams that the other side has ended, or reset. */
function endedStreams(bytes: Buffer): Set<number> {
  const ended = new Set<number>();
  for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) {
    const [type, flags, stream] = [bytes[at + 3] ?? 0, bytes[at + 4] ?? 0, bytes.readUInt32BE(at + 5)];
    if (type === FRAME.RST_STREAM || (type <= FRAME.HEADERS && (flags & FLAG.END_STREAM) !== 0)) ended.add(stream);
  }
  return ended;
}

/** One message each on some connections, in frames that are just not so small that the connection ends. */
async function crumbs(one: Case, head: Buffer): Promise<void> {
  const frames = Buffer.concat(Array.from({ length: 3_000 }, () => frame(FRAME.DATA, 0, 1, Buffer.alloc(64, 0x0a))));
  await Promise.all(
    Array.from({ length: 8 }, async () => {
      using connection = await open(one.port);
      const prefix = frame(FRAME.DATA, 0, 1, Buffer.from([0, 0, 15, 0, 0]));
      const begun = [PREFACE, settings(), frame(FRAME.HEADERS, FLAG.END_HEADERS, 1, head), prefix];
      await connection.send(Buffer.concat(begun));
      for (let i = 0; i < 5 && (await connection.send(frames, 1_000)); i++) one.sent(3_000);
      await sleep(500);
    }),
  );
}

const batch = (lookups: number) =>
  toBinary(
    BatchGetEntitiesRequestSchema,
    create(BatchGetEntitiesRequestSchema, {
      lookups: Array.from({ length: lookups }, () => ({ by: { case: "externalId" as const, value: "big-0" } })),
    }),
  );

/** Answers that nobody reads, held until the service gives them up; how many it still holds after the time. */
async function unread(one: Case, streams: number, lookups: number, forMs: number): Promise<number> {
  using connection = await open(one.port);
  const parts = [PREFACE, settings([[4, 0]])];
  for (let i = 0; i < streams; i++) {
    parts.push(
      frame(FRAME.HEADERS, FLAG.END_HEADERS, 1 + 2 * i, callHead(BATCH, one.party.keys.read)),
      frame(FRAME.DATA, FLAG.END_STREAM, 1 + 2 * i, envelope(batch(lookups))),
    );
  }
  one.sent(streams);
  await connection.send(Buffer.concat(parts));
  const until = performance.now() + forMs;
  while (performance.now() < until && !connection.isClosed() && endedStreams(connection.head()).size < streams)
    await sleep(200);
  return connection.isClosed() ? 0 : streams - endedStreams(connection.head()).size;
}

async function pipelinedGuesses(one: Case, connections: number, each: number, forMs: number): Promise<void> {
  const until = performance.now() + forMs;
  await Promise.all(
    Array.from({ length: connections }, async () => {
      while (performance.now() < until) {
        using connection = await open(one.port);
        let text = "";
        for (let i = 0; i < each; i++) {
          text += `POST ${GET} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${CANARY}${one.random.word(24)}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}`;
        }
        await connection.send(Buffer.from(text));
        one.sent(each);
        await connection.closed(Math.min(2_000, Math.max(0, until - performance.now())));
      }
    }),
  );
}

const invalidItems = (count: number) => Buffer.alloc(2 * count, Buffer.from([0x0a, 0]));

/** HEADERS and RST_STREAM in one packet, once for each code. */
async function resetAtOnce(one: Case, path: string, headers: Record<string, string>, codes: number[]): Promise<void> {
  for (const code of codes) {
    using connection = await open(one.port);
    const block = headerBlock({ ":method": "POST", ":scheme": "http", ":path": path, ":authority": "a", ...headers });
    await connection.send(
      Buffer.concat([
        PREFACE,
        settings(),
        frame(FRAME.HEADERS, FLAG.END_HEADERS, 1, block),
        frame(FRAME.RST_STREAM, 0, 1, uint32(code)),
      ]),
    );
    one.sent(1);
    await connection.closed(100);
  }
  await sleep(200);
}

const CASES: Record<string, (one: Case) => Promise<unknown>> = {
  kill: (one) => resetAtOnce(one, "/", { expect: "100-continue" }, [8]),
  // With these codes the stream emits an error.
  "kill by a reset with an error": async (one) => {
    for (const path of ["/", GET, "/grpc.health.v1.Health/Watch"])
      await resetAtOnce(one, path, {}, [1, 2, 3, 5, 9, 11, 13, 99]);
  },
  "kill by a broken frame": async (one) => {
    // A call and, in the same packet, what ends its connection.
    for (const path of ["/", GET, "/grpc.health.v1.Health/Watch"]) {
      for (const end of [
        frame(FRAME.SETTINGS, 0, 1),
        frame(FRAME.WINDOW_UPDATE, 0, 1, uint32(0)),
        frame(FRAME.DATA, 0, 0),
        frame(FRAME.HEADERS, FLAG.END_HEADERS, 1, Buffer.from([0xff, 0xff])),
        frame(FRAME.PUSH_PROMISE, 0, 1, uint32(2)),
        frame(FRAME.GOAWAY, 0, 1, Buffer.alloc(8)),
      ]) {
        using connection = await open(one.port);
        await connection.send(
          Buffer.concat([
            PREFACE,
            settings(),
            frame(FRAME.HEADERS, FLAG.END_HEADERS, 1, callHead(path, one.party.keys.read)),
            end,
          ]),
        );
        one.sent(1);
        await connection.closed(100);
      }
    }
  },
  violations: (one) =>
    grpc(
      one,
      LIST,
      toBinary(
        ListEntitiesRequestSchema,
        create(ListEntitiesRequestSchema, { statuses: new Array(1_000_000).fill(99) }),
      ),
      one.party.keys.read,
    ),
  "violations of texts": (one) => grpc(one, LIST, Buffer.alloc(1_000_000, Buffer.from([0x1a, 0])), one.party.keys.read),
  minviol: async (one) => {
    for (const count of [10, 30, 100, 300, 1_000]) {
      await json(
        one,
        "ActivityService/RecordTransactions",
        `{"transactions":[${Array(count).fill('{"type":"t","amount":"x","currency":"EUR","transactedAt":"2020-01-01T00:00:00Z"}').join()}]}`,
      );
    }
  },
  trailers: async (one) => {
    for (const count of [1, 10, 20, 30, 60, 200, 600, 1_000]) await grpc(one, RECORD, invalidItems(count));
  },
  "costly durationDigits": (one) =>
    json(
      one,
      "WebhookService/RotateWebhookSecret",
      `{"endpointId":"${one.party.organizationId}","previousSecretLifetime":"${"9".repeat(1e6)}s"}`,
    ),
  "costly tsDigits": (one) => json(one, "EntityService/ListEntityEvents", `{"from":"${"9".repeat(1e6)}"}`),
  "costly int32Digits": (one) => json(one, "EntityService/ListEntities", `{"pageSize":"${"9".repeat(1e6)}"}`),
  "costly int32num": (one) => json(one, "EntityService/ListEntities", `{"pageSize":${"9".repeat(1e6)}}`),
  "costly int64 text": (one) => json(one, "EntityService/ListAuditCheckpoints", `{"afterNumber":"${"9".repeat(1e6)}"}`),
  "costly mask text": (one) =>
    json(one, "EntityService/BatchUpdateEntities", `{"requests":[{"updateMask":"${"a,".repeat(1.9e6)}"}]}`),
  "costly mask text, with a time": (one) =>
    json(
      one,
      "EntityService/BatchUpdateEntities",
      `{"requests":[{"reason":"2026-02-30T10","updateMask":"${"a,".repeat(1.9e6)}"}]}`,
    ),
  "costly errors of the library": (one) =>
    json(one, "grpc.health.v1.Health/Check", JSON.stringify({ ['duplicate object key "'.repeat(40_000)]: 1 })),
  "costly ends of streams": (one) =>
    one.call({
      path: "/grpc.health.v1.Health/Check",
      headers: { "content-type": "application/grpc-web+proto" },
      body: Buffer.alloc(1_000_000, Buffer.of(0x80, 0, 0, 0, 0)),
      limitMs: 60_000,
    }),
  "costly empty messages": (one) =>
    one.call({
      path: "/entity.v1.EntityService/ImportEntities",
      headers: { "content-type": "application/grpc", te: "trailers", authorization: `Bearer ${one.party.keys.all}` },
      body: Buffer.alloc(1_000_000),
      limitMs: 60_000,
    }),
  "costly nestArr": (one) =>
    json(
      one,
      "EntityService/CreateEntity",
      `{"entity":{"attributes":{"a":${"[".repeat(500_000)}${"]".repeat(500_000)}}}}`,
    ),
  "costly nestObj": (one) =>
    json(
      one,
      "EntityService/CreateEntity",
      `{"entity":{"attributes":${'{"a":'.repeat(150_000)}1${"}".repeat(150_000)}}}`,
    ),
  "costly manyKeys": (one) =>
    json(one, "EntityService/CreateEntity", `{"entity":{"attributes":{${numbered(90_000, (i) => `"k${i}":1`)}}}}`),
  "costly dupKeys": (one) =>
    json(one, "EntityService/CreateEntity", `{"entity":{"attributes":{${numbered(100_000, () => '"k":1')}}}}`),
  "costly hashKeys": (one) =>
    json(
      one,
      "EntityService/CreateEntity",
      `{"entity":{"attributes":{${numbered(70_000, (i) => `"${i * 65_536}":1`)}}}}`,
    ),
  "costly unknownFields": (one) => json(one, "EntityService/GetEntity", `{${numbered(80_000, (i) => `"z${i}":1`)}}`),
  "costly maskPaths": (one) =>
    grpc(
      one,
      "/entity.v1.EntityService/UpdateEntity",
      toBinary(
        UpdateEntityRequestSchema,
        create(UpdateEntityRequestSchema, {
          lookup: { by: { case: "externalId", value: "a" } },
          updateMask: { paths: Array.from({ length: 20_000 }, (_, i) => `p${i}`) },
        }),
      ),
    ),
  "costly validStatuses": (one) =>
    grpc(
      one,
      LIST,
      toBinary(
        ListEntitiesRequestSchema,
        create(ListEntitiesRequestSchema, { statuses: new Array(1_000_000).fill(1) }),
      ),
      one.party.keys.read,
    ),
  "costly validTypes": (one) =>
    grpc(
      one,
      "/entity.v1.EntityService/ListEntityEvents",
      toBinary(
        ListEntityEventsRequestSchema,
        create(ListEntityEventsRequestSchema, { types: new Array(1_000_000).fill(1) }),
      ),
      one.party.keys.read,
    ),
  "costly readMask": (one) =>
    grpc(
      one,
      GET,
      toBinary(
        GetEntityRequestSchema,
        create(GetEntityRequestSchema, {
          lookup: { by: { case: "externalId", value: "big-0" } },
          readMask: { paths: new Array(150_000).fill("name") },
        }),
      ),
      one.party.keys.read,
    ),
  "costly batch4MB": (one) => grpc(one, BATCH, invalidItems(1_900_000), one.party.keys.read),
  "costly gzipBomb": (one) => json(one, "EntityService/GetEntity", " ".repeat(300e6), { "content-encoding": "gzip" }),
  "costly gzipBombHealth": (one) =>
    json(one, "grpc.health.v1.Health/Check", " ".repeat(300e6), { "content-encoding": "gzip" }),
  "costly len4GiB": (one) =>
    one.call({
      path: GET,
      headers: { "content-type": "application/grpc", te: "trailers", authorization: `Bearer ${one.party.keys.read}` },
      body: Buffer.from([0, 255, 255, 255, 255, 1, 2, 3]),
    }),
  "costly nameList": (one) => json(one, "EntityService/ListEntities", `{"namePrefix":"${"a".repeat(900_000)}"}`),
  "costly extIdsList": (one) =>
    json(one, "EntityService/ListEntities", `{"externalIds":[${numbered(250_000, () => '"a"')}]}`),
  "costly badExtIds": (one) =>
    json(one, "EntityService/ListEntities", `{"externalIds":[${numbered(30_000, () => '"\\u0001"')}]}`),
  "costly paramRepeat": (one) =>
    grpc(one, GET, Buffer.alloc(800_000, Buffer.from([0x0a, 2, 0x0a, 0])), one.party.keys.read),
  "costly unknownBin": (one) =>
    grpc(one, GET, Buffer.alloc(900_000, Buffer.from([0xfa, 0x7f, 0])), one.party.keys.read),
  "costly structs": (one) => {
    // {entity: {attributes: {fields: {key: "a"}}}}, with values that have no kind.
    const entry = Buffer.from([0x0a, 3, 0x0a, 1, 0x61]);
    const long = (tag: number, bytes: Buffer) =>
      Buffer.concat([
        Buffer.from([tag, (bytes.length & 127) | 128, ((bytes.length >> 7) & 127) | 128, bytes.length >> 14]),
        bytes,
      ]);
    return grpc(one, "/entity.v1.EntityService/CreateEntity", long(0x0a, long(0x7a, Buffer.alloc(900_000, entry))));
  },
  bigresp: (one) => unread(one, 10, 1_000, 6_000),
  bigjson: (one) =>
    json(one, "EntityService/BatchGetEntities", `{"lookups":[${numbered(300, () => '{"externalId":"big-0"}')}]}`),
  async hold(one) {
    const held = await unread(one, 4, 15, 45_000);
    if (held > 0) one.failed(`${held} answers that nobody reads are held for over 45 s`);
  },
  async starve(one) {
    await openStreams(one, 3, callHead(GET, one.party.keys.read), undefined, 6_000);
  },
  "starve by imports": (one) =>
    openStreams(one, 3, callHead("/entity.v1.EntityService/ImportEntities", one.party.keys.all), undefined, 6_000),
  async healthwatch(one) {
    const held = await openStreams(one, 60, callHead("/grpc.health.v1.Health/Watch"), envelope(Buffer.alloc(0)), 8_000);
    if (held > MAX_OPEN) one.failed(`${held} health watches at once without a key`);
  },
  async "reflection without end"(one) {
    const held = await openStreams(
      one,
      60,
      callHead("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
      REFLECTION,
      8_000,
      false,
    );
    if (held > MAX_OPEN) one.failed(`${held} reflection streams at once without a key`);
  },
  async reflect(one) {
    const name = Buffer.from("entity.v1.EntityService");
    const question = envelope(Buffer.concat([Buffer.from([0x22, name.length]), name]));
    const answer = await one.call({
      path: "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
      headers: { "content-type": "application/grpc", te: "trailers" },
      body: Buffer.alloc(question.length * 1_000, question),
    });
    void problemOf(answer, "");
  },
  async onebyte(one) {
    const streams = 100;
    await Promise.all(
      Array.from({ length: 3 }, async () => {
        using connection = await open(one.port);
        const parts = [PREFACE, settings(), frame(FRAME.WINDOW_UPDATE, 0, 0, uint32(2 ** 30))];
        for (let i = 0; i < streams; i++) {
          parts.push(
            frame(FRAME.HEADERS, FLAG.END_HEADERS, 1 + 2 * i, callHead(GET, one.party.keys.read)),
            frame(FRAME.DATA, 0, 1 + 2 * i, Buffer.from([0, 0, 15, 255, 255])),
          );
        }
        await connection.send(Buffer.concat(parts));
        // Within the window of each stream, and within that of the connection.
        const round = Buffer.concat(
          Array.from({ length: streams }, (_, i) => frame(FRAME.DATA, 0, 1 + 2 * i, Buffer.from([1]))),
        );
        for (let i = 0; i < 600; i += 20) {
          if (!(await connection.send(Buffer.alloc(round.length * 20, round)))) break;
          one.sent(streams * 20);
          await sleep(40);
        }
        await sleep(1_000);
      }),
    );
  },
  "crumbs without a key": (one) => crumbs(one, callHead("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")),
  "crumbs of an import": (one) => crumbs(one, callHead("/entity.v1.EntityService/ImportEntities", one.party.keys.all)),
  authflood: (one) => pipelinedGuesses(one, 40, 500, 5_000),
  "authflood one connection": (one) => pipelinedGuesses(one, 1, 20_000, 5_000),
  async authflood2(one) {
    const until = performance.now() + 5_000;
    await Promise.all(
      Array.from({ length: 10 }, async () => {
        while (performance.now() < until) {
          using connection = await open(one.port);
          const parts = [PREFACE, settings()];
          for (let i = 0; i < 100; i++) {
            parts.push(
              frame(FRAME.HEADERS, FLAG.END_HEADERS, 1 + 2 * i, callHead(GET, `${CANARY}${one.random.word(24)}`)),
              frame(FRAME.DATA, FLAG.END_STREAM, 1 + 2 * i, LOOKUP),
            );
          }
          await connection.send(Buffer.concat(parts));
          one.sent(100);
          await connection.closed(300);
        }
      }),
    );
  },
  async rrkeys(one) {
    const made = await Promise.all(Array.from({ length: 20 }, () => open(one.port)));
    for (const connection of made) {
      const parts = [PREFACE, settings()];
      for (let i = 0; i < 900; i++) {
        parts.push(
          frame(FRAME.HEADERS, FLAG.END_HEADERS, 1 + 2 * i, callHead(GET, `${CANARY}${one.random.word(24)}`)),
          frame(FRAME.RST_STREAM, 0, 1 + 2 * i, CANCEL),
        );
      }
      await connection.send(Buffer.concat(parts));
      one.sent(900);
    }
    await sleep(5_000);
    for (const connection of made) connection[Symbol.dispose]();
  },
  ...atOnceCases,
  async "very many calls whose connections end at once"(one) {
    const made = await Promise.all(Array.from({ length: 400 }, () => open(one.port)));
    for (const connection of made) await connection.send(Buffer.concat([PREFACE, settings()]));
    await sleep(1_000);
    const head = callHead(GET, one.party.keys.read);
    const calls = Buffer.concat(
      Array.from({ length: 100 }, (_, i) => frame(FRAME.HEADERS, FLAG.END_HEADERS, 1 + 2 * i, head)),
    );
    await Promise.all(made.map((connection) => connection.send(calls)));
    one.sent(made.length * 100);
    // Their bodies never come: all of them are open.
    await sleep(2_000);
    for (const connection of made) connection[Symbol.dispose]();
    await sleep(2_000);
  },
  async "guesses on very many connections"(one) {
    const made = await Promise.all(Array.from({ length: 200 }, () => open(one.port)));
    for (const connection of made) await connection.send(Buffer.concat([PREFACE, settings()]));
    const floods = made.map(() =>
      Buffer.concat(
        Array.from({ length: 300 }, (_, i) =>
          frame(FRAME.HEADERS, FLAG.END_HEADERS, 1 + 2 * i, callHead(GET, `${CANARY}${one.random.word(24)}`)),
        ),
      ),
    );
    await sleep(1_000);
    // In one moment: the service finds all of them readable in one turn.
    await Promise.all(made.map((connection, i) => connection.send(floods[i] ?? Buffer.alloc(0))));
    one.sent(made.length * 300);
    await sleep(5_000);
    for (const connection of made) connection[Symbol.dispose]();
  },
  // Last: if it succeeds, no service is left to attack.
  crash1: (one) => grpc(one, RECORD, invalidItems(2_000_000), one.party.keys.all, { "grpc-timeout": "60S" }),
};

export const plantedCases: Attacker[] = Object.entries(CASES).map(([name, attack]) => ({
  name: `case/${name.replaceAll(" ", "-")}`,
  perSecond: 1,
  atOnce: 1,
  attack: async (one) => void (await attack(one)),
}));
