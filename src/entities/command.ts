// One write to an entity, as the RPCs say it, and what becomes of it.
import type { Change, EntityState } from "../domain/entity-state.ts";
import type { DomainError } from "../domain/errors.ts";
import type { ExternalIdPolicy } from "../domain/external-ids.ts";
import type { Lookup } from "../domain/lookup.ts";
import type { Instant } from "../domain/time.ts";
import type { RequestKey } from "./requests.ts";

/** Who writes: from the credentials and the headers of the call. */
export interface Author {
  /** The API key. */
  principal: string;
  /** The user that the caller names, else the API key. */
  actor: string;
  source: string;
}

/** What a rule may know beside the entity. */
export interface World {
  /** Strictly after the entity's updatedAt, and after the command before. */
  now: Instant;
  policy: ExternalIdPolicy;
}

/** One write to one entity. */
export interface Command {
  author: Author;
  /** Which entity; absent: none, the rule makes one. */
  lookup?: Lookup;
  /** Decide on null when the lookup finds none, instead of NOT_FOUND. */
  allowMissing?: boolean;
  etag?: string | undefined;
  /** External ids that the rule may attach: whose they are is read with the entity. */
  claims?: readonly string[];
  /** Where in the request a claim stands, for DUPLICATE_EXTERNAL_ID. */
  claimField?: (externalId: string) => { field: string; index?: string };
  /** Refuse when another live entity has the tax id after the change. */
  uniqueTaxIdKey?: string | undefined;
  occurredAt?: Instant | undefined;
  /** Makes the write safe to retry: `answer` of the first outcome is kept and replayed. */
  request?: (Omit<RequestKey, "principal"> & { answer: (outcome: Outcome) => Uint8Array }) | undefined;
  /** Aborted, the command takes part in no transaction that begins after that. */
  signal?: Pick<AbortSignal, "aborted" | "reason"> | undefined;
  /** The rule: pure, since it may run more than once. */
  decide: (entity: EntityState | null, world: World) => Change | null;
}

/** What became of a command: the states around it (equal when nothing changed), read under one lock. */
export interface Outcome {
  before: EntityState | null;
  after: EntityState;
  updatedFields: readonly string[];
}

export type Result =
  | { kind: "done"; outcome: Outcome }
  | { kind: "replayed"; answer: Uint8Array }
  | { kind: "refused"; error: DomainError }
  /** Failed with its transaction: the database, the commit, the caller's signal, a defect. */
  | { kind: "failed"; error: unknown };
