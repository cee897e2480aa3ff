// Streams of the TypeScript client that are left: every one, by every way to leave it, at every moment of its call, on Node and
// over fetch. Whoever leaves goes on at once; the stream ends on both sides, and what its requests come from is closed.
import diagnostics from "node:diagnostics_channel";
import { once } from "node:events";
import { createServer } from "node:http";
import type { ClientHttp2Stream, ServerHttp2Stream } from "node:http2";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { Code } from "@connectrpc/connect";
import { describe, expect, test, vi } from "vitest";
import { createEntityClient, type EntityClient } from "../clients/typescript/index.ts";
import { createEntityClient as createWebClient } from "../clients/typescript/web.ts";
import { say, serving } from "./clients/scripted-server.ts";
import { envelope } from "./frames.ts";

/** All of it is over in milliseconds. */
const LONG_MS = 5_000;
/** Until the server has done what it does before the call is left. */
const SOON_MS = 60;
const EMPTY = envelope(new Uint8Array());

/** How a server answers a call: its headers come with the first. */
interface Answering {
  headers(): void;
  message(): void;
  end(): void;
  /** Instead of them. */
  refuse(): void;
}
/** What the server has done when the call is left. */
const MOMENTS: Record<string, (answer: Answering) => void> = {
  "before its headers": () => {},
  "behind its headers": (answer) => answer.headers(),
  "between a message and its end": (answer) => answer.message(),
  "with messages that nobody has read": (answer) => {
    answer.message();
    setTimeout(() => answer.message(), SOON_MS / 3);
  },
  "when it has ended": (answer) => {
    answer.message();
    answer.end();
  },
  "when it has ended, with a message that nobody has read": (answer) => {
    answer.message();
    setTimeout(() => {
      answer.message();
      answer.end();
    }, SOON_MS / 3);
  },
  "when it is refused": (answer) => answer.refuse(),
};
const BRINGS_NONE = new Set(["before its headers", "behind its headers", "when it is refused"]);

interface Open {
  signal?: AbortSignal;
  /** Told when the requests are opened, and closed. */
  opened?: (by: number) => void;
}
const STREAMS: Record<string, (client: EntityClient, options: Open) => AsyncIterable<unknown>> = {
  ExportEntities: ({ entities }, options) => entities.exportEntities({}, options),
  WatchEntities: ({ entities }, options) => entities.watchEntities({}, options),
  ImportEntities: ({ entities }, { opened, ...options }) => entities.importEntities(requests(opened), options),
  VerifyAuditTrail: ({ entities }, options) => entities.verifyAuditTrail({}, options),
  "A watch that goes on": ({ watch }, options) => watch(options),
};
async function* requests(opened: Open["opened"]) {
  opened?.(1);
  try {
    for (;;) {
      yield { entity: { name: "Ana" } };
      await sleep(10);
    }
  } finally {
    opened?.(-1);
  }
}

type Way = (open: (options?: Open) => AsyncIterable<unknown>) => Promise<void>;
/** From the body of a loop, which a first message has entered. */
const FROM_A_LOOP: Record<string, Way> = {
  break: async (open) => {
    for await (const _ of open()) {
      await sleep(SOON_MS);
      break;
    }
  },
  "a throw": async (open) => {
    const loop = async () => {
      for await (const _ of open()) {
        await sleep(SOON_MS);
        throw new Error("left");
      }
    };
    await expect(loop()).rejects.toThrow("left");
  },
  "the signal in the loop": async (open) => {
    const abort = new AbortController();
    const loop = async () => {
      for await (const _ of open({ signal: abort.signal })) {
        await sleep(SOON_MS);
        abort.abort();
      }
    };
    await loop().catch((error) => expect(error).toMatchObject({ code: Code.Canceled }));
  },
};
const AT_ANY_TIME: Record<string, Way> = {
  "return() before an answer is asked for": async (open) => {
    const answers = open()[Symbol.asyncIterator]();
    await sleep(SOON_MS);
    expect(await answers.return?.()).toMatchObject({ done: true });
  },
  "return() while an answer is waited for": async (open) => {
    const answers = open()[Symbol.asyncIterator]();
    const reading = untilOver(answers);
    await sleep(SOON_MS);
    expect(await answers.return?.()).toMatchObject({ done: true });
    await reading;
  },
  "the signal while an answer is waited for": async (open) => {
    const abort = new AbortController();
    const reading = untilOver(open({ signal: abort.signal })[Symbol.asyncIterator]());
    await sleep(SOON_MS);
    abort.abort();
    await reading;
  },
  "a signal that was aborted before": (open) =>
    untilOver(open({ signal: AbortSignal.abort() })[Symbol.asyncIterator]()),
};

