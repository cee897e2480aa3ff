// HTTP/2 streams that end with their calls. The library resets the stream of a call that is left, but for two, which would
// keep the connection, and with it the process: one that has ended at the service while answers lie unread, for which Node
// waits until somebody reads them; and one of an import that the service has answered before the end of its requests.
import { AsyncLocalStorage } from "node:async_hooks";
import { type ClientHttp2Stream, constants } from "node:http2";
import type { Interceptor } from "@connectrpc/connect";
import { Http2SessionManager } from "@connectrpc/connect-node";

/** Aborted when the call is over, however it ended. */
const signalOfCall = new AsyncLocalStorage<AbortSignal>();

/** The last of the interceptors: the sessions are told of each call. */
export const tellSessions: Interceptor = (next) => (request) => signalOfCall.run(request.signal, () => next(request));

/** Sessions whose streams end with the calls. */
export class CallSessions extends Http2SessionManager {
  override async request(...call: Parameters<Http2SessionManager["request"]>): Promise<ClientHttp2Stream> {
    const signal = signalOfCall.getStore();
    const stream = await super.request(...call);
    if (signal === undefined) return stream;
    const end = () => letGo(stream);
    // The library comes first: it has listened before, or resets what it gets too late.
    if (signal.aborted) setImmediate(end);
    else signal.addEventListener("abort", end, { once: true });
    return stream;
  }
}

function letGo(stream: ClientHttp2Stream): void {
  // Most have ended.
  if (stream.readableEnded && stream.writableEnded) return;
  if (stream.readableEnded && !stream.closed) stream.close(constants.NGHTTP2_NO_ERROR);
  // Behind the frame that resets it, if one does.
  setImmediate(() => stream.closed && stream.destroy());
}
