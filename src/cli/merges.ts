// `entities merge` and `entities unmerge`: two records of one person or company, made one and parted again.
import { create, toJson } from "@bufbuild/protobuf";
import { type Value, ValueSchema } from "@bufbuild/protobuf/wkt";
import type { Command } from "commander";
import {
  type EntityClient,
  type EntityLookup,
  EntityLookupSchema,
  LostExternalIdCauseSchema,
  type MergeEntitiesResponse,
  MergeEntitiesResponseSchema,
  MergeKept,
  type UnmergeEntitiesResponse,
  UnmergeEntitiesResponseSchema,
} from "../../clients/typescript/index.ts";
import { ConfigError } from "../config.ts";
import { parseUuid } from "../domain/text.ts";
import { CALL } from "./connection.ts";
import { MERGE_HELP, UNMERGE_HELP } from "./help.ts";
import { quoted } from "./read.ts";

interface Options {
  reason: string;
  preview: boolean;
  json: boolean;
}

/** Adds the commands to `entities`. */
export function addMerges(entities: Command, connect: () => EntityClient): void {
  entities
    .command("merge")
    .description("merge the second entity into the first, which keeps its id and wins where both have a value")
    .argument("<primary>", "the entity that stays")
    .argument("<secondary>", "the entity that is merged into it")
    .requiredOption("--reason <text>", "why: at least 5 characters")
    .option("--preview", "print what would come of it, and change nothing", false)
    .option("--json", "the whole answer as JSON", false)
    .addHelpText("after", MERGE_HELP)
    .action((primary: string, secondary: string, options: Options) =>
      mergeEntities(connect(), keyOf(primary), keyOf(secondary), options),
    );
  entities
    .command("unmerge")
    .description("undo the merge of an entity, whatever has happened since")
    .argument("[merged]", "the merged entity, by its id or by a key that it brought")
    .option("--merge <uuid>", "instead: the merge with this id")
    .requiredOption("--reason <text>", "why: at least 5 characters")
    .option("--mark-distinct", "mark the two as distinct, so that nobody merges them again", false)
    .option("--preview", "print what would come of it, and change nothing", false)
    .option("--json", "the whole answer as JSON", false)
    .addHelpText("after", UNMERGE_HELP)
    .action(async (merged: string | undefined, options: Options & { merge?: string; markDistinct: boolean }) => {
      if ((merged === undefined) === (options.merge === undefined))
        throw new ConfigError("give the merged entity, or --merge UUID");
      const client = connect();
      const mergeId = options.merge ?? (await findMerge(client, keyOf(merged ?? "")));
      await unmergeEntities(client, mergeId, options);
    });
}

const KINDS = { "id:": "entityId", "external-id:": "externalId", "tax-id:": "taxId" } as const;

/** `id:UUID`, `external-id:ID` or `tax-id:NUMBER`; without such a word an external id. */
function keyOf(text: string): EntityLookup {
  const [prefix, kind] = Object.entries(KINDS).find(([word]) => text.startsWith(word)) ?? ["", "externalId" as const];
  if (prefix === "" && parseUuid(text) !== null)
    throw new ConfigError(`which is it: id:${text} or external-id:${text}?`);
  return create(EntityLookupSchema, { by: { case: kind, value: text.slice(prefix.length) } });
}

async function mergeEntities(
  client: EntityClient,
  primary: EntityLookup,
  secondary: EntityLookup,
  { reason, preview, json }: Options,
): Promise<void> {
  const answer = await client.entities.mergeEntities({ primary, secondary, reason, validateOnly: preview }, CALL);
  print(json ? [JSON.stringify(toJson(MergeEntitiesResponseSchema, answer))] : mergeLines(answer, preview));
}

async function unmergeEntities(
  client: EntityClient,
  mergeId: string,
  { reason, preview, json, markDistinct }: Options & { markDistinct: boolean },
): Promise<void> {
  const request = { mergeId, reason, markDistinct, validateOnly: preview };
  const answer = await client.entities.unmergeEntities(request, CALL);
  print(json ? [JSON.stringify(toJson(UnmergeEntitiesResponseSchema, answer))] : unmergeLines(answer, preview));
}

/** The merge that holds of the merged entity which the lookup names. Throws ConfigError where it names none. */
async function findMerge(client: EntityClient, lookup: EntityLookup): Promise<string> {
  const { redirectedFrom } = await client.entities.getEntity({ lookup }, CALL);
  if (redirectedFrom === "")
    throw new ConfigError("this names no merged entity: give its id, or a key that it brought, or --merge UUID");
  const byId = create(EntityLookupSchema, { by: { case: "entityId", value: redirectedFrom } });
  let pageToken = "";
  do {
    const page = await client.entities.listMerges({ lookup: byId, pageSize: 1000, pageToken }, CALL);
    const held = page.merges.find((one) => one.secondaryId === redirectedFrom && one.undoneAt === undefined);
    if (held !== undefined) return held.id;
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  throw new ConfigError("its merge was undone meanwhile");
}

const print = (lines: readonly string[]) => process.stdout.write(`${lines.join("\n")}\n`);
const shown = (value: Value | undefined) =>
  value === undefined ? "nothing" : JSON.stringify(toJson(ValueSchema, value));
const rowsLine = ({ rows }: MergeEntitiesResponse | UnmergeEntitiesResponse) =>
  `activity: ${rows?.transactions ?? 0} transactions, ${rows?.userEvents ?? 0} user events`;

function mergeLines(answer: MergeEntitiesResponse, isPreview: boolean): string[] {
  const { entity, secondary, mergeId, conflicts } = answer;
  const done = isPreview ? "would merge" : "merged";
  return [
    `${done} ${secondary?.id} into ${entity?.id}${mergeId === "" ? "" : `, merge ${mergeId}`}`,
    ...conflicts.map(({ path, primaryValue, secondaryValue, kept }) => {
      const [first, second] = [shown(primaryValue), shown(secondaryValue)];
      if (kept === MergeKept.BOTH) return `conflict ${quoted(path)}: both ${first} and ${second}`;
      const [value, other] = kept === MergeKept.SECONDARY ? [second, first] : [first, second];
      return `conflict ${quoted(path)}: ${value}, not ${other}`;
    }),
    rowsLine(answer),
  ];
}

function unmergeLines(answer: UnmergeEntitiesResponse, isPreview: boolean): string[] {
  const { entity, secondary, kept, returned, lost, carried, distinctId } = answer;
  return [
    `${isPreview ? "would part" : "parted"} ${secondary?.id} from ${entity?.id}`,
    ...kept.map(
      ({ path, survivorValue, secondaryValue }) =>
        `edited since ${quoted(path)}: ${shown(survivorValue)} stays with ${entity?.id}, not ${shown(secondaryValue)}`,
    ),
    ...carried.map((path) => `carried ${path}: ${secondary?.id} has it from ${entity?.id}`),
    ...returned.map((externalId) => `returned ${quoted(externalId)}`),
    ...lost.map(
      ({ externalId, cause }) => `lost ${quoted(externalId)}: ${LostExternalIdCauseSchema.value[cause]?.localName}`,
    ),
    rowsLine(answer),
    ...(distinctId === "" ? [] : [`marked as distinct, ${distinctId}`]),
  ];
}
