// Callers that take a place and keep it: readers that do not read, watches without end, streams that need no key;
// callers that leave in the middle; and callers that guess keys.

import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { create, toBinary } from "@bufbuild/protobuf";
import {
  BatchGetEntitiesRequestSchema,
  ListEntitiesRequestSchema,
  WatchEntitiesRequestSchema,
} from "../../../clients/typescript/index.ts";
import { CANCEL, callHead, envelope, FLAG, FRAME, frame, PREFACE, settings, uint32 } from "../../frames.ts";
import { CANARY } from "../answers.ts";
import type { Attacker, Case } from "../attacker.ts";
import { bytesOf, RPCS } from "../messages.ts";
import { open } from "../raw-connection.ts";

const hold = (one: Case, ms: number) => sleep(ms, undefined, { signal: one.over }).catch(() => {});
const GET = "/entity.v1.EntityService/GetEntity";
/** `{lookup: {external_id: "x"}}`. */
const LOOKUP = envelope(Buffer.from([0x0a, 0x03, 0x12, 0x01, 0x78]));

const batch = (lookups: number, name = "big-0") =>
  envelope(
    toBinary(
      BatchGetEntitiesRequestSchema,
      create(BatchGetEntitiesRequestSchema, {
        lookups: Array.from({ length: lookups }, () => ({ by: { case: "externalId" as const, value: name } })),
      }),
    ),
  );
const list = envelope(toBinary(ListEntitiesRequestSchema, create(ListEntitiesRequestSchema, { pageSize: 1_000 })));
const watch = (position: string) =>
  envelope(toBinary(WatchEntitiesRequestSchema, create(WatchEntitiesRequestSchema, { position })));

