// A stream of responses that comes a page at a time. A consumer that sends its messages one by one reads it as any
// other stream; one that can send a page at once takes the pages, and makes messages of pages not sent before.

/** Items become messages one by one. Streams that share a page share its array. */
export interface Pages<T> {
  pages: AsyncIterable<readonly unknown[]>;
  toMessage(item: unknown): T;
}

const PAGES = Symbol("pages");

/** The messages of the pages, in order; to be read once, as messages or as pages. */
export function paged<Item, T>(
  pages: AsyncIterable<readonly Item[]>,
  toMessage: (item: Item) => T,
): AsyncIterable<T> & { readonly [PAGES]: Pages<T> } {
  return {
    [PAGES]: { pages, toMessage: toMessage as Pages<T>["toMessage"] },
    async *[Symbol.asyncIterator]() {
      for await (const page of pages) for (const item of page) yield toMessage(item);
    },
  };
}

/** The pages of a stream; of one that has none, each message as a page of its own. */
export function pagesOf<T>(messages: AsyncIterable<T>): Pages<T> {
  if (PAGES in messages) return (messages as ReturnType<typeof paged<unknown, T>>)[PAGES];
  return { pages: alone(messages), toMessage: (item) => item as T };
}

async function* alone<T>(messages: AsyncIterable<T>): AsyncGenerator<readonly T[], void> {
  for await (const message of messages) yield [message];
}
