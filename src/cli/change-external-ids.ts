// `change-external-ids`: ChangeExternalId for each line of a file, in order, each line once for ever.
import { createHash } from "node:crypto";
import type { ConnectError } from "@connectrpc/connect";
import { type EntityClient, EventType, errorInfo } from "../../clients/typescript/index.ts";
import { DomainError, invalidField } from "../domain/errors.ts";
import { trim } from "../domain/text.ts";
import { CALL } from "./connection.ts";
import { Interrupted, toRowError } from "./import.ts";
import { type Line, linesOf, objectOf, openSource, stringOf } from "./lines.ts";
import { type Counts, countsLine, noCounts, openErrorsFile, showProgress } from "./report.ts";

export interface ChangeOptions {
  file: string;
  errorsFile: string;
  keepPreviousAsAlias: boolean;
  /** For rows that give none. */
  reason: string | undefined;
}

interface Row {
  old: string;
  new: string;
  reason: string;
  /** Identical whenever the same line of the file is processed: its event is found by it. */
  requestId: string;
}

/** Refusals that every row would get: the run ends, and can be repeated. */
const OF_THE_RUN = new Set([
  "UNAUTHENTICATED",
  "PERMISSION_DENIED",
  "DATABASE_UNAVAILABLE",
  "COMMIT_UNKNOWN",
  "OVERLOADED",
  "INTERNAL",
  "CANCELLED",
]);

/** One row at a time: the order matters where ids move on (a to b, then c to a). */
export async function changeExternalIds(client: EntityClient, options: ChangeOptions): Promise<Counts> {
  const source = await openSource(options.file);
  using errors = openErrorsFile(options.errorsFile, options.file);
  using progress = showProgress(process.stderr, source.bytes);
  const counts = noCounts();
  let rows = 0;
  let lastLine = 0;
  for await (const line of linesOf(source.stream)) {
    try {
      counts[await changeOne(client, rowOf(line, options), options.keepPreviousAsAlias)]++;
    } catch (error) {
      if (error instanceof DomainError) {
        errors.write(line.number, toRowError(error));
      } else {
        const info = errorInfo(error);
        if (info === undefined || OF_THE_RUN.has(info.reason)) {
          if (lastLine === 0) throw error;
          throw new Interrupted(
            `ended after line ${lastLine} (${countsLine(counts)}). Run the same command again: it goes on where it stopped, ` +
              "lines that are done count as unchanged",
            { cause: error },
          );
        }
        errors.write(line.number, { ...info, message: (error as ConnectError).rawMessage });
      }
      counts.failed++;
    }
    lastLine = line.number;
    progress.update(line.end, ++rows);
  }
  return counts;
}

function rowOf(line: Line, options: ChangeOptions): Row {
  const object = objectOf(line.text);
  const unknown = Object.keys(object).find((key) => !["old", "new", "reason"].includes(key));
  if (unknown !== undefined) {
    throw invalidField(
      /^[\w.-]{1,64}$/.test(unknown) ? unknown : "line",
      "there is no such field: give old, new and reason",
    );
  }
  const text = (key: string) => {
    const value = stringOf(object, key);
    if (value === undefined || trim(value) === "") throw invalidField(key, "is required");
    return trim(value);
  };
  const row = { old: text("old"), new: text("new"), reason: stringOf(object, "reason") ?? options.reason ?? "" };
  const seed = JSON.stringify(["change-external-ids", line.number, row, options.keepPreviousAsAlias]);
  return { ...row, requestId: uuidOf(seed) };
}

async function changeOne(
  client: EntityClient,
  row: Row,
  keepPreviousAsAlias: boolean,
): Promise<"updated" | "unchanged"> {
  // Before the call, not only when it fails: where ids moved on, the old one may already belong to another entity.
  const { events } = await client.entities.listEntityEvents({ requestId: row.requestId, pageSize: 1 }, CALL);
  if (events.length > 0) return "unchanged";
  try {
    const { changed } = await client.entities.changeExternalId(
      {
        lookup: { by: { case: "externalId", value: row.old } },
        newExternalId: row.new,
        reason: row.reason,
        keepPreviousAsAlias,
        requestId: row.requestId,
      },
      CALL,
    );
    return changed ? "updated" : "unchanged";
  } catch (error) {
    if (errorInfo(error)?.reason === "NOT_FOUND" && (await isDone(client, row))) return "unchanged";
    throw error;
  }
}

/** Whether the entity with the new id as its primary changed to it from the old one, no matter who changed it. */
async function isDone(client: EntityClient, row: Row): Promise<boolean> {
  const lookup = { by: { case: "externalId" as const, value: row.new } };
  let pageToken = "";
  try {
    const { entity } = await client.entities.getEntity({ lookup, readMask: { paths: ["external_id"] } }, CALL);
    if (entity?.externalId !== row.new) return false;
    do {
      const page = await client.entities.listEntityEvents(
        { lookup, types: [EventType.EXTERNAL_ID_CHANGED], pageSize: 1000, pageToken },
        CALL,
      );
      if (
        page.events.some(
          (event) => event.previousValues?.externalId === row.old && event.newValues?.externalId === row.new,
        )
      ) {
        return true;
      }
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    return false;
  } catch (error) {
    if (errorInfo(error)?.reason === "NOT_FOUND") return false;
    throw error;
  }
}

/** A UUID (version 8: defined by its maker) that reveals nothing of what it was made from. */
function uuidOf(seed: string): string {
  const hex = createHash("sha256").update(seed).digest("hex");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-9${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}
