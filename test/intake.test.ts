// What one turn of the event loop reads, by a clock of the tests and by real connections.
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { setImmediate as nextTurn } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { createIntake } from "../src/transport/intake.ts";

/** Connections, whether each is read, and a clock. */
function given(count: number) {
  const clock = { ms: 0 };
  const intake = createIntake(20, () => clock.ms);
  const handles = Array.from({ length: count }, () => {
    const handle = {
      isRead: true,
      reading: true,
      readStart: () => Number((handle.isRead = true)),
      readStop: () => Number((handle.isRead = false)),
    };
    return handle;
  });
  const ends = handles.map((handle) => {
    let end = () => {};
    const socket = { _handle: handle, once: (_: string, listener: () => void) => (end = listener) };
    intake.track(socket as never);
    return () => end();
  });
  return { clock, intake, handles, ends, read: () => handles.map(({ isRead }) => isRead) };
}

describe("requests that come", () => {
  test("within the time of a turn stop nothing", async () => {
    const { clock, intake, read } = given(3);
    for (let turn = 0; turn < 5; turn++) {
      intake.came();
      clock.ms += 19;
      intake.came();
      await nextTurn();
    }
    expect(read()).toEqual([true, true, true]);
  });

  test("beyond it end the reading of every connection until the next turn", async () => {
    const { clock, intake, read } = given(3);
    for (let turn = 0; turn < 2; turn++) {
      intake.came();
      clock.ms += 20;
      expect(read()).toEqual([true, true, true]);
      intake.came();
      expect(read()).toEqual([false, false, false]);
      await nextTurn();
      expect(read()).toEqual([true, true, true]);
    }
  });

  test("do not begin to read what Node itself has stopped, nor a connection that is closed", async () => {
    const { clock, intake, handles, ends, read } = given(3);
    intake.came();
    clock.ms += 20;
    intake.came();
    (handles[0] as { reading: boolean }).reading = false;
    ends[1]?.();
    await nextTurn();
    expect(read()).toEqual([false, false, true]);
  });
});

test("what has arrived on real connections comes in the next turns, and all of it", async () => {
  const intake = createIntake(0);
  const perTurn: number[] = [0];
  let received = 0;
  const server = createServer((socket) => {
    intake.track(socket);
    socket.on("data", (bytes) => {
      received += bytes.length;
      perTurn[perTurn.length - 1] = (perTurn.at(-1) ?? 0) + 1;
      // The budget is used up by the second.
      intake.came();
      intake.came();
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
