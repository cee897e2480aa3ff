// The requests, the outcome of each attempt, and the answers: the run judges the service by this alone.
import type { Organization } from "./organization.ts";
import type { Service } from "./service.ts";

export type Method =
  | "CreateEntity"
  | "UpdateEntity"
  | "ChangeExternalId"
  | "DeleteEntity"
  | "UndeleteEntity"
  | "MergeEntities"
  | "UnmergeEntities"
  | "RecordTransactions"
  | "RecordUserEvents"
  | "ImportEntities";

/** How many events each of them leaves that changes something. */
export const eventsOf = (method: Method): number =>
  method === "MergeEntities" || method === "UnmergeEntities" ? 2 : 1;

export interface Attempt {
  service: Service;
  began: number;
  ended: number;
  /** "OK", the reason of a refusal, or what the client said where there was none. */
  outcome: string;
}

export interface Intent {
  organization: Organization;
  method: Method;
  /** Empty: the call is made once, and its outcome may stay unknown. */
  requestId: string;
  /** In the values that it writes, and in no others. */
  token: string;
  entityId: string | undefined;
  externalId?: string;
  isRehearsal: boolean;
  attempts: Attempt[];
  answer: Answer | undefined;
  /** The reason of the final refusal. */
  refused: string | undefined;
}

export interface Answer {
  entityId: string;
  /** The entity's, in microseconds since 1970. */
  updatedAt: bigint;
  changed: boolean;
}

/** Attempts after which the outcome of the write is unknown. */
const UNKNOWN = new Set(["COMMIT_UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "CANCELLED", "lost", "late"]);
export const wasUnknown = ({ attempts }: Intent): boolean => attempts.some(({ outcome }) => UNKNOWN.has(outcome));

/** A write as the world saw it. */
export interface Write {
  service: Service;
  organization: Organization;
  method: string;
  began: number;
  ended: number;
  isDone: boolean;
  isRehearsal: boolean;
}

export interface Journal {
  intents: Intent[];
  writes: Write[];
  reads: number;
  /** Reasons and how often. */
  outcomes: Map<string, number>;
}

export const createJournal = (): Journal => ({ intents: [], writes: [], reads: 0, outcomes: new Map() });
