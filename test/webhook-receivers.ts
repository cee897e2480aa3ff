// Receivers of webhooks for tests: sockets that answer anything, HTTP, and a name server.
import { createSocket } from "node:dgram";
import { Resolver } from "node:dns/promises";
import { once } from "node:events";
import { createServer as createHttpServer, type RequestListener } from "node:http";
import { type AddressInfo, createServer, isIPv4, type Server, type Socket } from "node:net";

export interface Receiver extends AsyncDisposable {
  port: number;
  /** The number of connections so far. */
  connections(): number;
}

async function listening(server: Server, host: string, port: number): Promise<Receiver> {
  const sockets = new Set<Socket>();
  let connections = 0;
  server.on("connection", (socket) => {
    connections++;
    sockets.add(socket.on("error", () => {}).on("close", () => sockets.delete(socket)));
  });
  server.listen(port, host);
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    connections: () => connections,
    async [Symbol.asyncDispose]() {
      const closed = once(server, "close");
      server.close();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

/** A server whose `talk` answers whatever arrives, on the connection itself. */
export const socketReceiver = (talk: (socket: Socket) => void, { host = "127.0.0.1", port = 0 } = {}) =>
  listening(createServer(talk), host, port);

export const httpReceiver = (answer: RequestListener) => listening(createHttpServer(answer), "127.0.0.1", 0);

/** Answers a request once its head and body have arrived, which here ends with the bytes `end`. */
export function onRequest(socket: Socket, end: string, answer: () => void): void {
  let text = "";
  socket.on("data", (chunk) => {
    text += chunk.toString("latin1");
    if (!text.endsWith(end)) return;
    text = "";
    answer();
  });
}

/** Listens on both loopback addresses, on one port; no connection may reach it. Without IPv6 it listens on one. */
export async function canary(): Promise<Receiver> {
  const ipv4 = await socketReceiver(() => {});
  const ipv6 = await socketReceiver(() => {}, { host: "::1", port: ipv4.port }).catch(() => undefined);
  return {
    port: ipv4.port,
    connections: () => ipv4.connections() + (ipv6?.connections() ?? 0),
    async [Symbol.asyncDispose]() {
      await ipv4[Symbol.asyncDispose]();
      await ipv6?.[Symbol.asyncDispose]();
    },
  };
}

/** A name server over UDP on loopback. `addresses` gives the current addresses of a name; every answer has a TTL of 0. */
export async function nameServer(
  addresses: (name: string) => string[],
): Promise<AsyncDisposable & { resolver: Resolver }> {
  const socket = createSocket("udp4");
  socket.on("message", (query, client) => socket.send(answerTo(query, addresses), client.port, client.address));
  socket.bind(0, "127.0.0.1");
  await once(socket, "listening");
  const resolver = new Resolver({ timeout: 1_000, tries: 2 });
  resolver.setServers([`127.0.0.1:${socket.address().port}`]);
  return {
    resolver,
    async [Symbol.asyncDispose]() {
      const closed = once(socket, "close");
      socket.close();
      await closed;
    },
  };
}

const TYPE = { A: 1, AAAA: 28 };

/** RFC 1035, section 4: the header, the question again, and a record for every address of the type asked for. */
function answerTo(query: Buffer, addresses: (name: string) => string[]): Buffer {
  const labels: string[] = [];
  let at = 12;
  for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
    labels.push(query.toString("latin1", at + 1, at + 1 + length));
    at += 1 + length;
  }
  const type = query.readUInt16BE(at + 1);
  const records = addresses(labels.join(".").toLowerCase())
    .filter((address) => type === (isIPv4(address) ? TYPE.A : TYPE.AAAA))
    .map((address) => {
      const data = isIPv4(address) ? Buffer.from(address.split(".").map(Number)) : ipv6Bytes(address);
      // A pointer to the question's name, type, class, the TTL, and the data with its length.
      return Buffer.concat([Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 0, 0, data.length]), data]);
    });
  const header = Buffer.from([0, 0, 0x81, 0x80, 0, 1, 0, records.length, 0, 0, 0, 0]);
  query.copy(header, 0, 0, 2);
  return Buffer.concat([header, query.subarray(12, at + 5), ...records]);
}

function ipv6Bytes(address: string): Buffer {
  // The URL parser writes an IPv4 tail as groups.
  const [head = "", tail] = new URL(`http://[${address}]`).hostname.slice(1, -1).split("::");
  const groups = (text: string | undefined) => (text ? text.split(":") : []);
  const [before, behind] = [groups(head), groups(tail)];
  const all = [...before, ...Array(8 - before.length - behind.length).fill("0"), ...behind];
  return Buffer.from(all.map((group) => String(group).padStart(4, "0")).join(""), "hex");
}
