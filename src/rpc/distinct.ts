// EntityService: note of two entities that they are different, lift that, and list it.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  EntityService,
  type LiftDistinctRequest,
  type MarkDistinctRequest,
} from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import type { DistinctPairSchema } from "../../clients/typescript/gen/entity/v1/merge_pb.ts";
import type { Pipeline } from "../db/statements.ts";
import { newId } from "../db/uuid.ts";
import { liftDistinct, markDistinct } from "../domain/distinct.ts";
import type { EntityState } from "../domain/entity-state.ts";
import type { Instant } from "../domain/time.ts";
import type { Command, Outcome } from "../entities/command.ts";
import {
  type DistinctPair,
  findDistinct,
  listDistinct,
  ordered,
  recordDistinct,
  recordLifted,
} from "../entities/distinct.ts";
import { toProto } from "./entity-message.ts";
import { closePage, openPage, whole } from "./page.ts";
import { parseLookup, parseReason, toTimestamp } from "./request.ts";
import { Violations } from "./violations.ts";
import { type Deps, existing, findEntityId, organizationOf, parseWrite, readInTurn, writeSeveral } from "./write.ts";

export function distinctRpcs(deps: Deps) {
  return {
    async markDistinct(request, ctx) {
      const { command, present } = changeOf(request, {
        decide: markDistinct,
        after: (pair, at, eventId) => ({ ...pair, markedAt: at, markEventId: eventId }),
        record: recordDistinct,
      });
      return writeSeveral(deps, ctx, { method: EntityService.method.markDistinct, request }, command, present);
    },

    async liftDistinct(request, ctx) {
      const { command, present } = changeOf(request, {
        decide: liftDistinct,
        after: (pair, liftedAt, liftEventId) => ({ ...pair, liftedAt, liftEventId }),
        record: recordLifted,
      });
      return writeSeveral(deps, ctx, { method: EntityService.method.liftDistinct, request }, command, present);
    },

    async listDistinct(request, ctx) {
      const lookup = parseLookup(request.lookup);
      const organizationId = organizationOf(ctx);
      const page = openPage(EntityService.method.listDistinct, request, {
        organizationId,
        cursor: { markedAt: "instant", id: "id" },
      });
      const entityId = await findEntityId(deps, ctx, lookup);
      const pairs = await readInTurn(deps, ctx, organizationId, (em) =>
        listDistinct(em, organizationId, entityId, { before: page.cursor, rows: page.bound.rows }),
      );
      const { items, nextPageToken } = closePage(page, whole(pairs), {
        present: pairToProto,
        cursorOf: ({ markedAt, id }) => ({ markedAt, id }),
      });
      return { pairs: items, nextPageToken };
    },
  } satisfies Partial<ServiceImpl<typeof EntityService>>;
}

/** What the two RPCs differ in. */
interface Verb {
  decide: typeof markDistinct;
  /** The mark once it was made or lifted, by the event. */
  after: (pair: DistinctPair, at: Instant, eventId: string) => DistinctPair;
  record: (db: Pipeline, organizationId: string, pair: DistinctPair) => void;
}

/** A write to both entities, and the mark beside it. */
function changeOf(request: MarkDistinctRequest | LiftDistinctRequest, { decide, after, record }: Verb) {
  const [first, second] = [parseLookup(request.first, "first"), parseLookup(request.second, "second")];
  const violations = new Violations();
  const reason = parseReason(request.reason, violations, true);
  const { etag, requestId, occurredAt } = parseWrite(request, violations);
  violations.throwIfAny();
  const secondEtag = request.secondEtag === "" ? undefined : request.secondEtag;
  const distinctId = newId();
  let named: [string, string] = ["", ""];
  let marked: DistinctPair | undefined;
  let pair: DistinctPair | undefined;
  const command: Omit<Command, "author" | "request"> & { requestId: string | undefined } = {
    ...{ requestId, occurredAt },
    targets: [
      { lookup: first, etag, field: "first" },
      { lookup: second, etag: secondEtag, field: "second" },
    ],
    decide: (entities) => {
      const [firstId, secondId] = named;
      return decide(
        entities.map(existing) as [EntityState, EntityState],
        { distinctId: marked?.id ?? distinctId, firstId, secondId, reason },
        marked !== undefined,
      );
    },
    alone: {
      async prepare(db, organizationId, { entities, redirectedFrom }) {
        [marked, pair] = [undefined, undefined];
        const [a, b] = entities.map((entity, i) => (redirectedFrom[i] || entity?.id) ?? "");
        if (!a || !b) return;
        named = [a, b];
        marked = await findDistinct(db, organizationId, ordered(a, b));
        pair = marked;
      },
    },
    record(db, organizationId, [outcome]) {
      if (outcome === undefined || outcome.before === outcome.after) return;
      const { updatedAt, etag: eventId } = outcome.after;
      const before = marked ?? {
        ...{ organizationId, id: distinctId, ...ordered(...named) },
        ...{ markedAt: updatedAt, markEventId: eventId, liftedAt: null, liftEventId: null },
      };
      pair = after(before, updatedAt, eventId);
      record(db, organizationId, pair);
    },
  };
  const present = (outcomes: readonly Outcome[]) => {
    const [one, other] = outcomes as [Outcome, Outcome];
    const isNew = marked === undefined && request.validateOnly;
    return {
      changed: one.before !== one.after,
      pair: pair && pairToProto(isNew ? { ...pair, id: "" } : pair),
      first: toProto(one.after),
      second: toProto(other.after),
    };
  };
  return { command, present };
}

function pairToProto({
  id,
  lowId,
  highId,
  markedAt,
  liftedAt,
}: DistinctPair): MessageInitShape<typeof DistinctPairSchema> {
  return {
    ...{ id, firstId: lowId, secondId: highId, markedAt: toTimestamp(markedAt) },
    liftedAt: liftedAt === null ? undefined : toTimestamp(liftedAt),
  };
}
