// The pages of the service: GET / says what this is, and /console is the console, which uses the public API with the key
// of whoever signs in. Nothing of a request's path is ever part of a file's: all that can be asked for is in a map.
import cluster from "node:cluster";
import { readFileSync } from "node:fs";
import type { Logger } from "pino";
import type { FindPage } from "../transport/pages.ts";
import { consoleFiles, isPrebuilt } from "./build.ts";
import { answerOf, type KeptFile } from "./page.ts";

export interface ConsoleOptions {
  /** Whether there is the console; the page at / is there in any case. */
  isOn: boolean;
  /** Where what is built may be kept. */
  dataDir: string;
  version: string;
  /** Where the documents are; undefined: in the repository alone. */
  docsUrl: string | undefined;
  log: Logger;
}

type Answer = ReturnType<typeof answerOf>;

/** After a build that failed, in milliseconds: the next one may find what this one lacked. */
const RETRY_MS = 30_000;
const HTML = "text/html; charset=utf-8";

/** What GET / says of the console. */
const CONSOLE_ON = `<dt><a href="/console">Console</a></dt>
          <dd>Find an entity, read what happened to it and who did it, merge duplicates, watch webhooks. Sign in with an
            API key.</dd>`;
const CONSOLE_OFF = `<dt>Console</dt>
          <dd>Off here. <code>CONSOLE=on</code> serves it at <code>/console</code>.</dd>`;

/** `url` is one that the URL parser has written: it has no quotes and no brackets. */
const linkTo = (url: string, text: string) => `<a href="${url.replaceAll("&", "&amp;")}">${text}</a>`;

export function createConsole({
  isOn,
  dataDir,
  version,
  docsUrl,
  log,
}: ConsoleOptions): { find: FindPage } & Disposable {
  const ended = new AbortController();
  const front = textFile("front.html")
    .replace("{version}", version)
    .replace("{console}", isOn ? CONSOLE_ON : CONSOLE_OFF)
    .replace("{documentation}", () => (docsUrl === undefined ? "Documentation" : linkTo(docsUrl, "Documentation")));
  const pages = new Map<string, Answer>([
    ["/", answerOf({ type: HTML, body: Buffer.from(front) })],
    ["/pages.css", answerOf({ type: "text/css; charset=utf-8", body: Buffer.from(textFile("pages.css")) })],
    ["/icon.svg", answerOf({ type: "image/svg+xml", body: Buffer.from(textFile("icon.svg")) })],
  ]);
  const building = waitingPage("building.html", { refresh: "1" });
  const failed = waitingPage("failed.html", { "retry-after": String(RETRY_MS / 1_000) });
  const missing = answerOf({ status: 404, type: HTML, body: Buffer.from(textFile("missing.html")) });
  let state: "unbuilt" | "building" | "built" | "failed" = "unbuilt";

  const start = () => {
    state = "building";
    const began = performance.now();
    consoleFiles(dataDir, ended.signal)
      .then((files) => {
        addConsole(pages, files);
        state = "built";
        log.info({ files: files.size, ms: Math.round(performance.now() - began) }, "the console is ready");
      })
      .catch((error: Error) => {
        if (ended.signal.aborted) return;
        state = "failed";
        log.error({ error: error.message }, "the console could not be built");
        setTimeout(() => {
          if (state === "failed") state = "unbuilt";
        }, RETRY_MS).unref();
      });
  };

  // Of several processes one would be asked for the scripts of the page that another has answered.
  if (isOn && (isPrebuilt() || cluster.isWorker)) start();

  return {
    find(path, headers) {
      const page = pages.get(path);
      if (page !== undefined) return page(headers);
      if (!isOn || !(path === "/console" || path.startsWith("/console/"))) return undefined;
      if (state === "unbuilt") start();
      return { unbuilt: building, building, failed, built: missing }[state](headers);
    },
    [Symbol.dispose]: () => ended.abort(),
  };
}

/** The page itself is at /console and /console/; what it needs is below. */
function addConsole(pages: Map<string, Answer>, files: Map<string, KeptFile>): void {
  for (const [path, file] of files) pages.set(`/console/${path}`, answerOf(file));
  const index = pages.get("/console/index.html");
  if (index === undefined) throw new Error("what was built has no index.html");
  pages.set("/console", index).set("/console/", index);
}

const waitingPage = (name: string, headers: Record<string, string>) =>
  answerOf({ status: 503, type: HTML, body: Buffer.from(textFile(name)), headers });

const textFile = (name: string): string => readFileSync(new URL(name, import.meta.url), "utf8");
