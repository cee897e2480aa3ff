// `administration`: who made or revoked a key, an endpoint, changed an organization.
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { AdministrationEventTypeSchema, type EntityClient } from "../../clients/typescript/index.ts";
import { CALL } from "./connection.ts";

/** One act a line, newest first. */
export async function listAdministration(
  client: EntityClient,
  { organizationId, limit }: { organizationId: string; limit: number },
): Promise<void> {
  let [pageToken, left] = ["", limit];
  do {
    const pageSize = Math.min(left, 1000);
    const page = await client.organizations.listAdministrationEvents({ organizationId, pageSize, pageToken }, CALL);
    for (const event of page.events) {
      const columns = [
        event.recordedAt && timestampDate(event.recordedAt).toISOString(),
        AdministrationEventTypeSchema.value[event.type]?.localName,
        event.subjectId,
        // An actor is a claim of the caller's.
        `by ${JSON.stringify(event.actor)} with key ${event.principal}`,
        event.peer && `from ${event.peer}`,
        JSON.stringify({ before: event.previousValues, after: event.newValues }),
      ];
      process.stdout.write(`${columns.filter((column) => column).join("  ")}\n`);
    }
    left -= page.events.length;
    pageToken = page.nextPageToken;
  } while (pageToken !== "" && left > 0);
}