/** Reads until nothing more comes: it has ended, was refused, or is left. */
async function untilOver(answers: AsyncIterator<unknown>): Promise<void> {
  try {
    while ((await answers.next()).done !== true);
  } catch (error) {
    expect([Code.Canceled, Code.PermissionDenied]).toContain((error as { code?: Code }).code);
  }
}

/** A server of gRPC over HTTP/2, as Node's client has it, and whether its streams are all over. */
async function serveNode(act: (answer: Answering) => void) {
  const streams: ServerHttp2Stream[] = [];
  const server = await serving((stream) => {
    streams.push(stream);
    const answer: Answering = {
      headers() {
        stream.respond({ ":status": 200, "content-type": "application/grpc+proto" }, { waitForTrailers: true });
        stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
      },
      message() {
        if (stream.destroyed) return;
        if (!stream.headersSent) this.headers();
        stream.write(EMPTY);
      },
      end: () => void stream.end(),
      refuse: () => say(stream, { code: Code.PermissionDenied }),
    };
    act(answer);
  });
  return {
    client: createEntityClient({ baseUrl: server.baseUrl, apiKey: "k" }),
    open: () => streams.filter((stream) => !stream.destroyed).length,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

/** A server of Connect over HTTP/1.1, as fetch has it. */
async function serveFetch(act: (answer: Answering) => void) {
  let open = 0;
  const server = createServer((_, response) => {
    open++;
    response.on("close", () => open--);
    act({
      headers() {
        response.writeHead(200, { "content-type": "application/connect+proto" });
        response.flushHeaders();
      },
      message() {
        if (!response.headersSent) this.headers();
        response.write(EMPTY);
      },
      end: () => void response.end(envelope(Buffer.from("{}"), 2)),
      refuse() {
        this.headers();
        response.end(envelope(Buffer.from('{"error":{"code":"permission_denied"}}'), 2));
      },
    });
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    client: createWebClient({ baseUrl, apiKey: "k" }),
    open: () => open,
    async [Symbol.asyncDispose]() {
      server.close();
      server.closeAllConnections();
    },
  };
}

/** The HTTP/2 streams that clients of this process open, from now on. */
function clientStreams() {
  const streams: ClientHttp2Stream[] = [];
  const add = (message: unknown) => streams.push((message as { stream: ClientHttp2Stream }).stream);
  diagnostics.subscribe("http2.client.stream.created", add);
  return { streams, [Symbol.dispose]: () => void diagnostics.unsubscribe("http2.client.stream.created", add) };
}

const CASES = Object.entries(STREAMS).flatMap(([stream, open]) =>
  Object.entries(MOMENTS).map(([moment, act]) => ({ stream, open, moment, act })),
);

describe.each([
  { platform: "on Node", serve: serveNode, cases: CASES },
  // fetch sends no streams of requests.
  { platform: "over fetch", serve: serveFetch, cases: CASES.filter(({ stream }) => stream !== "ImportEntities") },
])("$platform", ({ platform, serve, cases }) => {
  test.each(cases)("$stream is left $moment, by every way", async ({ open, moment, act }) => {
    using made = clientStreams();
    /** What is still open of each way. */
    const leaving = async (leave: Way) => {
      await using server = await serve(act);
      let sources = 0;
      const opened = (by: number) => void (sources += by);
      const left = leave((options = {}) => open(server.client, { ...options, opened })).then(() => true);
      const isLeft = await Promise.race([left, sleep(LONG_MS, false)]);
      const rest = () => ({ isLeft, streams: server.open(), sources });
      await vi.waitFor(() => expect(rest()).toEqual(OVER), LONG_MS).catch(() => {});
      return rest();
    };
    const ways = Object.entries({ ...(BRINGS_NONE.has(moment) ? {} : FROM_A_LOOP), ...AT_ANY_TIME });
    const rests = await Promise.all(ways.map(async ([way, leave]) => [way, await leaving(leave)]));
    expect(Object.fromEntries(rests)).toEqual(Object.fromEntries(ways.map(([way]) => [way, OVER])));
    // A stream that is not, or its connection, would keep the process.
    await vi.waitFor(() => expect(made.streams.filter((stream) => !stream.destroyed)).toHaveLength(0), LONG_MS);
    expect(made.streams.length > 0).toBe(platform === "on Node");
  });
});
const OVER = { isLeft: true, streams: 0, sources: 0 };
