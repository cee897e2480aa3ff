// What one turn of the event loop reads, by a clock of the tests and by real connections.
import { execFileSync } from "node:child_process";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import {
  createServer as createHttp2Server,
  createSecureServer,
  connect as openSession,
  type ServerHttp2Session,
} from "node:http2";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { setImmediate as nextTurn } from "node:timers/promises";
import { connect as connectTls } from "node:tls";
import { describe, expect, test, vi } from "vitest";
import { createIntake } from "../src/transport/intake.ts";
import { callHead, FLAG, FRAME, frame, PREFACE, settings } from "./frames.ts";
import { KEY, startServer } from "./transport-harness.ts";

/** Connections, whether each is read, and a clock. */
function given(count: number) {
  const clock = { ms: 0 };
  const intake = createIntake(20, () => clock.ms);
  const open = () => {
    const connection = {
      isRead: true,
      reading: true,
      writeQueueSize: 0,
      readStart: () => Number((connection.isRead = true)),
      readStop: () => Number((connection.isRead = false)),
      close: () => {},
    };
    const once = (_: string, listener: () => void) => (connection.close = listener);
    intake.track(connection, { _handle: connection, once } as never);
    return connection;
  };
  const connections = Array.from({ length: count }, open);
  const [first] = connections as [(typeof connections)[0]];
  return { clock, intake, open, connections, first, read: () => connections.map(({ isRead }) => isRead) };
}

describe("connections that end", () => {
  const ending = (calls: number) => {
    const { intake, read } = given(3);
    const told = vi.fn();
    const handle = { readStart: () => 0, readStop: () => 0, onread: told };
    intake.track(handle, { _handle: handle, once: () => {} } as never, () => calls);
    return { read, told, end: () => (handle.onread as (bytes?: ArrayBuffer) => void)(undefined) };
  };

  test("with few calls stop nothing; Node learns of the end", async () => {
    const { told, read, end } = ending(99);
    end();
    expect(read()).toEqual([true, true, true]);
    expect(told).toHaveBeenCalledWith(undefined);
  });

  test("with many calls end the reading of the others until the next turns", async () => {
    const { read, end } = ending(50);
    end();
    expect(read()).toEqual([true, true, true]);
    end();
    expect(read()).toEqual([false, false, false]);
    for (let next = 0; next < 3; next++) await nextTurn();
    expect(read()).toEqual([true, true, true]);
    end();
    expect(read()).toEqual([true, true, true]);
  });
});

/** Calls that a connection carries when it ends. */
const CALLS = 3;
const overTls = () => {
  const folder = mkdtempSync(join(tmpdir(), "entity-intake-"));
  execFileSync(
    "openssl",
    [
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"],
      ...["-subj", "/CN=localhost", "-keyout", join(folder, "key.pem"), "-out", join(folder, "cert.pem")],
    ],
    { stdio: "ignore" },
  );
  const [key, cert] = ["key.pem", "cert.pem"].map((name) => readFileSync(join(folder, name)));
  rmSync(folder, { recursive: true });
  return createSecureServer({ key, cert });
};

