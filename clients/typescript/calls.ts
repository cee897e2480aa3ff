// The clients of the services: Connect's, with what the service knows of a call beside its request, with lists that go on to
// their next page, and with streams that end when they are left.
import type {
  DescMessage,
  DescMethod,
  DescMethodBiDiStreaming,
  DescMethodServerStreaming,
  DescMethodUnary,
  DescService,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";
import { type CallOptions, Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { leavable } from "./leavable.ts";

/** What the service is told of a call beside its request. */
export interface CallContext {
  /** The user on whose behalf: the `actor` of events. */
  actorId?: string | undefined;
  /** The system: the `source` of events. */
  source?: string | undefined;
  /** W3C trace context: the trace id is in the service's log. */
  traceparent?: string | undefined;
  tracestate?: string | undefined;
}

/** Options of one call: Connect's (timeoutMs, signal, headers ...) and its context. */
export interface EntityCallOptions extends CallOptions, CallContext {}

/** A page, and all that follows: `await` it for the page, `for await` it for the items of all pages. */
export interface Paged<Page, Item> extends Promise<Page>, AsyncIterable<Item> {
  /** All pages, from this one on. */
  pages(): AsyncIterable<Page>;
}

/** With every page of ListAuditCheckpoints come the keys that signed them, which are no items. */
const BESIDE = "keys";
type FieldOf<Page> = Exclude<keyof Page, `$${string}` | typeof BESIDE>;
type ItemOf<Page> = { [K in FieldOf<Page>]: Page[K] extends (infer Item)[] ? Item : never }[FieldOf<Page>];

type Answer<I, O> = I extends { pageToken: string }
  ? O extends { nextPageToken: string }
    ? [ItemOf<O>] extends [never]
      ? Promise<O>
      : Paged<O, ItemOf<O>>
    : Promise<O>
  : Promise<O>;

/** The client of a service. */
export type ServiceClient<Service extends DescService> = {
  [P in keyof Service["method"]]: Service["method"][P] extends DescMethodUnary<infer I, infer O>
    ? (request: MessageInitShape<I>, options?: EntityCallOptions) => Answer<MessageShape<I>, MessageShape<O>>
    : Service["method"][P] extends DescMethodServerStreaming<infer I, infer O>
      ? (request: MessageInitShape<I>, options?: EntityCallOptions) => AsyncIterable<MessageShape<O>>
      : Service["method"][P] extends DescMethodBiDiStreaming<infer I, infer O>
        ? (requests: AsyncIterable<MessageInitShape<I>>, options?: EntityCallOptions) => AsyncIterable<MessageShape<O>>
        : never;
};

export function serviceClient<Service extends DescService>(
  service: Service,
  transport: Transport,
  contextOf: (options: CallContext) => CallContext,
): ServiceClient<Service> {
  const calls = leavable(service, createClient(service, transport)) as Record<string, Call>;
  for (const { localName, methodKind, input, output } of service.methods) {
    const call = calls[localName] as Call;
    const withContext: Call = (request, options) => {
      const headers = headersOf(options, contextOf(options ?? {}));
      return headers instanceof ConnectError ? failed(methodKind, headers) : call(request, { ...options, headers });
    };
    const items = methodKind === "unary" ? itemsOf(input, output) : undefined;
    calls[localName] = items === undefined ? withContext : paged(withContext as ListCall, items);
  }
  return calls as unknown as ServiceClient<Service>;
}

type Call = (request: unknown, options?: EntityCallOptions) => unknown;
type Page = { nextPageToken: string } & Record<string, unknown>;
type ListCall = (request: unknown, options?: EntityCallOptions) => Promise<Page>;

const HEADERS = {
  actorId: "x-actor-id",
  source: "x-source",
  traceparent: "traceparent",
  tracestate: "tracestate",
} as const satisfies Record<keyof CallContext, string>;

/** The headers of a call, or why it cannot be made: the platform's own error would quote the value. */
function headersOf(options: CallOptions | undefined, context: CallContext): Headers | ConnectError {
  const headers = new Headers(options?.headers);
  for (const [name, header] of Object.entries(HEADERS)) {
    const value = context[name as keyof CallContext];
    if (value === undefined || headers.has(header)) continue;
    try {
      headers.set(header, value);
    } catch {
      return new ConnectError(`${name} has characters that no header can have`, Code.InvalidArgument);
    }
  }
  return headers;
}

/** A call that has failed before it was made, which tells so where its answer is waited for. */
function failed(methodKind: DescMethod["methodKind"], error: ConnectError): unknown {
  if (methodKind === "unary") return Promise.reject(error);
  return { [Symbol.asyncIterator]: () => ({ next: () => Promise.reject(error) }) };
}

/** The field of a page that has its items; undefined where the method has no pages. */
function itemsOf(input: DescMessage, output: DescMessage): string | undefined {
  if (!("pageToken" in input.field && "nextPageToken" in output.field)) return undefined;
  return output.fields.find(({ fieldKind, localName }) => fieldKind === "list" && localName !== BESIDE)?.localName;
}

function paged(list: ListCall, items: string) {
  return (request: unknown, options?: EntityCallOptions): Paged<Page, unknown> => {
    const first = list(request, options);
    async function* pages() {
      for (
        let page = await first;
        ;
        page = await list({ ...(request as object), pageToken: page.nextPageToken }, options)
      ) {
        yield page;
        if (page.nextPageToken === "") return;
      }
    }
    async function* all() {
      for await (const page of pages()) yield* page[items] as unknown[];
    }
    return Object.assign(first, { pages, [Symbol.asyncIterator]: all });
  };
}
