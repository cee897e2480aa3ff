// Watches for tests: a stream that is read in the background, with all that arrived.
import { Code, ConnectError } from "@connectrpc/connect";
import type { EntityClient, EntityEvent, WatchEntitiesResponse } from "../clients/typescript/index.ts";
import { encodePosition } from "../src/log/position.ts";
import type { TestService } from "./harness.ts";

/** The position before every event of the epoch: no caller can get it, but tests can make it. */
export async function beginning(service: TestService, client: EntityClient): Promise<string> {
  const { organization } = await client.organizations.getOrganization({});
  const [epoch] = await service.sql<{ id: string }>("select id from feed_epoch");
  return encodePosition(organization?.id ?? "", { epoch: epoch?.id ?? "", from: { xmax: 1n, running: [] } });
}

type Request = Parameters<EntityClient["entities"]["watchEntities"]>[0];

export interface Watching extends AsyncDisposable {
  messages: WatchEntitiesResponse[];
  /** The messages that are events. */
  events(): EntityEvent[];
  /** The position of the last message. */
  position(): string;
  /** The messages, once `done` accepts them; fails after the time. */
  until(done: (messages: WatchEntitiesResponse[]) => boolean, timeoutMs?: number): Promise<WatchEntitiesResponse[]>;
  /** Waits for the first checkpoint: all that was committed before the call has arrived. */
  started(): Promise<string>;
  /** How the stream ended; undefined if this side ended it. */
  ended: Promise<ConnectError | undefined>;
  stop(): Promise<void>;
}

/** Watches until it is disposed. `pauseMs` between messages makes a slow reader. */
export function watching(client: EntityClient, request: Request = {}, { pauseMs = 0 } = {}): Watching {
  const abort = new AbortController();
  const messages: WatchEntitiesResponse[] = [];
  let tell = Promise.withResolvers<void>();
  const run = async (): Promise<ConnectError | undefined> => {
    try {
      for await (const message of client.entities.watchEntities(request, { signal: abort.signal })) {
        messages.push(message);
        tell.resolve();
        tell = Promise.withResolvers();
        if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
      }
      return undefined;
    } catch (error) {
      if (abort.signal.aborted && ConnectError.from(error).code === Code.Canceled) return undefined;
      return ConnectError.from(error);
    }
  };
  const ended = run();
  const stop = async () => {
    abort.abort();
    await ended;
  };
  const until: Watching["until"] = async (done, timeoutMs = 30_000) => {
    const timeout = new Promise<"late">((resolve) => setTimeout(resolve, timeoutMs, "late").unref());
    while (!done(messages)) {
      const next = await Promise.race([tell.promise, ended.then((error) => ({ error })), timeout]);
      if (next === "late") throw new Error(`late: ${messages.length} messages came`);
      if (typeof next === "object" && !done(messages)) throw next.error ?? new Error("the watch ended");
    }
    return messages;
  };
  return {
    messages,
    events: () => messages.flatMap((message) => message.event ?? []),
    position: () => messages.at(-1)?.position ?? "",
    until,
    async started() {
      const isCheckpoint = (message: WatchEntitiesResponse) => message.event === undefined;
      return (await until((all) => all.some(isCheckpoint))).find(isCheckpoint)?.position ?? "";
    },
    ended,
    stop,
    [Symbol.asyncDispose]: stop,
  };
}
