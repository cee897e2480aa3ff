// Lends a nats-server with JetStream on a free loopback port; it may be killed and started again.
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { jetstream, jetstreamManager, type StreamConfig } from "@nats-io/jetstream";
import { connect, type NatsConnection } from "@nats-io/transport-node";
import { freePort } from "../scripts/service-process.ts";

const ENV = { ...process.env, PATH: `${process.env.PATH}:/usr/local/sbin:/usr/sbin:/sbin` };

/** Why there is no nats-server here, or undefined. */
export function natsServerMissing(): string | undefined {
  try {
    execFileSync("nats-server", ["--version"], { env: ENV });
    return undefined;
  } catch {
    return "there is no nats-server: apt-get install -y --no-install-recommends nats-server";
  }
}

/** What a message of the stream was. */
export interface Stored {
  seq: number;
  subject: string;
  msgId: string;
  body: Record<string, unknown>;
}

export interface NatsServer extends AsyncDisposable {
  port: number;
  url: string;
  /** Starts it if it is not running, on the same port and folder. */
  start(): Promise<void>;
  /** Sends SIGKILL and waits for the end. */
  kill(): Promise<void>;
  /** Stops the process (SIGSTOP) with its connections open, and lets it continue. */
  pause(): void;
  resume(): void;
  /** A connection for the test. */
  connect(): Promise<NatsConnection & AsyncDisposable>;
  makeStream(config: Partial<StreamConfig> & { name: string }): Promise<void>;
  /** Every message of a stream, in order; none if there is no stream. */
  messages(stream?: string): Promise<Stored[]>;
}

const CREDENTIALS = { user: "publisher", pass: "s3cret-of-nats" };

export async function startNatsServer({ credentials = false } = {}): Promise<NatsServer> {
  const missing = natsServerMissing();
  if (missing !== undefined) throw new Error(missing);
  const folder = await mkdtemp(join(tmpdir(), "entity-service-nats-"));
  let child: ChildProcess | undefined;
  // It is killed and started again: no port that another may be given meanwhile.
  const port = await freePort();

  const server: NatsServer = {
    port,
    get url() {
      return credentials
        ? `nats://${CREDENTIALS.user}:${CREDENTIALS.pass}@127.0.0.1:${port}`
        : `nats://127.0.0.1:${port}`;
    },
    async start() {
      if (child !== undefined) return;
      const args = ["-a", "127.0.0.1", "-p", String(port), "-js", "-sd", join(folder, "data")];
      if (credentials) args.push("--user", CREDENTIALS.user, "--pass", CREDENTIALS.pass);
      const started = spawn("nats-server", args, { env: ENV, stdio: ["ignore", "ignore", "pipe"] });
      child = started;
      let log = "";
      started.stderr?.setEncoding("utf8").on("data", (text: string) => {
        log += text;
      });
      for (let i = 0; !log.includes("Server is ready"); i++) {
        if (i === 500 || started.exitCode !== null) throw new Error(`nats-server did not start: ${log}`);
        await sleep(10);
      }
    },
    async kill() {
      const running = child;
      if (running === undefined) return;
      child = undefined;
      const ended = once(running, "exit");
      running.kill("SIGKILL");
      await ended;
    },
    pause: () => void child?.kill("SIGSTOP"),
    resume: () => void child?.kill("SIGCONT"),
    async connect() {
      const connection = await connect({ servers: `127.0.0.1:${port}`, ...(credentials ? CREDENTIALS : {}) });
      return Object.assign(connection, { [Symbol.asyncDispose]: () => connection.close() });
    },
    async makeStream(config) {
      await using connection = await server.connect();
      await (await jetstreamManager(connection)).streams.add({ ...config });
    },
    async messages(stream = "ENTITY_EVENTS") {
      await using connection = await server.connect();
      const manager = await jetstreamManager(connection);
      const info = await manager.streams.info(stream).catch(() => undefined);
      const found: Stored[] = [];
      if (info === undefined || info.state.messages === 0) return found;
      const consumer = await jetstream(connection).consumers.get(stream);
      const messages = await consumer.fetch({ max_messages: info.state.messages, expires: 10_000 });
      for await (const { seq, subject, headers, data } of messages) {
        const body = JSON.parse(new TextDecoder().decode(data)) as Record<string, unknown>;
        found.push({ seq, subject, msgId: headers?.get("Nats-Msg-Id") ?? "", body });
        if (found.length === info.state.messages) break;
      }
      return found;
    },
    async [Symbol.asyncDispose]() {
      await server.kill();
      await rm(folder, { recursive: true, force: true });
    },
  };
  try {
    await server.start();
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
  return server;
}
