// `external-ids`: who had one when, and the release of one that is no longer used.
import { timestampDate } from "@bufbuild/protobuf/wkt";
import type { Command } from "commander";
import { type EntityClient, ExternalIdDetachCauseSchema } from "../../clients/typescript/index.ts";
import { ConfigError } from "../config.ts";
import { positive } from "./arguments.ts";
import { CALL } from "./connection.ts";
import { quoted } from "./read.ts";

export function addExternalIds(program: Command, connect: () => EntityClient): void {
  const externalIds = program.command("external-ids").description("who had an external id when; release one");
  externalIds
    .command("history")
    .description("print which entities had an external id, or which ids an entity had, newest first")
    .argument("[external-id]", "the external id")
    .option("--id <uuid>", "instead: of the entity with this id")
    .option("--limit <n>", "how many at most", positive, 100)
    .action(async (externalId: string | undefined, { id, limit }: { id?: string; limit: number }) => {
      if ((externalId === undefined) === (id === undefined)) throw new ConfigError("give an external id, or --id UUID");
      await printHistory(connect(), id === undefined ? { externalId: externalId ?? "" } : { entityId: id }, limit);
    });
  externalIds
    .command("release")
    .description("detach an alias from its entity, so that another one may have it")
    .argument("<external-id>", "the alias; of a deleted entity any external id")
    .requiredOption("--reason <text>", "why: at least 5 characters")
    .option("--force", "although it may be in use", false)
    .option("--dry-run", "check, and change nothing", false)
    .action(async (externalId: string, options: { reason: string; force: boolean; dryRun: boolean }) =>
      releaseExternalId(connect(), { externalId, ...options }),
    );
}

/** A period a line, newest first: of an external id, or of all those of an entity. */
async function printHistory(
  client: EntityClient,
  of: { externalId: string } | { entityId: string },
  limit: number,
): Promise<void> {
  const query =
    "entityId" in of
      ? { lookup: { by: { case: "entityId" as const, value: of.entityId } } }
      : { externalId: of.externalId };
  let [pageToken, left] = ["", limit];
  do {
    const page = await client.entities.listExternalIdHistory(
      { ...query, pageSize: Math.min(left, 1000), pageToken },
      CALL,
    );
    for (const { externalId, entityId, type, attachedAt, detachedAt, cause } of page.periods) {
      const columns = [
        attachedAt && timestampDate(attachedAt).toISOString(),
        detachedAt === undefined ? "until now" : `until ${timestampDate(detachedAt).toISOString()}`,
        quoted(externalId),
        entityId,
        type && `type ${quoted(type)}`,
        detachedAt && ExternalIdDetachCauseSchema.value[cause]?.localName,
      ];
      process.stdout.write(`${columns.filter((column) => column).join("  ")}\n`);
    }
    left -= page.periods.length;
    pageToken = page.nextPageToken;
  } while (pageToken !== "" && left > 0);
}

async function releaseExternalId(
  client: EntityClient,
  { externalId, reason, force, dryRun }: { externalId: string; reason: string; force: boolean; dryRun: boolean },
): Promise<void> {
  const { entity } = await client.entities.releaseExternalId(
    {
      lookup: { by: { case: "externalId", value: externalId } },
      ...{ externalId, reason, force, validateOnly: dryRun },
    },
    CALL,
  );
  process.stdout.write(`${dryRun ? "would release" : "released"} ${quoted(externalId)} of ${entity?.id}\n`);
}
