// Pages for people: GET and HEAD of paths that are no RPC. They need no key, so they are bounded as calls without one are:
// an answer is found at once, in memory that all callers share; it must be taken in time; and where answers that were not
// read hold too much memory, none is given.
import type { ServerResponse } from "node:http";
import type { IncomingHttpHeaders } from "node:http2";
import { type AnswerLimits, noteUnread, SMALL_BYTES, takenInTime } from "./answer-limits.ts";
import type { NodeRequest } from "./library-path.ts";
import type { NodeResponse } from "./refusal.ts";

export interface Page {
  status: number;
  headers: Readonly<Record<string, string>>;
  /** The same bytes for all callers. */
  body: Buffer;
}

/** The answer to GET of a path; undefined where it is no page. Must not wait for anything. */
export type FindPage = (path: string, headers: IncomingHttpHeaders) => Page | undefined;

/** Answers a request for a page, and returns whether it is one. */
export function servePage(
  find: FindPage,
  path: string,
  { request, response, answers }: { request: NodeRequest; response: NodeResponse; answers: AnswerLimits },
): boolean {
  if (request.method !== "GET" && request.method !== "HEAD") return false;
  const page = find(path, request.headers);
  if (page === undefined) return false;
  // HTTP/1.1 calls before it has seen that the request has no body: answered at once, its connection would be closed.
  if ("stream" in response) answer(page, request, response, answers);
  else process.nextTick(answer, page, request, response, answers);
  return true;
}

function answer(page: Page, request: NodeRequest, response: NodeResponse, answers: AnswerLimits): void {
  const size = request.method === "HEAD" ? 0 : page.body.length;
  const connection = ("stream" in response ? response.stream.session : response.socket) ?? response;
  if (size > SMALL_BYTES && answers.budget.isSpent(connection)) {
    noteUnread(answers);
    write(response, BUSY, BUSY.body.length);
  } else {
    if (size > SMALL_BYTES) {
      answers.budget.add(connection, size);
      response.once("close", () => answers.budget.give(connection, size));
    }
    write(response, page, size);
  }
  takenInTime(response, answers);
}

const BUSY: Page = {
  status: 503,
  headers: { "content-type": "text/plain; charset=utf-8", "retry-after": "1" },
  body: Buffer.from("Answers that were not read yet hold the memory for this one: read them, and retry\n"),
};

function write(response: NodeResponse, { status, headers, body }: Page, size: number): void {
  response.statusCode = status;
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  if (status !== 304) response.setHeader("content-length", body.length);
  if (size > 0) (response as ServerResponse).end(body);
  else response.end();
}
