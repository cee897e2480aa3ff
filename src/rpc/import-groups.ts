// Rows of an import that are written together: what has arrived while those before it were written.
import type { ImportEntitiesRequest } from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";

/** Rows per transaction: enough for set-based statements to pay, few enough for locks to be short. */
const GROUP_ROWS = 250;
/** Of the JSON of a group's rows, but for a single one: what is decided of them is decided in one turn of the event loop. */
const GROUP_BYTES = 128 * 1024;

/** What of a row may be large. */
function sizeOf({ entity }: ImportEntitiesRequest): number {
  const data = entity?.entityData?.kind.value;
  let size = 0;
  for (const json of [entity?.attributes, entity?.metadata, data?.additional, data?.address?.additional]) {
    if (json !== undefined) size += JSON.stringify(json).length;
  }
  return size;
}

/**
 * Groups of what has arrived, of rows and bytes as many as one may have: reads on while a group is worked on, but no
 * further than one group ahead. A failure of the source is thrown after what came before it.
 */
export async function* groupsOf(source: AsyncIterable<ImportEntitiesRequest>): AsyncGenerator<ImportEntitiesRequest[]> {
  const waiting: { item: ImportEntitiesRequest; size: number }[] = [];
  let bytes = 0;
  let ended = false;
  let failure: unknown;
  let wakeReader = Promise.withResolvers<void>();
  let wakeWorker = Promise.withResolvers<void>();
  const take = () => {
    let taken = 0;
    const count = waiting.findIndex(({ size }, i) => {
      taken += size;
      return i === GROUP_ROWS || (i > 0 && taken > GROUP_BYTES);
    });
    const group = waiting.splice(0, count === -1 ? waiting.length : count);
    for (const { size } of group) bytes -= size;
    return group.map(({ item }) => item);
  };
  const reading = (async () => {
    try {
      for await (const item of source) {
        const size = sizeOf(item);
        waiting.push({ item, size });
        bytes += size;
        wakeWorker.resolve();
        while (!ended && (waiting.length >= GROUP_ROWS || bytes >= GROUP_BYTES)) await wakeReader.promise;
        if (ended) return;
      }
    } catch (error) {
      failure = error ?? new Error("the stream failed");
    } finally {
      ended = true;
      wakeWorker.resolve();
    }
  })();
  try {
    for (;;) {
      if (waiting.length === 0 && !ended) await wakeWorker.promise;
      wakeWorker = Promise.withResolvers<void>();
      const group = take();
      wakeReader.resolve();
      wakeReader = Promise.withResolvers<void>();
      if (group.length > 0) yield group;
      else if (ended) break;
    }
  } finally {
    // The caller disconnected: let the reader end.
    ended = true;
    wakeReader.resolve();
  }
  await reading;
  if (failure !== undefined) throw failure;
}
