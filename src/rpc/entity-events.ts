// EntityService: the events of an entity, or of the organization.
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { EventType } from "../../clients/typescript/gen/entity/v1/entity_event_pb.ts";
import { EntityService, type WatchEntitiesRequest } from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { EVENT_NAMES, type EventType as EventName } from "../domain/entity-state.ts";
import { LIMITS } from "../domain/limits.ts";
import type { Lookup } from "../domain/lookup.ts";
import { textProblem } from "../domain/text.ts";
import { type LoggedEvent, listEvents } from "../log/events.ts";
import type { WatchMessage } from "../log/pages.ts";
import { decodePosition } from "../log/position.ts";
import { paged } from "../paged.ts";
import { typeFromProto, typeToProto } from "./entity-fields.ts";
import { closePage, openPage } from "./page.ts";
import { fromTimestamp, keyOf, parseLookup, parseOptionalUuid, toTimestamp } from "./request.ts";
import { Violations } from "./violations.ts";
import { assertWellFormed } from "./well-formed.ts";
import { type Deps, findEntityId, organizationOf, readInTurn } from "./write.ts";

const TYPES: Record<EventName, EventType> = {
  CREATED: EventType.CREATED,
  ATTRIBUTE_CHANGED: EventType.ATTRIBUTE_CHANGED,
  EXTERNAL_ID_CHANGED: EventType.EXTERNAL_ID_CHANGED,
  DELETED: EventType.DELETED,
  UNDELETED: EventType.UNDELETED,
  MERGED: EventType.MERGED,
  MERGE_RECEIVED: EventType.MERGE_RECEIVED,
  UNMERGED: EventType.UNMERGED,
  MERGE_RETURNED: EventType.MERGE_RETURNED,
  DISTINCT_MARKED: EventType.DISTINCT_MARKED,
  DISTINCT_LIFTED: EventType.DISTINCT_LIFTED,
  EVALUATED: EventType.EVALUATED,
};

export function entityEventRpcs(deps: Deps) {
  const findId = async (ctx: HandlerContext, lookup: Lookup | undefined) =>
    lookup === undefined ? undefined : findEntityId(deps, ctx, lookup);

  async function* watch(
    request: WatchEntitiesRequest,
    ctx: HandlerContext,
  ): AsyncGenerator<readonly WatchMessage[], void> {
    assertWellFormed(EntityService.method.watchEntities.input, request);
    const lookup = request.lookup === undefined ? undefined : parseLookup(request.lookup);
    const violations = new Violations();
    const types = new Set(parseTypes(request.types, violations));
    const entityTypes = new Set(
      request.entityTypes.map((type, i) => {
        const name = typeFromProto(type);
        if (name === undefined) violations.add(`entity_types[${i}]`, "must be a type of entity");
        return name;
      }),
    );
    violations.throwIfAny();
    const organizationId = organizationOf(ctx);
    const position = request.position === "" ? undefined : decodePosition(organizationId, request.position);
    const entityId = await findId(ctx, lookup);

    const filter = {
      name: JSON.stringify([[...types].sort(), [...entityTypes].sort(), entityId]),
      accepts: (event: LoggedEvent) =>
        (types.size === 0 || types.has(event.type)) &&
        (entityTypes.size === 0 || entityTypes.has(event.entityType)) &&
        (entityId === undefined || event.entityId === entityId),
    };
    const isEverything = types.size === 0 && entityTypes.size === 0 && entityId === undefined;
    yield* deps.feed.watch(organizationId, { position, filter: isEverything ? undefined : filter, signal: ctx.signal });
  }

  return {
    async listEntityEvents(request, ctx) {
      const lookup = request.lookup === undefined ? undefined : parseLookup(request.lookup);
      const violations = new Violations();
      const types = parseTypes(request.types, violations);
      violations.check("actor", textProblem(request.actor, { max: LIMITS.actor }));
      const principal = parseOptionalUuid(request.principal, "principal", violations);
      const requestId = parseOptionalUuid(request.requestId, "request_id", violations);
      const organizationId = organizationOf(ctx);
      const page = openPage(EntityService.method.listEntityEvents, request, {
        organizationId,
        cursor: { recordedAt: "instant", id: "id", entityId: "id", entityVersion: "version" },
        violations,
      });

      const entityId = await findId(ctx, lookup);
      const events = await readInTurn(deps, ctx, organizationId, (em) =>
        listEvents(em, organizationId, {
          entityId,
          types,
          actor: request.actor === "" ? undefined : request.actor,
          principal,
          requestId,
          from: request.from === undefined ? undefined : fromTimestamp(request.from),
          to: request.to === undefined ? undefined : fromTimestamp(request.to),
          before: page.cursor,
          bound: page.bound,
        }),
      );
      const { items, nextPageToken } = closePage(page, events, {
        present: eventToProto,
        cursorOf: ({ recordedAt, id, entityId, entityVersion }) => ({
          ...{ recordedAt, id, entityId },
          entityVersion: String(entityVersion),
        }),
      });
      return { events: items, nextPageToken };
    },

    watchEntities: (request, ctx) => paged(watch(request, ctx), deliveryToProto),
  } satisfies Partial<ServiceImpl<typeof EntityService>>;
}

function parseTypes(types: readonly EventType[], violations: Violations): EventName[] {
  return types.map((type, i) => {
    const name = keyOf(TYPES, type);
    if (name === undefined) violations.add(`types[${i}]`, "must be a type of event");
    return name ?? "CREATED";
  });
}

function deliveryToProto({ position, event }: WatchMessage) {
  return event === undefined ? { position } : { position, event: eventToProto(event) };
}

function eventToProto(event: LoggedEvent) {
  return {
    ...event,
    type: TYPES[event.type],
    event: EVENT_NAMES[event.type],
    entityVersion: BigInt(event.entityVersion),
    entityType: typeToProto(event.entityType),
    recordedAt: toTimestamp(event.recordedAt),
    occurredAt: event.occurredAt === null ? undefined : toTimestamp(event.occurredAt),
    externalId: event.externalId ?? "",
    reason: event.reason ?? "",
    requestId: event.requestId ?? "",
    metadata: Object.keys(event.metadata).length === 0 ? undefined : event.metadata,
    salt: event.salt ?? undefined,
    previousHash: event.previousHash ?? undefined,
    hash: event.hash ?? undefined,
  };
}
