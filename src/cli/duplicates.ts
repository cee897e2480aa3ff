// `entities duplicates`: pairs of entities that may be one.
import { toJson } from "@bufbuild/protobuf";
import type { Command } from "commander";
import {
  type DuplicateReason,
  DuplicateRuleSchema,
  type DuplicateSuggestion,
  DuplicateSuggestionSchema,
  type EntityClient,
  type EntityLookup,
} from "../../clients/typescript/index.ts";
import { type LookupOptions, positive, withLookup } from "./arguments.ts";
import { CALL } from "./connection.ts";
import { DUPLICATES_HELP } from "./help.ts";
import { lookupOf } from "./read.ts";

/** Adds the command to `entities`. */
export function addDuplicates(entities: Command, connect: () => EntityClient): void {
  withLookup(entities.command("duplicates").description("print pairs of entities that may be one, and why"))
    .option("--limit <n>", "how many at most", positive, 100)
    .option("--json", "each pair as JSON, one a line", false)
    .addHelpText("after", DUPLICATES_HELP)
    .action(async (options: LookupOptions & { limit: number; json: boolean }) => {
      await printDuplicates(connect(), { ...options, lookup: lookupOf(options) });
    });
}

/** A pair a line, the most certain first: those with one entity, or of the organization. */
async function printDuplicates(
  client: EntityClient,
  { lookup, limit, json }: { lookup: EntityLookup | undefined; limit: number; json: boolean },
): Promise<void> {
  const query = lookup === undefined ? {} : { lookup };
  let [pageToken, left] = ["", limit];
  // A page may be empty and have a next one.
  do {
    const page = await client.entities.suggestDuplicates({ ...query, pageSize: Math.min(left, 1000), pageToken }, CALL);
    for (const pair of page.suggestions) {
      process.stdout.write(`${json ? JSON.stringify(toJson(DuplicateSuggestionSchema, pair)) : readable(pair)}\n`);
    }
    left -= page.suggestions.length;
    pageToken = page.nextPageToken;
  } while (pageToken !== "" && left > 0);
}

const readable = ({ firstEntityId, secondEntityId, reasons }: DuplicateSuggestion) =>
  [firstEntityId, secondEntityId, ...reasons.map(readableReason)].join("  ");

/** The rule and where the values are; where the two have them elsewhere, both. */
function readableReason({ rule, firstPaths, secondPaths }: DuplicateReason): string {
  const paths = firstPaths.map((path, i) => (path === secondPaths[i] ? path : `${path}=${secondPaths[i]}`));
  return `${DuplicateRuleSchema.value[rule]?.localName} ${paths.join(",")}`;
}
