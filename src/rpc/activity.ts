// ActivityService: transactions and user events, whose copies of the external id follow the entity's.
import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type {
  Party,
  Transaction,
  TransactionSchema,
  UserEvent,
  UserEventSchema,
} from "../../clients/typescript/gen/entity/v1/activity_pb.ts";
import { ActivityService, RecordOutcome } from "../../clients/typescript/gen/entity/v1/activity_service_pb.ts";
import type { EntityLookup } from "../../clients/typescript/gen/entity/v1/entity_pb.ts";
import type { Part } from "../db/bytes.ts";
import { newId } from "../db/uuid.ts";
import { countryCodeProblem, parseCountryCode } from "../domain/country.ts";
import { invalidField } from "../domain/errors.ts";
import { LIMITS } from "../domain/limits.ts";
import type { Lookup } from "../domain/lookup.ts";
import { identifierProblem, nameProblem, textProblem, trim } from "../domain/text.ts";
import type { Instant } from "../domain/time.ts";
import * as activity from "../entities/activity.ts";
import { contentHash, holdParties, isSame, shownParty, storedParty } from "../entities/parties.ts";
import { closePage, openPage } from "./page.ts";
import { fromTimestamp, invalidLookup, parseLookup, parseOptionalUuid, toTimestamp } from "./request.ts";
import { Violations } from "./violations.ts";
import { type Deps, findEntityId, idempotent, organizationOf, readInTurn } from "./write.ts";

export function activityRpcs(deps: Deps) {
  return {
    async recordTransactions(request, ctx) {
      const violations = new Violations();
      if (request.transactions.length < 1) violations.add("transactions", "must have at least 1 item");
      const rows = request.transactions.map((item, i) => parseTransaction(item, `transactions[${i}]`, violations));
      refuseTwice(
        rows.map((row) => row.externalId),
        (i) => `transactions[${i}].external_id`,
        violations,
      );
      const requestId = parseOptionalUuid(request.requestId, "request_id", violations);
      violations.throwIfAny();

      return idempotent(
        deps,
        ctx,
        { method: ActivityService.method.recordTransactions, request, requestId },
        async (em) => {
          const organizationId = organizationOf(ctx);
          const parties = rows.flatMap((row, i) => [
            { lookup: row.origin.lookup, field: `transactions[${i}].origin`, index: i },
            { lookup: row.destination.lookup, field: `transactions[${i}].destination`, index: i },
          ]);
          const entities = await holdParties(em, organizationId, parties, deps.aliasUse);
          const recorded = rows.map(({ origin, destination, ...row }, i) => {
            const [from, to] = [entities[2 * i], entities[2 * i + 1]];
            const rest = { ...row, id: newId() };
            const stored = { ...rest, origin: storedParty(origin, from), destination: storedParty(destination, to) };
            const shown = { ...rest, origin: shownParty(origin, from), destination: shownParty(destination, to) };
            return { stored: { ...stored, contentHash: contentHash(stored) }, shown };
          });
          const existing = await activity.insertTransactions(
            em,
            organizationId,
            recorded.map(({ stored }) => stored),
          );
          return {
            results: recorded.map(({ stored, shown }, i) => {
              const old = stored.externalId === null ? undefined : existing.get(stored.externalId);
              if (old === undefined) {
                return { transaction: transactionToProto(shown), outcome: RecordOutcome.CREATED };
              }
              if (!isSame(old, stored, shown)) {
                throw invalidField(
                  `transactions[${i}].external_id`,
                  "is that of a transaction with other content: transactions do not change",
                  { index: String(i) },
                );
              }
              return { transaction: transactionToProto(old), outcome: RecordOutcome.UNCHANGED };
            }),
          };
        },
      );
    },

    async listTransactions(request, ctx) {
      const { items, nextPageToken } = await listOf(deps, ctx, ActivityService.method.listTransactions, request, {
        read: activity.listTransactions,
        present: transactionToProto,
        timeOf: ({ transactedAt }) => transactedAt,
      });
      return { transactions: items, nextPageToken };
    },

    async recordUserEvents(request, ctx) {
      const violations = new Violations();
      if (request.userEvents.length < 1) violations.add("user_events", "must have at least 1 item");
      const rows = request.userEvents.map((item, i) => parseUserEvent(item, `user_events[${i}]`, violations));
      const requestId = parseOptionalUuid(request.requestId, "request_id", violations);
      violations.throwIfAny();

      return idempotent(
        deps,
        ctx,
        { method: ActivityService.method.recordUserEvents, request, requestId },
        async (em) => {
          const organizationId = organizationOf(ctx);
          const parties = rows.map(({ lookup }, index) => ({ lookup, field: `user_events[${index}]`, index }));
          const entities = await holdParties(em, organizationId, parties, deps.aliasUse);
          const recorded = rows.map(({ lookup: _, ...row }, i) => {
            const entity = entities[i];
            if (entity === undefined) throw new Error("a user event has no entity");
            const { home, copy, id, externalId } = entity;
            const rest = { ...row, id: newId() };
            return {
              stored: { ...rest, entityId: home, entityExternalId: copy },
              shown: { ...rest, entityId: id, entityExternalId: externalId },
            };
          });
          await activity.insertUserEvents(
            em,
            organizationId,
            recorded.map(({ stored }) => stored),
          );
          return { userEvents: recorded.map(({ shown }) => userEventToProto(shown)) };
        },
      );
    },

    async listUserEvents(request, ctx) {
      const { items, nextPageToken } = await listOf(deps, ctx, ActivityService.method.listUserEvents, request, {
        read: activity.listUserEvents,
        present: userEventToProto,
        timeOf: ({ occurredAt }) => occurredAt,
      });
      return { userEvents: items, nextPageToken };
    },
  } satisfies ServiceImpl<typeof ActivityService>;
}

