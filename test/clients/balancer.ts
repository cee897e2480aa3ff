// One address for several processes, as a load balancer of connections gives: each connection goes to the next process that
// takes it.
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

export interface Balancer {
  /** host:port */
  address: string;
  /** Ends every connection, in the middle of whatever it carries. */
  cut(): void;
}

export async function startBalancer(ports: readonly number[]): Promise<Balancer> {
  let turn = 0;
  const clients = new Set<Socket>();
  const server = createServer({ noDelay: true, allowHalfOpen: true }, async (client) => {
    client.on("error", () => {});
    clients.add(client.once("close", () => clients.delete(client)));
    for (let tries = 0; tries < ports.length; tries++) {
      const backend = await connected(ports[turn++ % ports.length] as number);
      if (backend === undefined) continue;
      backend.on("error", () => client.destroy());
      client.on("close", () => backend.destroy());
      client.pipe(backend).pipe(client);
      return;
    }
    client.destroy();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  server.unref();
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    cut() {
      for (const client of clients) client.destroy();
    },
  };
}

async function connected(port: number): Promise<Socket | undefined> {
  const socket = connect({ port, host: "127.0.0.1", noDelay: true, allowHalfOpen: true });
  try {
    await once(socket, "connect");
    return socket;
  } catch {
    return undefined;
  }
}
