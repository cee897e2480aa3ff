// Between the service and PostgreSQL: a proxy that sees COMMITs, and can lose them, or the answers to them. It understands
// as much of the protocol as that takes: simple queries, and named or unnamed statements that are bound and executed.
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

const SSL_REQUEST = 80877103;
/** For the answers to what was sent before. */
const ANSWERED_MS = 200;
const COMMIT = /^\s*commit\b/i;

/** How the network is: as it should be, silent, or closed. */
type Mode = "pass" | "silent" | "refuse";

export interface DatabaseProxy extends AsyncDisposable {
  port: number;
  /** Where connections go from now on. */
  target: number;
  delayMs: number;
  set(mode: Mode): void;
  /** The next N COMMITs never reach the server: their connections end before. */
  loseCommits(count: number): void;
  /** The server executes the next N COMMITs, and their connections end before the answer arrives. */
  loseAnswers(count: number): void;
  /** Ends every connection. */
  cut(): void;
  lost: { commits: number; answers: number };
}

interface Pair {
  client: Socket;
  server: Socket;
}

export async function startProxy(target: number): Promise<DatabaseProxy> {
  const pairs = new Set<Pair>();
  let mode: Mode = "pass";
  let [commitsToLose, answersToLose] = [0, 0];
  const lost = { commits: 0, answers: 0 };

  const listener = createServer({ noDelay: true }, (client) => {
    client.on("error", () => {});
    if (mode === "refuse") return void client.destroy();
    const server = connect({ port: proxy.target, host: "127.0.0.1", noDelay: true });
    const pair = { client, server };
    pairs.add(pair);
    const end = () => {
      client.destroy();
      server.destroy();
      pairs.delete(pair);
    };
    for (const socket of [client, server]) socket.on("error", end).on("close", end);

    /** Statements by name, and portals that are bound to a COMMIT. */
    const statements = new Map<string, boolean>();
    const portals = new Set<string>();
    let isStarted = false;

    const isCommit = (type: string, body: Buffer): boolean => {
      const text = (from: number) => body.toString("utf8", from, body.indexOf(0, from));
      if (type === "Q") return COMMIT.test(text(0));
      if (type === "P") {
        const name = text(0);
        statements.set(name, COMMIT.test(text(Buffer.byteLength(name) + 1)));
      }
      if (type === "B") {
        const portal = text(0);
        if (statements.get(text(Buffer.byteLength(portal) + 1))) portals.add(portal);
        else portals.delete(portal);
      }
      return type === "E" && portals.has(text(0));
    };

    /** What comes from the service; undefined: up to here, and then the connection ends. */
    const fromClient = messages((type, message) => {
      if (!isCommit(type, message.subarray(5))) return true;
      if (commitsToLose === 0) return true;
      commitsToLose -= 1;
      lost.commits += 1;
      return false;
    });
    const fromServer = messages((type, message) => {
      if (type !== "C" || answersToLose === 0 || message.toString("latin1", 5, 12) !== "COMMIT\0") return true;
      answersToLose -= 1;
      lost.answers += 1;
      return false;
    });

    const toServer = sendLater(server, () => proxy.delayMs);
    const toClient = sendLater(client, () => proxy.delayMs);
    /** Earlier messages are forwarded, and answered, before both ends are closed. */
    const passing = (accept: (chunk: Buffer) => { bytes: Buffer; isOver: boolean }, send: Send) => {
      let isOver = false;
      return (chunk: Buffer) => {
        if (isOver) return;
        const accepted = accept(chunk);
        ({ isOver } = accepted);
        if (isOver) send(accepted.bytes, () => setTimeout(end, ANSWERED_MS));
        else if (accepted.bytes.length > 0) send(accepted.bytes);
      };
    };
    const passToServer = passing(fromClient, toServer);
    const passToClient = passing(fromServer, toClient);
    let startup = Buffer.alloc(0);
    client.on("data", (chunk: Buffer) => {
      if (isStarted) return passToServer(chunk);
      startup = Buffer.concat([startup, chunk]);
      while (!isStarted && startup.length >= 8 && startup.length >= startup.readInt32BE(0)) {
        const message = startup.subarray(0, startup.readInt32BE(0));
        startup = startup.subarray(message.length);
        if (message.readInt32BE(4) === SSL_REQUEST) client.write("N");
        else {
          isStarted = true;
          toServer(message);
          passToServer(startup);
        }
      }
    });
    server.on("data", (chunk: Buffer) => passToClient(chunk));
    if (mode === "silent") for (const socket of [client, server]) socket.pause();
  });
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");

  const proxy: DatabaseProxy = {
    port: (listener.address() as AddressInfo).port,
    target,
    delayMs: 0,
    lost,
    set(next) {
      mode = next;
      if (next === "refuse") proxy.cut();
      for (const { client, server } of pairs) {
        for (const socket of [client, server]) {
          if (next === "silent") socket.pause();
          else socket.resume();
        }
      }
    },
    loseCommits: (count) => void (commitsToLose = count),
    loseAnswers: (count) => void (answersToLose = count),
    cut() {
      for (const { client, server } of pairs) {
        client.destroy();
        server.destroy();
      }
      pairs.clear();
    },
    async [Symbol.asyncDispose]() {
      proxy.cut();
      listener.close();
      await once(listener, "close");
    },
  };
  return proxy;
}

/** Cuts a stream into whole messages; those for which `accepts` says no are the end of it. */
function messages(accepts: (type: string, message: Buffer) => boolean) {
  let rest: Buffer = Buffer.alloc(0);
  return (chunk: Buffer): { bytes: Buffer; isOver: boolean } => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let at = 0;
    while (rest.length - at >= 5) {
      const length = 1 + rest.readInt32BE(at + 1);
      if (rest.length - at < length) break;
      const message = rest.subarray(at, at + length);
      if (!accepts(String.fromCharCode(message[0] as number), message)) {
        return { bytes: rest.subarray(0, at), isOver: true };
      }
      at += length;
    }
    const bytes = rest.subarray(0, at);
    rest = rest.subarray(at);
    return { bytes, isOver: false };
  };
}

type Send = (bytes: Buffer, then?: () => void) => void;

/** Writes in order, each after the delay of its time. */
function sendLater(socket: Socket, delayMs: () => number): Send {
  let lastAt = 0;
  let waiting = 0;
  const write = (bytes: Buffer, then?: () => void) => {
    if (!socket.destroyed && bytes.length > 0) socket.write(bytes, () => then?.());
    else then?.();
  };
  return (bytes: Buffer, then?: () => void) => {
    lastAt = Math.max(performance.now() + delayMs(), lastAt);
    const wait = lastAt - performance.now();
    if (wait <= 0 && waiting === 0) return write(bytes, then);
    waiting += 1;
    setTimeout(() => {
      waiting -= 1;
      write(bytes, then);
    }, wait);
  };
}
