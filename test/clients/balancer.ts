// One address for several processes, as a load balancer of connections gives: each connection goes to the next process that
// takes it.
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

export interface Balancer {
  /** host:port */
  address: string;
}

export async function startBalancer(ports: readonly number[]): Promise<Balancer> {
  let turn = 0;
  const server = createServer({ noDelay: true, allowHalfOpen: true }, async (client) => {
    client.on("error", () => {});
    for (let tries = 0; tries < ports.length; tries++) {
      const backend = await connected(ports[turn++ % ports.length] as number);
      if (backend === undefined) continue;
      backend.on("error", () => client.destroy());
      client.on("error", () => backend.destroy());
      client.pipe(backend).pipe(client);
      return;
    }
    client.destroy();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  server.unref();
  return { address: `127.0.0.1:${(server.address() as AddressInfo).port}` };
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
