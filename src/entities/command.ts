// One write to entities, as the RPCs say it, and what becomes of it.
import type { Pipeline } from "../db/statements.ts";
import type { Change, EntityState, Layer } from "../domain/entity-state.ts";
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

/** What a rule may know beside the entities. */
export interface World {
  /** Strictly after the updatedAt of each of them, and after the command before. */
  now: Instant;
  /** Undefined unless the command needs it. */
  policy: ExternalIdPolicy | undefined;
  /** Of each target: the merged entity that its lookup named, else "". */
  redirectedFrom: readonly string[];
}

/** For the rule of a command that needs it. */
export function policyOf({ policy }: World): ExternalIdPolicy {
  if (policy === undefined)
    throw new Error("a rule asks for the policy, and its command does not say that it needs it");
  return policy;
}

/** An entity that a command names. */
export interface Target {
  lookup: Lookup;
  /** Decide on null when the lookup finds none, instead of NOT_FOUND. */
  allowMissing?: boolean | undefined;
  /** Refuse with ETAG_MISMATCH unless the entity has this one. */
  etag?: string | undefined;
  /** Where in the request it is named, for refusals, where the request names several. */
  field?: string | undefined;
  /** The lookup is the id of the entity itself, also where that was merged into another one. */
  isRow?: boolean | undefined;
}

/** What a command names, under its locks. */
export interface LockedTargets {
  entities: readonly (EntityState | null)[];
  /** As in World. */
  redirectedFrom: readonly string[];
  /** Of the survivors among the entities, by their ids. */
  layers: ReadonlyMap<string, Layer>;
}

/** What a command needs that cannot share its transaction. */
export interface Alone {
  /** Reads what the rule needs beside the locked entities. Runs again with the command. */
  prepare: (db: Pipeline, organizationId: string, locked: LockedTargets) => Promise<void>;
}

/** One write: to the entities that it names, locked together, or to one that it makes. */
export interface Command {
  author: Author;
  targets: readonly Target[];
  /** External ids that the rule may attach: their owners are read with the entities. */
  claims?: readonly string[] | undefined;
  /** Where in the request a claim stands, for DUPLICATE_EXTERNAL_ID. */
  claimField?: ((externalId: string) => { field: string; index?: string }) | undefined;
  /** Refuse when another live entity has the tax id after the change. */
  uniqueTaxIdKey?: string | undefined;
  /** Whether the rule asks for the organization's policy. */
  needsPolicy?: boolean | undefined;
  occurredAt?: Instant | undefined;
  /** Kept in its events, where the request is not its own. */
  requestId?: string | undefined;
  /** Runs in a transaction of its own, in which it may attach any external id. */
  alone?: Alone | undefined;
  /** Writes what belongs to the changes beside the entities, once these are on their way. */
  record?: ((db: Pipeline, organizationId: string, outcomes: readonly Outcome[]) => void) | undefined;
  /** Its events are written in the reverse order of its targets: whoever applies them one by one sees no id twice. */
  isReversed?: boolean | undefined;
  /** Makes the write safe to retry: `answer` of the first outcomes is kept and replayed. */
  request?: (Omit<RequestKey, "principal"> & { answer: (outcomes: readonly Outcome[]) => Uint8Array }) | undefined;
  /** Told of each target that is there, whatever becomes of the command; more than once if it runs again. */
  named?: ((lookup: Lookup, entity: EntityState) => void) | undefined;
  /** Of its request: what is much shares a transaction with little else. */
  bytes?: number | undefined;
  /** Aborted, the command takes part in no transaction that begins after that. */
  signal?: Pick<AbortSignal, "aborted" | "reason"> | undefined;
  /**
   * The rule: pure, since it may run more than once. Takes the state of each target and returns its change, in order;
   * null: not there, or unchanged. A change of a target that is not there, or after those of the targets, makes an
   * entity. Each change has its event; those of one command have one time.
   */
  decide: (entities: readonly (EntityState | null)[], world: World) => readonly (Change | null)[];
}

/** A write to one entity, or one that makes it: most are. */
export interface OneEntityCommand extends Omit<Command, "targets" | "request" | "decide">, Omit<Target, "lookup"> {
  /** Absent: the rule makes one. */
  lookup?: Lookup | undefined;
  request?: (Omit<RequestKey, "principal"> & { answer: (outcome: Outcome) => Uint8Array }) | undefined;
  decide: (entity: EntityState | null, world: World) => Change | null;
}

export function toOneEntity(command: OneEntityCommand): Command {
  const { lookup, allowMissing, etag, decide, request, ...rest } = command;
  return {
    ...rest,
    targets: lookup === undefined ? [] : [{ lookup, allowMissing, etag }],
    request: request && { ...request, answer: (outcomes) => request.answer(onlyOutcome(outcomes)) },
    decide: ([entity = null], world) => [decide(entity, world)],
  };
}

/** What became of the one entity of a command. */
export function onlyOutcome([outcome]: readonly Outcome[]): Outcome {
  if (outcome === undefined) throw new Error("a command of one entity has no outcome");
  return outcome;
}

/** What became of one entity of a command: the states around it (equal when nothing changed), read under one lock. */
export interface Outcome {
  before: EntityState | null;
  after: EntityState;
  updatedFields: readonly string[];
  /** Rule 79: the merged entity that the lookup named, where `after` is its survivor; else "". */
  redirectedFrom: string;
}

/** One entity of a command, before and after its change; the same state where there is none. */
export interface Move {
  before: EntityState | null;
  after: EntityState;
  change: Change | null;
}

export type Result =
  /** An outcome for each target that is there, then for each entity that was made. */
  | { kind: "done"; outcomes: readonly Outcome[] }
  | { kind: "replayed"; answer: Uint8Array }
  | { kind: "refused"; error: DomainError }
  /** Failed with its transaction: the database, the commit, the caller's signal, a defect. */
  | { kind: "failed"; error: unknown };
