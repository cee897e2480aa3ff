// Calls that ended without an answer: whether anybody can have seen them, and what they are called.
import { Code, ConnectError } from "@connectrpc/connect";

/** Of a stream that was refused, or came after the last that a GOAWAY names: Node and the library tell in words alone. */
const REFUSED = /^(Stream|http\/2 stream) closed with error code (NGHTTP2_)?REFUSED_STREAM\b/;
/** What the library says of a stream whose connection has ended; a caller that leaves is told in other words. */
const CUT = /^http\/2 stream closed with error code CANCEL\b/;
const UNSEEN = ["ECONNREFUSED", "ERR_HTTP2_GOAWAY_SESSION"];
const LOST = [
  ...["ECONNRESET", "EPIPE", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH", "EAI_AGAIN"],
  // Node's for a connection that ended in the middle: of HTTP/2, of a stream, of fetch.
  ...["ERR_HTTP2_SESSION_ERROR", "ERR_STREAM_PREMATURE_CLOSE", "UND_ERR_SOCKET"],
];

/** Whether nobody can have seen the call that ended so. */
export const isUnseen = (error: unknown): boolean =>
  chainOf(error).some((one) => UNSEEN.includes(codeOf(one)) || REFUSED.test(messageOf(one)));

/** A connection that could not be had or was lost is UNAVAILABLE, which Node, browsers and the library call by many names. */
export function withoutAnswer(error: unknown): unknown {
  if (!(error instanceof ConnectError) || error.code === Code.Unavailable) return error;
  const isLost = chainOf(error).some((one) => LOST.includes(codeOf(one)) || CUT.test(messageOf(one)) || isOfFetch(one));
  if (!isLost && !isUnseen(error)) return error;
  return new ConnectError(error.rawMessage, Code.Unavailable, undefined, undefined, error);
}

/** `fetch` throws a TypeError where it gets no response; the words differ. */
const isOfFetch = (error: Error): boolean =>
  error instanceof TypeError && /fetch|network|load failed|terminated/i.test(error.message);

function chainOf(error: unknown): Error[] {
  const chain: Error[] = [];
  for (let one = error; one instanceof Error && !chain.includes(one); one = one.cause) chain.push(one);
  return chain;
}

const codeOf = (error: Error): string => ("code" in error ? String(error.code) : "");
/** Without the code that ConnectError puts before it. */
const messageOf = (error: Error): string => ("rawMessage" in error ? String(error.rawMessage) : error.message);
