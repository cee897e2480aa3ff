// `tax-ids recheck`: what is stored of tax ids, computed anew by the rules of this version.
import type { Command } from "commander";
import {
  type EntityClient,
  type RecheckTaxIdsResponse,
  type TaxIdChange,
  TaxIdCheckSchema,
} from "../../clients/typescript/index.ts";
import { LIMITS } from "../domain/limits.ts";
import { CALL } from "./connection.ts";
import { RECHECK_HELP } from "./help.ts";

export function addTaxIds(program: Command, connect: () => EntityClient): void {
  program
    .command("tax-ids")
    .description("what tax ids are looked up by, and their checks")
    .command("recheck")
    .description("tell which of them are different by the rules of this version")
    .option("--apply", "write what is different", false)
    .addHelpText("after", RECHECK_HELP)
    .action(({ apply }: { apply: boolean }) => recheckTaxIds(connect(), apply));
}

/**
 * Checks as they come; who shares a tax id with whom once all are known, then how many it is of each. All of that before
 * anything is written: the next time it could not be told any more.
 */
async function recheckTaxIds(client: EntityClient, apply: boolean): Promise<void> {
  const changes: Difference[] = [];
  let [entities, checks] = [0, 0];
  await eachStep(client, false, (step) => {
    for (const { entityId, previousTaxIdCheck, taxIdCheck, ...difference } of step.changes) {
      const { keys, previousKeys, holders, previousHolders } = difference;
      changes.push({ entityId, keys, previousKeys, holders, previousHolders });
      if (previousTaxIdCheck === taxIdCheck) continue;
      checks++;
      print(entityId, `check ${checkName(previousTaxIdCheck)} -> ${checkName(taxIdCheck)}`);
    }
    entities += step.entities;
  });
  const { sharing, parting } = partnersOf(changes);
  for (const [id, partners] of sharing) print(id, "shares its tax id with", ...partners);
  for (const [id, partners] of parting) print(id, "no longer shares its tax id with", ...partners);
  if (apply) await eachStep(client, true, () => {});
  const keys = changes.filter(({ previousKeys, keys }) => keys.length === 0 || !isSame(previousKeys, keys)).length;
  process.stdout.write(
    `${apply ? "" : "nothing written: "}entities ${entities}, keys ${keys}, checks ${checks}, ` +
      `sharing ${sharing.size}, parting ${parting.size}\n`,
  );
}

async function eachStep(
  client: EntityClient,
  apply: boolean,
  tell: (step: RecheckTaxIdsResponse) => void,
): Promise<void> {
  let afterEntityId = "";
  do {
    const step = await client.entities.recheckTaxIds({ apply, afterEntityId }, CALL);
    tell(step);
    afterEntityId = step.lastEntityId;
  } while (afterEntityId !== "");
}

type Difference = Pick<TaxIdChange, "entityId" | "keys" | "previousKeys" | "holders" | "previousHolders">;

const print = (...words: string[]) => process.stdout.write(`${words.join("  ")}\n`);
const checkName = (check: TaxIdChange["taxIdCheck"]) => TaxIdCheckSchema.value[check]?.localName ?? "";

const texts = (digests: readonly Uint8Array[]) => digests.map((digest) => Buffer.from(digest).toString("base64"));
const isSame = (first: readonly Uint8Array[], second: readonly Uint8Array[]) =>
  texts(first).join() === texts(second).join();

interface Partners {
  /** By entity, those with which it comes to share a key, or has one no more. */
  sharing: Map<string, string[]>;
  parting: Map<string, string[]>;
}

/**
 * Who has a key in common before and after. Entities that change are compared by their digests, in whichever step they
 * came: what the service found of them is of the time of one step.
 */
export function partnersOf(changes: readonly Difference[]): Partners {
  const changed = new Set(changes.map(({ entityId }) => entityId));
  const before = byDigest(changes, ({ previousKeys }) => previousKeys);
  const after = byDigest(changes, ({ keys }) => keys);
  const partners: Partners = { sharing: new Map(), parting: new Map() };
  for (const { entityId, previousKeys, keys, previousHolders, holders } of changes) {
    const others = (index: Map<string, string[]>, digests: readonly Uint8Array[], found: readonly string[]) =>
      new Set([
        ...texts(digests).flatMap((digest) => (index.get(digest) ?? []).filter((id) => id !== entityId)),
        ...found.filter((id) => !changed.has(id)),
      ]);
    const old = others(before, previousKeys, previousHolders);
    const now = others(after, keys, holders);
    const sharing = [...now.difference(old)].sort();
    // The service names so many: one more may have come between them.
    const isCut = holders.length >= LIMITS.candidates;
    const parting = isCut ? [] : [...old.difference(now)].sort();
    if (sharing.length > 0) partners.sharing.set(entityId, sharing);
    if (parting.length > 0) partners.parting.set(entityId, parting);
  }
  return partners;
}

function byDigest(
  changes: readonly Difference[],
  digestsOf: (change: Difference) => readonly Uint8Array[],
): Map<string, string[]> {
  const index = new Map<string, string[]>();
  for (const change of changes) {
    for (const digest of texts(digestsOf(change))) {
      const ids = index.get(digest) ?? [];
      index.set(digest, ids);
      ids.push(change.entityId);
    }
  }
  return index;
}