/** A page of the activity of the entity that the request looks up, newest first. */
async function listOf<I extends DescMessage, Row extends { id: string }, Item extends object>(
  deps: Deps,
  ctx: HandlerContext,
  method: DescMethodUnary<I>,
  request: MessageShape<I> & { lookup?: EntityLookup; pageSize: number; pageToken: string },
  list: {
    read: (...args: Parameters<typeof activity.listTransactions>) => Promise<Part<Row>>;
    present: (row: Row) => Item;
    timeOf: (row: Row) => Instant;
  },
) {
  const lookup = parseLookup(request.lookup);
  const organizationId = organizationOf(ctx);
  const page = openPage(method, request, { organizationId, cursor: { at: "instant", id: "id" } });
  const entityId = await findEntityId(deps, ctx, lookup);
  const rows = await readInTurn(deps, ctx, organizationId, (em) =>
    list.read(em, organizationId, entityId, page.cursor, page.bound),
  );
  return closePage(page, rows, {
    present: list.present,
    cursorOf: (row) => ({ at: list.timeOf(row), id: row.id }),
  });
}

// --- Requests -----------------------------------------------------------------------------------

interface ParsedParty {
  lookup: Lookup | undefined;
  name: string | null;
  country: string | null;
}

function refuseTwice(
  values: readonly (string | null)[],
  field: (index: number) => string,
  violations: Violations,
): void {
  const seen = new Set<string>();
  values.forEach((value, i) => {
    if (value === null) return;
    if (seen.has(value)) violations.add(field(i), "is listed twice");
    seen.add(value);
  });
}

/** A decimal as the contract has it: an optional sign, up to 20 digits, up to 10 places; no exponent. */
const AMOUNT = /^[+-]?\d{1,20}(\.\d{1,10})?$/;

