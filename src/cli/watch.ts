// `watch`: events as they come, a line each; goes on by itself when the service restarts.
import { setTimeout as sleep } from "node:timers/promises";
import { toJson } from "@bufbuild/protobuf";
import {
  type EntityClient,
  EntityEventSchema,
  type EntityLookup,
  type EventType,
  errorInfo,
} from "../../clients/typescript/index.ts";
import { networkCode } from "./connection.ts";
import { readable } from "./read.ts";

export interface WatchOptions {
  /** Where to begin; empty: now. */
  position: string;
  types: EventType[];
  lookup: EntityLookup | undefined;
  json: boolean;
}

/** Between two attempts to reach a service that is away, in milliseconds. */
const RETRY_MS = 1_000;

/** Prints events until it is stopped. Throws errors that watching again from the last position would not cure. */
export async function watchEntities(client: EntityClient, options: WatchOptions): Promise<never> {
  let { position } = options;
  const filter = options.lookup === undefined ? {} : { lookup: options.lookup };
  for (;;) {
    try {
      for await (const message of client.entities.watchEntities({ ...filter, types: options.types, position })) {
        ({ position } = message);
        if (message.event === undefined) continue;
        // With --json each line has the position to go on behind it.
        const line = options.json
          ? JSON.stringify({ position, event: toJson(EntityEventSchema, message.event) })
          : readable(message.event);
        process.stdout.write(`${line}\n`);
      }
    } catch (error) {
      const reason = errorInfo(error)?.reason;
      // A service that was never reached is reported: the address may be wrong.
      const isPassing = reason === "DATABASE_UNAVAILABLE" || reason === "WATCH_TOO_SLOW";
      const isLost = reason === undefined && networkCode(error) !== undefined && position !== options.position;
      if (!isPassing && !isLost) throw error;
    }
    await sleep(RETRY_MS);
  }
}
