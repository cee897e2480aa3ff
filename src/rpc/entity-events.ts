// EntityService: the events of an entity, or of the organization.
import type { ServiceImpl } from "@connectrpc/connect";
import { EventType } from "../../clients/typescript/gen/entity/v1/entity_event_pb.ts";
import {
  type EntityService,
  ListEntityEventsRequestSchema,
} from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { findEntities, type ListedEvent, listEvents } from "../db/queries.ts";
import { read } from "../db/transaction.ts";
import type { EventType as EventName } from "../domain/entity.ts";
import { notFound } from "../domain/errors.ts";
import { LIMITS } from "../domain/limits.ts";
import { lookupKeys, resolve } from "../domain/lookup.ts";
import { textProblem } from "../domain/text.ts";
import { typeToProto } from "./entity-message.ts";
import {
  fromPageToken,
  fromTimestamp,
  parseLookup,
  parseOptionalUuid,
  parsePageSize,
  queryOf,
  toPageToken,
  toTimestamp,
} from "./request.ts";
import { Violations } from "./violations.ts";
import { type Deps, organizationOf } from "./write.ts";

/** The types of an event, with the name under which consumers know each. */
const EVENTS: Record<EventName, { type: EventType; event: string }> = {
  CREATED: { type: EventType.CREATED, event: "entity.created" },
  ATTRIBUTE_CHANGED: { type: EventType.ATTRIBUTE_CHANGED, event: "entity.updated" },
  EXTERNAL_ID_CHANGED: { type: EventType.EXTERNAL_ID_CHANGED, event: "entity.updated" },
  DELETED: { type: EventType.DELETED, event: "entity.deleted" },
  UNDELETED: { type: EventType.UNDELETED, event: "entity.undeleted" },
};

export function entityEventRpcs(deps: Deps) {
  return {
    async listEntityEvents(request, ctx) {
      const lookup = request.lookup === undefined ? undefined : parseLookup(request.lookup);
      const pageSize = parsePageSize(request.pageSize);
      const violations = new Violations();
      const types = request.types.map((type, i) => {
        const name = (Object.keys(EVENTS) as EventName[]).find((key) => EVENTS[key].type === type);
        if (name === undefined) violations.add(`types[${i}]`, "must be a type of event");
        return name ?? "CREATED";
      });
      violations.check("actor", textProblem(request.actor, { max: LIMITS.actor }));
      const principal = parseOptionalUuid(request.principal, "principal", violations);
      const requestId = parseOptionalUuid(request.requestId, "request_id", violations);
      violations.throwIfAny();
      const organizationId = organizationOf(ctx);
      const query = queryOf(ListEntityEventsRequestSchema, request, organizationId);
      const cursor = fromPageToken(query, request.pageToken, ["instant", "id", "version"]);

      const events = await read(deps.orm, organizationId, async (em) => {
        let entityId: string | undefined;
        if (lookup !== undefined) {
          const keys = { entityIds: [], externalIds: [], taxIdKeys: [] };
          lookupKeys(lookup, keys);
          const { hits, entities } = await findEntities(em, organizationId, keys);
          entityId = resolve(lookup, hits);
          if (entityId === undefined || !entities.has(entityId)) throw notFound(lookup.by);
        }
        return listEvents(em, organizationId, {
          entityId,
          types,
          actor: request.actor === "" ? undefined : request.actor,
          principal,
          requestId,
          from: request.from === undefined ? undefined : fromTimestamp(request.from),
          to: request.to === undefined ? undefined : fromTimestamp(request.to),
          before:
            cursor === undefined
              ? undefined
              : { recordedAt: BigInt(cursor[0] ?? "0"), id: cursor[1] ?? "", entityVersion: cursor[2] ?? "0" },
          limit: pageSize + 1,
        });
      });
      const page = events.slice(0, pageSize);
      const last = page.at(-1);
      return {
        events: page.map(eventToProto),
        nextPageToken:
          events.length > pageSize && last !== undefined
            ? toPageToken(query, [String(last.recordedAt), last.id, String(last.entityVersion)])
            : "",
      };
    },
  } satisfies Partial<ServiceImpl<typeof EntityService>>;
}

function eventToProto(event: ListedEvent) {
  return {
    ...event,
    ...EVENTS[event.type],
    entityVersion: BigInt(event.entityVersion),
    entityType: typeToProto(event.entityType),
    recordedAt: toTimestamp(event.recordedAt),
    occurredAt: event.occurredAt === undefined ? undefined : toTimestamp(event.occurredAt),
    metadata: Object.keys(event.metadata).length === 0 ? undefined : event.metadata,
  };
}