function parseTransaction(item: Transaction, at: string, violations: Violations) {
  const externalId = trim(item.externalId);
  if (externalId !== "") violations.check(`${at}.external_id`, identifierProblem(externalId));
  required(item.type, `${at}.type`, violations);
  violations.check(`${at}.status`, textProblem(item.status, { max: LIMITS.string }));
  if (!AMOUNT.test(item.amount)) {
    violations.add(`${at}.amount`, "must be a decimal such as 1250.00: at most 20 digits and 10 places");
  }
  if (!/^[A-Za-z]{3}$/.test(item.currency)) violations.add(`${at}.currency`, "must be three letters, ISO 4217");
  if (item.transactedAt === undefined) violations.add(`${at}.transacted_at`, "is required");
  return {
    externalId: externalId === "" ? null : externalId,
    type: item.type,
    status: item.status === "" ? null : item.status,
    amount: item.amount,
    currency: item.currency.toUpperCase(),
    origin: parseParty(item.origin, `${at}.origin`, violations),
    destination: parseParty(item.destination, `${at}.destination`, violations),
    transactedAt: item.transactedAt === undefined ? 0n : fromTimestamp(item.transactedAt),
    details: item.details ?? null,
  };
}

function parseParty(party: Party | undefined, at: string, violations: Violations): ParsedParty {
  if (party === undefined) return { lookup: undefined, name: null, country: null };
  if (party.name !== "") violations.check(`${at}.name`, nameProblem(party.name));
  if (party.country !== "") violations.check(`${at}.country`, countryCodeProblem(party.country));
  const { entityId, externalId, taxId } = party;
  return {
    lookup: parseOneOf({ entityId, externalId, taxId }, at, "external_id"),
    name: party.name === "" ? null : party.name,
    country: parseCountryCode(party.country),
  };
}

function parseUserEvent(item: UserEvent, at: string, violations: Violations) {
  const keys = { entityId: item.entityId, externalId: item.entityExternalId, taxId: item.taxId };
  const lookup = parseOneOf(keys, at, "entity_external_id");
  if (lookup === undefined) throw invalidLookup(at, "must name exactly one of entity_id, entity_external_id, tax_id");
  required(item.eventType, `${at}.event_type`, violations);
  if (item.occurredAt === undefined) violations.add(`${at}.occurred_at`, "is required");
  return {
    lookup,
    eventType: item.eventType,
    occurredAt: item.occurredAt === undefined ? 0n : fromTimestamp(item.occurredAt),
    payload: item.payload ?? null,
  };
}

/** At most one of three plain fields. */
function parseOneOf(
  keys: { entityId: string; externalId: string; taxId: string },
  at: string,
  externalIdName: string,
): Lookup | undefined {
  const given = (Object.entries(keys) as [keyof typeof keys, string][]).filter(([, value]) => value !== "");
  if (given.length > 1) throw invalidLookup(at, "must not name more than one of the entity's keys");
  const [one] = given;
  if (one === undefined) return undefined;
  return parseLookup({ by: { case: one[0], value: one[1] } } as EntityLookup, at, externalIdName);
}

function required(value: string, field: string, violations: Violations): void {
  violations.check(field, trim(value) === "" ? "is required" : textProblem(value, { max: LIMITS.string }));
}

// --- Responses ----------------------------------------------------------------------------------

function transactionToProto(
  row: Omit<activity.StoredTransaction, "contentHash">,
): MessageInitShape<typeof TransactionSchema> {
  const party = ({ entityId, externalId, name, country }: activity.StoredParty) =>
    entityId === null && name === null && country === null
      ? undefined
      : { entityId: entityId ?? "", externalId: externalId ?? "", name: name ?? "", country: country ?? "" };
  return {
    id: row.id,
    externalId: row.externalId ?? "",
    type: row.type,
    status: row.status ?? "",
    amount: row.amount,
    currency: row.currency,
    origin: party(row.origin),
    destination: party(row.destination),
    transactedAt: toTimestamp(row.transactedAt),
    details: row.details ?? undefined,
  };
}

function userEventToProto(row: activity.StoredUserEvent): MessageInitShape<typeof UserEventSchema> {
  return {
    id: row.id,
    entityId: row.entityId,
    entityExternalId: row.entityExternalId ?? "",
    eventType: row.eventType,
    occurredAt: toTimestamp(row.occurredAt),
    payload: row.payload ?? undefined,
  };
}