describe.each([
  { over: "TCP", scheme: "http", open: createHttp2Server, carry: (socket: Socket): Duplex => socket },
  {
    ...{ over: "TLS", scheme: "https", open: overTls },
    carry: (socket: Socket) => connectTls({ socket, rejectUnauthorized: false, ALPNProtocols: ["h2"] }),
  },
])("the end of a connection over $over", ({ scheme, open, carry }) => {
  test.each([
    ["that says goodbye", (socket: Socket) => socket.destroySoon()],
    ["that breaks", (socket: Socket) => socket.resetAndDestroy()],
  ])("%s is told of once, before its calls end", async (_, leave) => {
    const seen: string[] = [];
    const server = open();
    const intake = createIntake(1_000);
    server.on("session", (session: ServerHttp2Session) => {
      session.on("error", () => {});
      // As the listener does.
      intake.track(session, session.socket, () => seen.push("the end is told of"));
    });
    let begun = 0;
    server.on("stream", (stream) => {
      begun++;
      stream.on("error", () => {});
      stream.on("close", () => seen.push("a call ends"));
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as { port: number };
    const socket = connect(port, "127.0.0.1");
    const session = openSession(`${scheme}://127.0.0.1:${port}`, { createConnection: () => carry(socket) });
    session.on("error", () => {});
    for (let i = 0; i < CALLS; i++) session.request({ ":method": "POST", ":path": "/" }).on("error", () => {});
    await vi.waitFor(() => expect(begun).toBe(CALLS), 5_000);
    expect(seen).toEqual([]);
    leave(socket);
    await vi.waitFor(() => expect(seen.filter((what) => what === "a call ends")).toHaveLength(CALLS), 5_000);
    expect(seen).toEqual(["the end is told of", ...Array(CALLS).fill("a call ends")]);
    server.close();
  });
});

describe("requests that come", () => {
  test("within the time of a turn stop nothing", async () => {
    const { clock, intake, first, read } = given(3);
    for (let turn = 0; turn < 5; turn++) {
      intake.came(first);
      clock.ms += 19;
      intake.came(first);
      await nextTurn();
    }
    expect(read()).toEqual([true, true, true]);
  });

  test("beyond it end the reading of every connection until the next turns", async () => {
    const { clock, intake, first, read } = given(3);
    for (let turn = 0; turn < 2; turn++) {
      intake.came(first);
      clock.ms += 20;
      expect(read()).toEqual([true, true, true]);
      intake.came(first);
      expect(read()).toEqual([false, false, false]);
      for (let next = 0; next < 3; next++) await nextTurn();
      expect(read()).toEqual([true, true, true]);
    }
  });

  test("do not begin to read what Node itself has stopped, nor a connection that is closed", async () => {
    const { clock, intake, connections, first, read } = given(3);
    intake.came(first);
    clock.ms += 20;
    intake.came(first);
    first.reading = false;
    connections[1]?.close();
    for (let next = 0; next < 8; next++) await nextTurn();
    expect(read()).toEqual([false, false, true]);
  });

  test("do not have a connection read whose bytes are not taken, until they are", async () => {
    const { clock, intake, connections, first, read } = given(3);
    const [, second] = connections as [unknown, (typeof connections)[0]];
    second.writeQueueSize = 1;
    intake.came(first);
    clock.ms += 20;
    intake.came(first);
    for (let turn = 0; turn < 20; turn++) {
      await nextTurn();
      intake.came(first);
    }
    expect(read()).toEqual([true, false, true]);
    second.writeQueueSize = 0;
    await vi.waitFor(() => expect(read()).toEqual([true, true, true]));
  });

  /** Turns in which those that flood have 100 requests of 1 ms each, as the system tells of them, and the first has one at the end. */
  async function flood({ clock, intake, connections, first }: ReturnType<typeof given>, turns: number) {
    const floods = connections.slice(1);
    const counts = new Map(floods.map((connection) => [connection, 0]));
    let firstRead = 0;
    for (let turn = 0; turn < turns; turn++) {
      for (const connection of floods) {
        if (!connection.isRead) continue;
        counts.set(connection, (counts.get(connection) ?? 0) + 1);
        for (let i = 0; i < 100; i++, clock.ms += 1) intake.came(connection);
      }
      if (first.isRead) {
        firstRead += 1;
        intake.came(first);
      }
      await nextTurn();
    }
    return { firstRead, counts: [...counts.values()] };
  }

  test("few on one connection are read in every other turn, whatever floods the others", async () => {
    const all = given(200);
    all.intake.came(all.first);
    await nextTurn();
    const { firstRead, counts } = await flood(all, 400);
    expect(firstRead).toBeGreaterThanOrEqual(190);
    // The floods have the turns between, and none of them waits without end.
    expect(counts.reduce((sum, count) => sum + count)).toBeGreaterThanOrEqual(190);
  });

  test("the first of a newcomer does not wait for all that was opened before", async () => {
    const all = given(200);
    // As many as it takes until all wait.
    await flood({ ...all, first: { ...all.first, isRead: false } }, 2);
    const newcomer = all.open();
    let turns = 0;
    for (; !newcomer.isRead || turns === 0; turns++) await flood({ ...all, first: { ...all.first, isRead: false } }, 1);
    expect(turns).toBeLessThan(10);
  });

  test("on very many connections that never end: none waits without end, though the system tells of the same ones first", async () => {
    const { clock, intake, connections } = given(200);
    const counts = new Map(connections.map((connection) => [connection, 0]));
    for (let turn = 0; turn < 5_000; turn++) {
      // As the system tells of them: always in the same order.
      for (const connection of connections) {
        if (!connection.isRead) continue;
        counts.set(connection, (counts.get(connection) ?? 0) + 1);
        intake.came(connection);
        clock.ms += 3;
      }
      await nextTurn();
    }
    expect(Math.min(...counts.values())).toBeGreaterThanOrEqual(5);
  });
});

test("what has arrived on real connections comes in the next turns, and all of it", async () => {
  const intake = createIntake(0);
  const perTurn: number[] = [0];
  let received = 0;
  const server = createServer((socket) => {
    intake.track(socket, socket);
    socket.on("data", (bytes) => {
      received += bytes.length;
      perTurn[perTurn.length - 1] = (perTurn.at(-1) ?? 0) + 1;
      intake.came(socket);
    });
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  const sockets = Array.from({ length: 20 }, () => connect(port, "127.0.0.1"));
  await Promise.all(sockets.map((socket) => once(socket, "connect")));
  await nextTurn();
  for (const socket of sockets) socket.write("x".repeat(100));
  for (let turn = 0; turn < 1_000 && received < 2_000; turn++) {
    await nextTurn();
    perTurn.push(0);
  }
  expect(received).toBe(2_000);
  expect(Math.max(...perTurn)).toBe(1);
  for (const socket of sockets) socket.destroy();
  server.close();
});

const GET = "/entity.v1.EntityService/GetEntity";
const HTTP1 = [`POST ${GET} HTTP/1.1`, "Host: a", `Authorization: Bearer ${KEY}`, "Content-Type: application/json"];
const HTTP1_REQUEST = [...HTTP1, "Content-Length: 2", "", "{}"].join("\r\n");
const stream = (i: number) => frame(FRAME.HEADERS, FLAG.END_HEADERS | FLAG.END_STREAM, 1 + 2 * i, callHead(GET, KEY));

describe.each([
  {
    protocol: "HTTP/2",
    channel: "http2.server.stream.created",
    first: Buffer.concat([PREFACE, settings(), stream(0)]),
    flood: Buffer.concat(Array.from({ length: 60 }, (_, i) => stream(i + 1))),
    each: 61,
    connections: 60,
  },
  {
    protocol: "HTTP/1.1",
    channel: "http.server.request.start",
    first: HTTP1_REQUEST,
    flood: HTTP1_REQUEST.repeat(30),
    each: 31,
    connections: 150,
  },
])("a flood over many connections, $protocol", ({ channel, first, flood, each, connections }) => {
  test("makes requests over many turns, and every one; afterwards all are read as before", async () => {
    await using server = await startServer();
    const perTurn = [0];
    const count = () => void (perTurn[0] = (perTurn[0] ?? 0) + 1);
    subscribe(channel, count);
    const total = () => perTurn.reduce((sum, one) => sum + one, 0);
    const until = async (requests: number) => {
      const endsAt = performance.now() + 25_000;
      for (; total() < requests && performance.now() < endsAt; perTurn.unshift(0)) await nextTurn();
      expect(total()).toBe(requests);
    };
    const { port } = new URL(server.url);
    const sockets = Array.from({ length: connections }, () =>
      connect(Number(port), "127.0.0.1")
        .on("error", () => {})
        .resume(),
    );
    try {
      await Promise.all(sockets.map((socket) => once(socket, "connect")));
      for (const socket of sockets) socket.write(first);
      await until(sockets.length);
      // In one moment: the service finds all of them readable in one turn.
      for (const socket of sockets) socket.write(flood);
      await until(sockets.length * each);
      expect(Math.max(...perTurn)).toBeLessThan((sockets.length * each) / 2);
    } finally {
      unsubscribe(channel, count);
      for (const socket of sockets) socket.destroy();
    }
  });
});
