// The requests of a stream, for as long as they may have to be sent once more.
/** Requests of a stream that are kept to be sent again; one that has sent more is not. */
const KEPT_REQUESTS = 256;

/** Requests that can be sent from the first again, until they are said to have arrived. */
export function replayable<T>(input: AsyncIterable<T>) {
  const source = input[Symbol.asyncIterator]();
  const kept: (Promise<IteratorResult<T>> | undefined)[] = [];
  let first = 0;
  let isKept = true;
  const forget = (before: number) => {
    for (; first < before; first++) kept[first] = undefined;
  };
  return {
    isWhole: () => first === 0,
    keepNoLonger: () => {
      isKept = false;
    },
    /** One reader at a time: an attempt that has failed reads no further. */
    fromTheStart: (): AsyncIterable<T> => ({
      [Symbol.asyncIterator]() {
        let index = 0;
        return {
          // An attempt that fails while it waits for a request leaves it to the next.
          next() {
            kept[index] ??= source.next();
            const request = kept[index] as Promise<IteratorResult<T>>;
            index++;
            if (!isKept || index > KEPT_REQUESTS) forget(index);
            return request;
          },
          // How an attempt is told that it has ended; its requests may be the next one's.
          throw: (error: unknown) => Promise.reject(error),
        };
      },
    }),
  };
}
