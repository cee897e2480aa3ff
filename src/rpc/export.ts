// EntityService: the export.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { EntitySchema, EntityType } from "../../clients/typescript/gen/entity/v1/entity_pb.ts";
import {
  EntityService,
  type ExportEntitiesRequest,
  type ExportEntitiesResponseSchema,
} from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { overloaded } from "../domain/errors.ts";
import { LIMITS } from "../domain/limits.ts";
import { createShares } from "../domain/shares.ts";
import { type ExportPage, exportEntities } from "../entities/export.ts";
import { decodePosition } from "../log/position.ts";
import type { Slots } from "../slots.ts";
import { typeFromProto } from "./entity-fields.ts";
import { checkStanding, standingOf } from "./entity-filter.ts";
import { toProto } from "./entity-message.ts";
import { wireBytes } from "./message.ts";
import { parseOptionalUuid } from "./request.ts";
import { Violations } from "./violations.ts";
import { assertWellFormed } from "./well-formed.ts";
import { authorOf, type Deps, organizationOf } from "./write.ts";

export interface ExportDeps {
  /** Bounds the reads of exports. */
  exportSlots: Slots;
}

/** Exports at once, and of one organization in any case: each holds a page until its caller has read it. */
const EXPORTS = 16;
const LEAST_EXPORTS = 2;

type Message = MessageInitShape<typeof ExportEntitiesResponseSchema>;

export function exportRpcs(deps: Deps & ExportDeps) {
  const exports = createShares(EXPORTS, LEAST_EXPORTS);

  async function* run(request: ExportEntitiesRequest, ctx: HandlerContext): AsyncGenerator<Message, void> {
    assertWellFormed(EntityService.method.exportEntities.input, request);
    const violations = new Violations();
    checkStanding(request, violations);
    const after = parseOptionalUuid(request.after, "after", violations);
    if (after !== undefined && request.position === "") {
      violations.add("after", "needs the position of the message that it is from");
    }
    violations.throwIfAny();
    const organizationId = organizationOf(ctx);
    const text = request.position === "" ? await deps.feed.position(organizationId) : request.position;
    const position = decodePosition(organizationId, text);
    const owner = { organization: organizationId, part: authorOf(ctx).principal };
    if (!exports.take(owner)) throw overloaded("Too many exports are under way");
    try {
      const pages = exportEntities(deps.orm, {
        organizationId,
        position,
        after,
        filter: {
          type: request.type === EntityType.UNSPECIFIED ? undefined : typeFromProto(request.type),
          ...standingOf(request),
          showDeleted: request.showDeleted,
        },
        slots: deps.exportSlots,
        signal: ctx.signal,
      });
      yield { position: text, after: after ?? "" };
      for await (const page of pages) yield* messagesOf(page, text);
    } finally {
      exports.give(owner);
    }
  }

  return {
    exportEntities: (request, ctx) => run(request, ctx),
  } satisfies Partial<ServiceImpl<typeof EntityService>>;
}

/** A page as one message, or as several where it takes more than a message may. What was sent is not kept. */
function* messagesOf({ entities: all, after, done }: ExportPage, position: string): Generator<Message> {
  let entities: MessageInitShape<typeof EntitySchema>[] = [];
  let bytes = 0;
  let last = "";
  for (let entity = all.shift(); entity !== undefined; entity = all.shift()) {
    const message = toProto(entity);
    const size = wireBytes(EntitySchema, message);
    if (bytes > 0 && bytes + size > LIMITS.pageBytes) {
      const full = { position, entities, after: last, done };
      [entities, bytes] = [[], 0];
      yield full;
    }
    entities.push(message);
    bytes += size;
    last = entity.id;
  }
  yield { position, entities, after, done };
}
