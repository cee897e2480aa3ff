// Sessions of HTTP/2 whose frames are broken, and bytes that never were any.

import { setTimeout as sleep } from "node:timers/promises";
import {
  CANCEL,
  callHead,
  envelope,
  FLAG,
  FRAME,
  frame,
  headerBlock,
  literal,
  PREFACE,
  settings,
  uint32,
} from "../../frames.ts";
import { CANARY } from "../answers.ts";
import type { Attacker, Case } from "../attacker.ts";
import { RPCS } from "../messages.ts";
import type { Random } from "../random.ts";
import { open } from "../raw-connection.ts";

/** A session that keeps the rules: a few calls, each with what belongs to it. */
function session({ random, party }: Case): Buffer[] {
  const frames = [
    settings(
      random.chance(0.5)
        ? []
        : [
            [3, 100],
            [4, random.pick([0, 1, 65_535, 2 ** 31 - 1])],
          ],
    ),
  ];
  let stream = 1;
  for (let i = random.int(1, 6); i > 0; i--, stream += 2) {
    const path = random.chance(0.8) ? random.pick(RPCS).path : "/grpc.health.v1.Health/Check";
    if (/Revoke|Watch/.test(path) && random.chance(0.5)) continue;
    const expect: Record<string, string> = random.chance(0.2) ? { expect: "100-continue" } : {};
    frames.push(
      frame(
        FRAME.HEADERS,
        FLAG.END_HEADERS,
        stream,
        callHead(path, random.pick([party.keys.all, party.keys.read, CANARY]), expect),
      ),
      frame(FRAME.DATA, FLAG.END_STREAM, stream, envelope(random.bytes(random.int(0, 30)))),
    );
    if (random.chance(0.3)) frames.push(frame(FRAME.RST_STREAM, 0, stream, CANCEL));
    if (random.chance(0.2)) frames.push(frame(FRAME.PING, 0, 0, random.bytes(8)));
    if (random.chance(0.2))
      frames.push(frame(FRAME.WINDOW_UPDATE, 0, random.pick([0, stream]), uint32(random.int(1, 1000))));
    if (random.chance(0.1)) frames.push(frame(FRAME.PRIORITY, 0, stream, Buffer.concat([uint32(0), Buffer.from([9])])));
  }
  return frames;
}

function broken(bytes: Buffer, random: Random): Buffer {
  const made = Buffer.from(bytes);
  // One that was cut short before.
  if (made.length < 9) return made;
  switch (random.int(0, 6)) {
    case 0:
      made.writeUIntBE(random.pick([0, 1, made.length, 16_384, 16_385, 2 ** 24 - 1]), 0, 3);
      break;
    case 1:
      made[3] = random.pick([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255]);
      break;
    case 2:
      made[4] = random.int(0, 255);
      break;
    case 3:
      made.writeUInt32BE(random.pick([0, 1, 2, 3, 5, 2 ** 31 - 1, 2 ** 31 + 1, 2 ** 32 - 1]) >>> 0, 5);
      break;
    case 4: {
      // Padding that is longer than the frame.
      const padded = Buffer.concat([made.subarray(0, 9), Buffer.from([random.pick([0, 1, 255])]), made.subarray(9)]);
      padded.writeUIntBE(padded.length - 9, 0, 3);
      padded[4] = (padded[4] ?? 0) | FLAG.PADDED;
      return padded;
    }
    case 5:
      if (made.length > 9) made[random.int(9, made.length - 1)] = random.int(0, 255);
      break;
    default:
      return made.subarray(0, random.int(0, made.length));
  }
  return made;
}

