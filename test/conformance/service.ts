// connectrpc.conformance.v1.ConformanceService, as its proto describes it: a request says how it wants to be answered,
// and the answer says what was seen of the request. It does not depend on the server that it runs in.
import { setTimeout as wait } from "node:timers/promises";
import { create, type DescMessage, type Message, type Registry } from "@bufbuild/protobuf";
import { type Any, anyPack } from "@bufbuild/protobuf/wkt";
import { type Code, ConnectError, type HandlerContext } from "@connectrpc/connect";

// The messages as far as they matter here: there is no generated code of them.
interface Header {
  name: string;
  value: string[];
}

interface WantedError {
  code: Code;
  message?: string;
  details: Any[];
}

interface WantedMetadata {
  responseHeaders: Header[];
  responseTrailers: Header[];
  responseDelayMs: number;
}

interface WantedAnswer extends WantedMetadata {
  response:
    | { case: "responseData"; value: Uint8Array }
    | { case: "error"; value: WantedError }
    | { case: undefined; value?: undefined };
}

interface WantedStream extends WantedMetadata {
  responseData: Uint8Array[];
  error?: WantedError;
}

type OneRequest = Message & { responseDefinition?: WantedAnswer };
type StreamRequest = Message & { responseDefinition?: WantedStream; fullDuplex?: boolean };

export const SERVICE = "connectrpc.conformance.v1.ConformanceService";
const REQUEST_INFO = "connectrpc.conformance.v1.ConformancePayload.RequestInfo";

/** The handlers; Unimplemented is left out, as its name says. */
export function conformanceService(registry: Registry) {
  const infoType = message(registry, REQUEST_INFO);

  function requestInfo(context: HandlerContext, requests: Message[]) {
    const timeoutMs = context.timeoutMs();
    return {
      requestHeaders: Array.from(context.requestHeader, ([name, value]) => ({ name, value: value.split(/, */) })),
      ...(timeoutMs !== undefined && { timeoutMs: BigInt(Math.floor(timeoutMs)) }),
      requests: requests.map((request) => anyPack(message(registry, request.$typeName), request as never)),
    };
  }

  /** The error that was asked for; with info, what was seen of the request is among its details. */
  function errorOf(wanted: WantedError, info?: ReturnType<typeof requestInfo>): ConnectError {
    const error = new ConnectError(wanted.message ?? "", wanted.code);
    for (const { typeUrl, value } of wanted.details) {
      error.details.push({ type: typeUrl.slice(typeUrl.lastIndexOf("/") + 1), value });
    }
    if (info !== undefined) error.details.push({ desc: infoType, value: create(infoType, info) as never });
    return error;
  }

  async function answerOne(requests: OneRequest[], context: HandlerContext) {
    const wanted = requests[0]?.responseDefinition;
    const info = requestInfo(context, requests);
    if (wanted === undefined) return { payload: { requestInfo: info } };
    setMetadata(wanted, context);
    await pause(wanted.responseDelayMs, context);
    if (wanted.response.case === "error") throw errorOf(wanted.response.value, info);
    return { payload: { data: wanted.response.value ?? new Uint8Array(), requestInfo: info } };
  }

  async function* answerMany(requests: StreamRequest[], wanted: WantedStream | undefined, context: HandlerContext) {
    if (wanted === undefined) return;
    const info = requestInfo(context, requests);
    setMetadata(wanted, context);
    for (const [index, data] of wanted.responseData.entries()) {
      await pause(wanted.responseDelayMs, context);
      yield { payload: { data, ...(index === 0 && { requestInfo: info }) } };
    }
    if (wanted.error) throw errorOf(wanted.error, wanted.responseData.length === 0 ? info : undefined);
  }

  async function* answerEach(first: StreamRequest, rest: AsyncIterator<StreamRequest>, context: HandlerContext) {
    const wanted = first.responseDefinition;
    if (wanted) setMetadata(wanted, context);
    const data = wanted?.responseData ?? [];
    let answered = 0;
    let request: StreamRequest | undefined = first;
    while (request !== undefined && answered < data.length) {
      const info = requestInfo(context, [request]);
      await pause(wanted?.responseDelayMs ?? 0, context);
      // All properties in the first answer, the last request alone in those after it.
      yield { payload: { data: data[answered], requestInfo: answered === 0 ? info : { requests: info.requests } } };
      answered += 1;
      const next: IteratorResult<StreamRequest, undefined> = await rest.next();
      request = next.done === true ? undefined : next.value;
    }
    for (; answered < data.length; answered++) {
      await pause(wanted?.responseDelayMs ?? 0, context);
      yield { payload: { data: data[answered] } };
    }
    if (wanted?.error) throw errorOf(wanted.error, answered === 0 ? requestInfo(context, [first]) : undefined);
  }

  return {
    unary: (request: OneRequest, context: HandlerContext) => answerOne([request], context),
    idempotentUnary: (request: OneRequest, context: HandlerContext) => answerOne([request], context),
    async clientStream(requests: AsyncIterable<OneRequest>, context: HandlerContext) {
      const all: OneRequest[] = [];
      for await (const request of requests) all.push(request);
      return answerOne(all, context);
    },
    serverStream: (request: StreamRequest, context: HandlerContext) =>
      answerMany([request], request.responseDefinition, context),
    async *bidiStream(requests: AsyncIterable<StreamRequest>, context: HandlerContext) {
      const each = requests[Symbol.asyncIterator]();
      const first = await each.next();
      if (first.done === true) return;
      if (first.value.fullDuplex) {
        yield* answerEach(first.value, each, context);
        return;
      }
      const all = [first.value];
      for (let next = await each.next(); next.done !== true; next = await each.next()) all.push(next.value);
      yield* answerMany(all, first.value.responseDefinition, context);
    },
  };
}

function setMetadata(wanted: WantedMetadata, context: HandlerContext): void {
  for (const { name, value } of wanted.responseHeaders)
    for (const one of value) context.responseHeader.append(name, one);
  for (const { name, value } of wanted.responseTrailers)
    for (const one of value) context.responseTrailer.append(name, one);
}

/** The library gives a handler its deadline and leaves it to the handler to stop. */
async function pause(ms: number, { signal }: HandlerContext): Promise<void> {
  if (ms === 0) return;
  await wait(ms, undefined, { signal }).catch(() => {
    throw signal.reason;
  });
}

/** Throws where there is no such message. */
export function message(registry: Registry, typeName: string): DescMessage {
  const found = registry.getMessage(typeName);
  if (found === undefined) throw new Error(`no message ${typeName}`);
  return found;
}