export const holdingAttackers: Attacker[] = [
  {
    name: "paused-readers",
    perSecond: 1,
    atOnce: 3,
    async attack(one) {
      const { random, party } = one;
      using connection = await open(one.port, random.chance(0.5));
      const streams = random.int(1, 10);
      const parts = [PREFACE, settings([[4, random.pick([0, 0, 1, 1_000, 65_535])]])];
      for (let i = 0; i < streams; i++) {
        const [method, body] = random.pick([
          ["BatchGetEntities", batch(random.pick([1, 15, 300, 1_000]))],
          ["ListEntities", list],
          ["WatchEntities", watch("")],
        ] as const);
        parts.push(
          frame(
            FRAME.HEADERS,
            FLAG.END_HEADERS,
            1 + 2 * i,
            callHead(`/entity.v1.EntityService/${method}`, party.keys.read),
          ),
          ...inFrames(body, 1 + 2 * i),
        );
      }
      one.sent(streams);
      await connection.send(Buffer.concat(parts));
      await hold(one, random.int(1_000, 12_000));
      one.ended(connection.isClosed() ? "closed" : "held");
    },
  },
  {
    name: "byte-a-second",
    perSecond: 1,
    atOnce: 3,
    async attack(one) {
      const { random, party } = one;
      using connection = await open(one.port);
      await connection.send(
        Buffer.concat([
          PREFACE,
          settings([[4, 1]]),
          frame(
            FRAME.HEADERS,
            FLAG.END_HEADERS,
            1,
            callHead("/entity.v1.EntityService/BatchGetEntities", party.keys.read),
          ),
          ...inFrames(batch(random.pick([10, 15, 100])), 1),
        ]),
      );
      one.sent(1);
      for (let i = 0; i < 15 && !one.over.aborted && !connection.isClosed(); i++) {
        await connection.send(
          Buffer.concat([frame(FRAME.WINDOW_UPDATE, 0, 1, uint32(1)), frame(FRAME.WINDOW_UPDATE, 0, 0, uint32(1))]),
        );
        await hold(one, 1_000);
      }
      one.ended(connection.isClosed() ? "closed" : "held");
    },
  },
  {
    name: "watches",
    perSecond: 2,
    atOnce: 6,
    async attack(one) {
      // A hundred streams on a connection; some never read, some leave at once, some watch from an invalid position.
      const { random, party } = one;
      using connection = await open(one.port, random.chance(0.6));
      const parts = [PREFACE, settings([[4, random.pick([0, 65_535])]])];
      const position = random.pick(["", "", random.bytes(20).toString("base64url"), CANARY]);
      for (let i = 0; i < 100; i++) {
        parts.push(
          frame(
            FRAME.HEADERS,
            FLAG.END_HEADERS,
            1 + 2 * i,
            callHead("/entity.v1.EntityService/WatchEntities", party.keys.read),
          ),
          frame(FRAME.DATA, FLAG.END_STREAM, 1 + 2 * i, watch(position)),
        );
      }
      one.sent(100);
      await connection.send(Buffer.concat(parts));
      await hold(one, random.int(20, 5_000));
      one.ended(connection.isClosed() ? "closed" : "held");
    },
  },
  {
    name: "streams-without-a-key",
    perSecond: 2,
    atOnce: 8,
    async attack(one) {
      const { random } = one;
      using connection = await open(one.port, random.chance(0.8));
      const path = random.pick([
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
      ]);
      const name = random.pick(["entity.v1.EntityService", "google.protobuf.Struct", CANARY]);
      const question = envelope(
        Buffer.concat([Buffer.from([random.pick([0x1a, 0x22]), name.length]), Buffer.from(name)]),
      );
      const parts = [PREFACE, settings()];
      for (let i = 0; i < 100; i++) {
        parts.push(frame(FRAME.HEADERS, FLAG.END_HEADERS, 1 + 2 * i, callHead(path)));
        parts.push(
          path.includes("Watch")
            ? frame(FRAME.DATA, FLAG.END_STREAM, 1 + 2 * i, envelope(Buffer.alloc(0)))
            : frame(FRAME.DATA, 0, 1 + 2 * i, Buffer.concat(Array(random.int(1, 5)).fill(question))),
        );
      }
      one.sent(100);
      await connection.send(Buffer.concat(parts));
      await hold(one, random.int(500, 8_000));
      one.ended(connection.isClosed() ? "closed" : "held");
    },
  },
  {
    name: "cancels",
    perSecond: 120,
    atOnce: 16,
    async attack(one) {
      // Leaves at a random moment, in every protocol and every kind of method.
      const { random, party, ground } = one;
      const { path, method } = random.pick(RPCS.filter(({ method }) => method.name !== "RevokeApiKey"));
      const protocol = random.pick([
        "application/grpc",
        "application/grpc-web+proto",
        method.methodKind === "unary" ? "application/proto" : "application/connect+proto",
      ]);
      const bytes = bytesOf(method.input, { random, ground, party, wild: 2, maxList: 5, maxText: 100 });
      await one.call({
        path,
        headers: {
          "content-type": protocol,
          authorization: `Bearer ${party.keys.all}`,
          ...(protocol === "application/grpc" && {
            te: "trailers",
            ...(random.chance(0.3) && { "grpc-timeout": `${random.int(1, 50)}m` }),
          }),
        },
        body: protocol === "application/proto" ? bytes : envelope(bytes),
        open: random.chance(0.3),
        leaveAfterMs: random.chance(0.5) ? random.int(0, 8) : random.int(0, 60),
      });
    },
  },
  {
    name: "guesses-http2",
    perSecond: 4,
    atOnce: 4,
    async attack(one) {
      const { random } = one;
      using connection = await open(one.port);
      await connection.send(Buffer.concat([PREFACE, settings()]));
      const leaves = random.chance(0.5);
      for (let i = 0; i < 100; i += 20) {
        const frames: Buffer[] = [];
        for (let j = i; j < i + 20; j++) {
          frames.push(
            frame(FRAME.HEADERS, FLAG.END_HEADERS, 1 + 2 * j, callHead(GET, `${CANARY}${random.word(24)}`)),
            leaves
              ? frame(FRAME.RST_STREAM, 0, 1 + 2 * j, CANCEL)
              : frame(FRAME.DATA, FLAG.END_STREAM, 1 + 2 * j, LOOKUP),
          );
        }
        if (!(await connection.send(Buffer.concat(frames)))) break;
        one.sent(20);
      }
      await connection.closed(200);
      one.ended(connection.isClosed() ? "closed" : "open");
    },
  },
  {
    name: "guesses-http1",
    perSecond: 6,
    atOnce: 6,
    async attack(one) {
      const { random } = one;
      using connection = await open(one.port);
      const count = random.pick([50, 200, 500]);
      let text = "";
      for (let i = 0; i < count; i++) {
        text += `POST ${GET} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${CANARY}${random.word(24)}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}`;
      }
      await connection.send(Buffer.from(text));
      one.sent(count);
      await connection.closed(1_000);
      for (const [, status = ""] of connection
        .head()
        .toString("latin1")
        .matchAll(/HTTP\/1\.1 (\d+)/g)) {
        one.ended(`http ${status}`);
        if (Number(status) >= 500 && status !== "503") one.failed(`HTTP ${status} to a guessed key`);
      }
    },
  },
  {
    name: "odd-heads",
    perSecond: 60,
    atOnce: 8,
    async attack(one) {
      // Calls that follow the rules of HTTP, with unknown headers, paths and types.
      const { random, party } = one;
      const key = random.pick([
        `Bearer ${party.keys.read}`,
        `Bearer ${CANARY}`,
        "Bearer ",
        "Basic YTpi",
        `bearer  ${party.keys.read}`,
        CANARY,
        `Bearer ${"k".repeat(5_000)}`,
        "",
      ]);
      const path = random.pick([
        GET,
        `${GET}/`,
        `/entity.v1.EntityService/${CANARY}`,
        "/entity.v1.NoService/Get",
        "//",
        `/${"a".repeat(4_000)}`,
        "/healthz",
        "/metrics",
        "/grpc.health.v1.Health/Check",
        random.pick(RPCS).path,
      ]);
      if (path.includes("RevokeApiKey")) return;
      const headers: Record<string, string> = {
        "content-type": random.pick([
          "application/grpc",
          "application/json",
          "application/grpc-web",
          "application/grpc+xml",
          "text/plain",
          "application/connect+json",
          "multipart/form-data",
          "application/proto",
        ]),
        ...(key !== "" && { authorization: key }),
      };
      if (random.chance(0.4))
        headers["grpc-timeout"] = random.pick(["1n", "0S", "-1S", "99999999H", "100000000S", "x", "5"]);
      if (random.chance(0.3)) headers["grpc-encoding"] = random.pick(["gzip", "br", "zstd", "identity", CANARY]);
      if (random.chance(0.3)) headers["x-actor-id"] = random.pick([CANARY, "", " ", "a".repeat(1_000), "\u00e9"]);
      if (random.chance(0.2)) headers["x-source"] = random.pick([CANARY, "a".repeat(1_000)]);
      if (random.chance(0.2))
        headers.traceparent = random.pick([CANARY, "00-0-0-0", `00-${"a".repeat(32)}-${"b".repeat(16)}-01`]);
      if (random.chance(0.2)) headers["some-bin"] = random.pick(["!!!", "AAAA", ""]);
      await one.call({
        path,
        headers,
        body: random.pick([
          LOOKUP,
          Buffer.from("{}"),
          Buffer.alloc(0),
          envelope(Buffer.alloc(3), 0x80),
          envelope(Buffer.alloc(3), 2),
        ]),
        leaveAfterMs: 5_000,
      });
    },
  },
  {
    name: "webhooks",
    perSecond: 4,
    atOnce: 2,
    async attack(one) {
      // Endpoints whose receivers answer late, without end, with much, or not at all, and writes that feed them.
      const { random, party } = one;
      const receiver = createServer((request, response) => {
        request.resume();
        switch (random.int(0, 5)) {
          case 0:
            setTimeout(() => response.end(), 3_000).unref();
            break;
          case 1:
            request.socket.destroy();
            break;
          case 2: {
            response.writeHead(200);
            const more = setInterval(() => response.write("x".repeat(10_000)), 20);
            response.once("close", () => clearInterval(more));
            break;
          }
          case 3:
            response.writeHead(500, {
              "retry-after": random.pick(["0", "99999999999", "x", "-1"]),
              x: "a".repeat(8_000),
            });
            response.end(CANARY);
            break;
          case 4:
            response.writeHead(302, { location: "http://127.0.0.1:1/" });
            response.end();
            break;
          default:
            response.end("ok");
        }
      }).listen(0, "127.0.0.1");
      await new Promise((resolve) => receiver.once("listening", resolve));
      const { port } = receiver.address() as { port: number };
      const ask = (method: string, body: object) =>
        one.call({
          path: `/entity.v1.${method}`,
          headers: { "content-type": "application/json", authorization: `Bearer ${party.keys.all}` },
          body: Buffer.from(JSON.stringify(body)),
        });
      const made = await ask("WebhookService/CreateWebhookEndpoint", {
        endpoint: { url: `http://127.0.0.1:${port}/${CANARY}`, displayName: CANARY },
      });
      for (let i = 0; i < 4; i++) {
        await ask("EntityService/UpdateEntity", {
          lookup: { externalId: `small-${random.int(0, 39)}` },
          entity: { attributes: { w: `${one.index} ${i}` } },
        });
      }
      await hold(one, random.int(100, 3_000));
      const { endpoint } = made.http === 200 ? JSON.parse(made.body.toString("utf8")) : { endpoint: undefined };
      if (endpoint !== undefined) await ask("WebhookService/DeleteWebhookEndpoint", { endpointId: endpoint.id });
      receiver.closeAllConnections();
      receiver.close();
    },
  },
];

/** A body in DATA frames of the usual size, the last of which ends the stream. */
function inFrames(body: Buffer, stream: number): Buffer[] {
  const frames: Buffer[] = [];
  for (let at = 0; at < body.length; at += 16_384) {
    frames.push(
      frame(FRAME.DATA, at + 16_384 >= body.length ? FLAG.END_STREAM : 0, stream, body.subarray(at, at + 16_384)),
    );
  }
  return frames;
}