export const frameAttackers: Attacker[] = [
  {
    name: "frames",
    perSecond: 120,
    atOnce: 12,
    async attack(one) {
      const { random } = one;
      using connection = await open(one.port);
      const frames = session(one);
      for (let i = random.int(1, 3); i > 0; i--) {
        const at = random.int(0, frames.length - 1);
        const known = frames[at] as Buffer;
        switch (random.int(0, 3)) {
          case 0:
            frames.splice(at, 0, known);
            break;
          case 1:
            frames.splice(at, 1);
            break;
          default:
            frames[at] = broken(known, random);
        }
      }
      one.sent(frames.length);
      const bytes = Buffer.concat([random.chance(0.95) ? PREFACE : PREFACE.subarray(0, random.int(0, 23)), ...frames]);
      if (random.chance(0.7)) await connection.send(bytes);
      else for (let at = 0; at < bytes.length; ) await connection.send(bytes.subarray(at, (at += random.int(1, 200))));
      if (random.chance(0.3)) connection.socket.end();
      await connection.closed(random.int(5, 120));
      one.ended(connection.isClosed() ? "closed" : "open");
    },
  },
  {
    name: "reset-at-once",
    perSecond: 60,
    atOnce: 6,
    async attack(one) {
      // HEADERS and RST_STREAM in one packet, of every kind of call, also where the caller wants to be told to go on.
      const { random, party } = one;
      using connection = await open(one.port);
      const parts = [PREFACE, settings()];
      const streams = random.int(1, 12);
      for (let i = 0; i < streams; i++) {
        const id = 1 + 2 * i;
        const path = random.pick(["/", "/metrics", "/grpc.health.v1.Health/Watch", random.pick(RPCS).path]);
        const more: Record<string, string> = random.chance(0.6)
          ? { expect: random.pick(["100-continue", "100-Continue", "x"]) }
          : {};
        const block = random.chance(0.7)
          ? callHead(path, random.chance(0.7) ? party.keys.all : CANARY, {
              ...more,
              "content-type": random.pick(["application/grpc", "application/json", "application/grpc-web", "x"]),
            })
          : headerBlock({
              ":method": random.pick(["GET", "CONNECT", "OPTIONS", "POST"]),
              ":scheme": "http",
              ":path": path,
              ":authority": "a",
              ...more,
            });
        parts.push(frame(FRAME.HEADERS, FLAG.END_HEADERS | (random.chance(0.3) ? FLAG.END_STREAM : 0), id, block));
        if (random.chance(0.4)) parts.push(frame(FRAME.DATA, 0, id, envelope(random.bytes(5))));
        parts.push(frame(FRAME.RST_STREAM, 0, id, uint32(random.pick([0, 1, 2, 5, 7, 8, 11, 99]))));
      }
      one.sent(streams);
      await connection.send(Buffer.concat(parts));
      if (random.chance(0.5)) connection.socket.resetAndDestroy();
      else await connection.closed(random.int(5, 60));
      one.ended("sent");
    },
  },
  {
    name: "bytes",
    perSecond: 60,
    atOnce: 8,
    async attack(one) {
      // Not HTTP: noise, halves of a preface, greetings of TLS and of other protocols, wrong HTTP/1.1.
      const { random, party } = one;
      using connection = await open(one.port);
      const path = random.pick(RPCS).path;
      const key = random.pick([party.keys.all, CANARY]);
      const h1 = (headers: string, body = "") =>
        Buffer.from(
          `POST ${path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${key}\r\n${headers}\r\n${body}`,
          "latin1",
        );
      const bytes = random.pick([
        () => random.bytes(random.int(1, 2_000)),
        () => PREFACE.subarray(0, random.int(1, 23)),
        () => Buffer.concat([PREFACE, random.bytes(random.int(1, 500))]),
        () => Buffer.concat([PREFACE, PREFACE]),
        () => Buffer.concat([Buffer.from("16030102000100", "hex"), random.bytes(400)]),
        () => Buffer.from("GET / HTTP/0.9\r\n\r\n"),
        () => Buffer.from("SSH-2.0-x\r\n"),
        () => h1("Content-Type: application/json\r\nContent-Length: 2\r\nContent-Length: 3\r\n", "{}"),
        () =>
          h1(
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            "2\r\n{}\r\n0\r\n\r\n",
          ),
        () => h1("Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n", "ffffffffffffffff\r\n{}"),
        () =>
          h1(
            "Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 2\r\n",
            random.chance(0.5) ? "{}" : "",
          ),
        () => h1("Expect: 200-ok\r\nContent-Length: 2\r\n", "{}"),
        () => h1("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
        () => h1("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n"),
        () => h1(`X: ${"a".repeat(random.pick([100, 17_000, 100_000]))}\r\n`),
        () => h1(`${"A: b\r\n".repeat(random.pick([10, 1_990, 2_100]))}`),
        () =>
          Buffer.from(
            `${random.pick(["CONNECT", "TRACE", "DELETE", "PRI", "GET", "\u0000"])} ${random.pick(["*", "/", "//", "http://x/", "/%00", "/..;/"])} HTTP/1.1\r\nHost: a\r\n\r\n`,
          ),
        () =>
          Buffer.concat([
            PREFACE,
            settings(),
            frame(
              FRAME.HEADERS,
              5,
              1,
              Buffer.concat([literal(":method", "POST"), literal("a".repeat(random.pick([1, 9_000])), CANARY)]),
            ),
          ]),
      ])();
      one.sent(1);
      await connection.send(bytes);
      if (random.chance(0.3)) connection.socket.end();
      await connection.closed(random.int(5, 100));
      const [, status] = /^HTTP\/1\.1 (\d+)/.exec(connection.head().toString("latin1")) ?? [];
      if (status !== undefined && Number(status) >= 500 && !["501", "503", "505"].includes(status))
        one.failed(`HTTP ${status}`, bytes.toString("latin1").slice(0, 300));
      one.ended(status === undefined ? (connection.isClosed() ? "closed" : "open") : `http ${status}`);
      await sleep(0);
    },
  },
];
