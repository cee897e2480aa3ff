// A stream of responses that comes a page at a time. Whoever sends its messages one by one reads it as any other
// stream; whoever can send a page at once takes the pages.

const PAGES = Symbol("pages");

/** The messages of the pages, in order. */
export interface Paged<T> extends AsyncIterable<T> {
  readonly [PAGES]: AsyncIterable<readonly T[]>;
}

/** To be read once: either the messages or the pages. A page that several streams share is the same array in each. */
export function paged<T>(pages: AsyncIterable<readonly T[]>): Paged<T> {
  return { [PAGES]: pages, [Symbol.asyncIterator]: () => eachOf(pages) };
}

/** The pages of a stream; of one that has none, each message as a page of its own. */
export function pagesOf<T>(messages: AsyncIterable<T>): AsyncIterable<readonly T[]> {
  return PAGES in messages ? (messages as Paged<T>)[PAGES] : { [Symbol.asyncIterator]: () => alone(messages) };
}

async function* eachOf<T>(pages: AsyncIterable<readonly T[]>): AsyncGenerator<T, void> {
  for await (const page of pages) yield* page;
}

async function* alone<T>(messages: AsyncIterable<T>): AsyncGenerator<readonly T[], void> {
  for await (const message of messages) yield [message];
}
