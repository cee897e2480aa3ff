// One connection to NATS JetStream and what is published over it: a batch after the other, each in order. Nothing is
// known of what the server has not acknowledged; the caller sends it again, over another connection.
import { JetStreamApiError, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, nanos } from "@nats-io/transport-node";
import type { EventMessage } from "./event-message.ts";

export interface JetStreamOptions {
  /** `nats://` or `tls://` with host and port alone. */
  servers: string[];
  user: string | undefined;
  password: string | undefined;
  token: string | undefined;
  /** Created where there is none of that name, never altered. */
  stream: string;
}

export interface JetStream {
  /** False when the connection has ended: the next batch needs another one. */
  isOpen(): boolean;
  /**
   * Publishes in order, and resolves when all are acknowledged. A connection's first batch may hold what an earlier
   * one has sent, so it goes one by one; then many are in flight at once, each to be accepted only after the one
   * before it: where one is refused, all that follow are, and none overtakes it.
   */
  publish(messages: readonly EventMessage[], signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

const SUBJECTS = "entity.v1";
const MAX_ON_THEIR_WAY = 256;
const TIMEOUT_MS = 5_000;
const DUPLICATE_WINDOW_MS = 2 * 60_000;
const STREAM_NOT_FOUND = 10_059;

/** Connects, and makes sure of the stream. Rejects without naming the URL. */
export async function connectJetStream(options: JetStreamOptions): Promise<JetStream> {
  const { servers, user, password, token, stream } = options;
  const connection = await connect({
    servers,
    ...(user === undefined ? {} : { user, pass: password ?? "" }),
    ...(token === undefined ? {} : { token }),
    ...(servers.some((server) => server.startsWith("tls://")) ? { tls: {} } : {}),
    name: "entity-service",
    timeout: TIMEOUT_MS,
    // The client would send what is in its buffer over the next connection, ahead of what was lost with this one.
    reconnect: false,
    pingInterval: 10_000,
    // Two errors made for each publish, in case it fails, would be a third of the work.
    noAsyncTraces: true,
  });
  try {
    await ensureStream();
  } catch (error) {
    await connection.close();
    throw error;
  }

  async function ensureStream(): Promise<void> {
    const manager = await jetstreamManager(connection, { timeout: TIMEOUT_MS, checkAPI: false });
    try {
      await manager.streams.info(stream);
    } catch (error) {
      if (!(error instanceof JetStreamApiError) || error.code !== STREAM_NOT_FOUND) throw error;
      await manager.streams.add({
        name: stream,
        subjects: [`${SUBJECTS}.>`],
        storage: "file",
        duplicate_window: nanos(DUPLICATE_WINDOW_MS),
      });
    }
  }

  const client = jetstream(connection, { timeout: TIMEOUT_MS });
  let isFirst = true;
  return {
    isOpen: () => !connection.isClosed(),
    async publish(messages, signal) {
      const onTheirWay = isFirst ? 1 : MAX_ON_THEIR_WAY;
      const acks: Promise<unknown>[] = [];
      for (const [i, { id, organizationId, event, body }] of messages.entries()) {
        if (i >= onTheirWay) await acks[i - onTheirWay];
        signal.throwIfAborted();
        const before = isFirst ? undefined : messages[i - 1]?.id;
        const ack = client.publish(`${SUBJECTS}.${organizationId}.${event}`, body, {
          msgID: id,
          expect: { streamName: stream, ...(before === undefined ? {} : { lastMsgID: before }) },
        });
        // Each is looked at in the end, or in its turn.
        ack.catch(() => {});
        acks.push(ack);
      }
      await Promise.all(acks);
      isFirst = false;
    },
    close: () => connection.close(),
  };
}
