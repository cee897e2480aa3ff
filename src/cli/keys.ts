// `keys`: make, list and revoke API keys.
import { type Timestamp, timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { EntityClient } from "../../clients/typescript/index.ts";
import { CALL } from "./connection.ts";

/** Makes a key. Its secret alone goes to standard output, once. */
export async function createKey(
  client: EntityClient,
  options: { name: string; scopes: string[]; organizationId: string; expiresAt: Date | undefined },
): Promise<void> {
  const { apiKey, secret } = await client.organizations.createApiKey(
    {
      organizationId: options.organizationId,
      displayName: options.name,
      scopes: options.scopes,
      ...(options.expiresAt === undefined ? {} : { expiresAt: timestampFromDate(options.expiresAt) }),
    },
    CALL,
  );
  process.stderr.write(`made key ${apiKey?.id}; its secret is shown once:\n`);
  process.stdout.write(`${secret}\n`);
}

/** One key a line, revoked ones too; never a secret. */
export async function listKeys(client: EntityClient, organizationId: string): Promise<void> {
  let pageToken = "";
  do {
    const page = await client.organizations.listApiKeys({ organizationId, pageSize: 1000, pageToken }, CALL);
    for (const key of page.apiKeys) {
      const state = [
        key.revokedAt && `revoked ${day(key.revokedAt)}`,
        key.expiresAt &&
          `${timestampDate(key.expiresAt).getTime() < Date.now() ? "expired" : "expires"} ${day(key.expiresAt)}`,
      ].filter((part) => part !== undefined);
      const columns = [
        key.id,
        JSON.stringify(key.displayName),
        key.scopes.join(","),
        key.createdAt && `created ${day(key.createdAt)}`,
        ...state,
      ];
      process.stdout.write(`${columns.join("  ")}\n`);
    }
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
}

export async function revokeKey(client: EntityClient, apiKeyId: string, organizationId: string): Promise<void> {
  const { changed } = await client.organizations.revokeApiKey({ apiKeyId, organizationId }, CALL);
  process.stdout.write(changed ? `revoked ${apiKeyId}\n` : `${apiKeyId} was revoked before\n`);
}

const day = (time: Timestamp): string => timestampDate(time).toISOString().slice(0, 10);
