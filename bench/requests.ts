// The calls of the load: encoded once, then only digits are written into them. Entities of the bench are
// called bench-10000000 and onwards in every organization, so that a number is all that tells them apart.
import { create, type DescMethodUnary, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  EntityService,
  GetEntityRequestSchema,
  UpdateEntityRequestSchema,
} from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";

/**
 * What a call does: a get by the primary external id, by an alias or by the entity's id, an update, one that changes no
 * name, or many updates in one.
 */
export type Operation = "get" | "alias" | "id" | "update" | "edit" | "batch";

/** Updates of a batch, and how far apart their entities are: a prime that divides no number of entities here. */
export const BATCH_ITEMS = 1_000;
const BATCH_STEP = 7_919;
/** Away from what single updates may have changed an entity to a moment before. */
const BATCH_VALUES = 4_000_000_000;

export const FIRST_ENTITY = 10_000_000;
const PREFIX = "bench-";
/** The name of entity 0, 1, ... of an organization. */
export const externalIdOf = (index: number): string => `${PREFIX}${FIRST_ENTITY + index}`;
/** Its alias begins so, where it has one. */
export const ALIAS_PREFIX = "alias-";

// Whole milliseconds, as the service writes times without microseconds: with three decimals.
export const FIRST_MS = 1_760_000_000_000;
const hex = (value: number) => value.toString(16).padStart(12, "0");
/** The id of entity 0, 1, ... where there is one organization. */
export const idOf = (index: number): string =>
  `${hex(FIRST_MS + index).slice(0, 8)}-${hex(FIRST_MS + index).slice(8)}-7000-8000-${hex(index)}`;

/** Ten digits: what an update changes the entity to. */
const FIRST_VALUE = 1_000_000_000;
const VALUES = 9_000_000_000;
export const visitOf = (count: number): number => FIRST_VALUE + (count % VALUES);
export const nameOf = (value: number): string => `Bench ${value}`;

const PREFIX_BYTES = 5;

/** What an update changes: the name, and one of the attributes. */
export const updateOf = (index: number, value: number) =>
  create(UpdateEntityRequestSchema, {
    lookup: { by: { case: "externalId", value: externalIdOf(index) } },
    entity: { name: nameOf(value), attributes: { visit: String(value) } },
    reason: "measured",
  });

/** The same without the name, whose words are searched. */
function editOf(index: number, value: number) {
  const { lookup, entity, reason } = updateOf(index, value);
  return create(UpdateEntityRequestSchema, { lookup, entity: { attributes: entity?.attributes ?? {} }, reason });
}

export interface Calls {
  method: DescMethodUnary;
  path: string;
  /** The framed request of one call. */
  body(index: number, value: number): Buffer;
  /** What is wrong with the framed reply of that call, if anything; `thorough` decodes all of it. */
  problem(reply: Buffer, index: number, value: number, thorough: boolean): string | undefined;
}

/** Calls of an organization with so many `entities`. */
export function callsOf(operation: Operation, entities: number): Calls {
  if (operation === "batch") return batchesOf(entities);
  const isGet = operation !== "update" && operation !== "edit";
  const method = isGet ? EntityService.method.getEntity : EntityService.method.updateEntity;
  const prefix = operation === "id" ? "" : operation === "alias" ? ALIAS_PREFIX : PREFIX;
  const keyOf = (index: number) => (operation === "id" ? idOf(index) : String(FIRST_ENTITY + index));
  const by = operation === "id" ? ("entityId" as const) : ("externalId" as const);
  const lookup = { by: { case: by, value: `${prefix}${keyOf(0)}` } };
  const message = isGet
    ? toBinary(GetEntityRequestSchema, create(GetEntityRequestSchema, { lookup }))
    : toBinary(UpdateEntityRequestSchema, operation === "edit" ? editOf(0, FIRST_VALUE) : updateOf(0, FIRST_VALUE));
  const template = Buffer.alloc(PREFIX_BYTES + message.length);
  template.writeUInt32BE(message.length, 1);
  template.set(message, PREFIX_BYTES);
  const keyAt = placesOf(template, keyOf(0), prefix);
  const valueAt = isGet ? [] : placesOf(template, String(FIRST_VALUE), "");

  return {
    method,
    path: `/${method.parent.typeName}/${method.name}`,
    body(index, value) {
      const body = Buffer.from(template);
      for (const at of keyAt) body.write(keyOf(index), at, "latin1");
      for (const at of valueAt) body.write(String(value), at, "latin1");
      return body;
    },
    problem(reply, index, value, thorough) {
      if (reply.length <= PREFIX_BYTES || reply[0] !== 0 || reply.readUInt32BE(1) !== reply.length - PREFIX_BYTES) {
        return "the reply is not one message";
      }
      if (!reply.includes(externalIdOf(index), PREFIX_BYTES, "latin1")) return "the reply is of another entity";
      if (!isGet && !reply.includes(String(value), PREFIX_BYTES, "latin1")) return "the update is not in the reply";
      return thorough ? problemOf(operation, reply.subarray(PREFIX_BYTES), index, value) : undefined;
    },
  };
}

/** The updates of `update`, many in one call. */
function batchesOf(entities: number): Calls {
  const update = callsOf("update", entities);
  const method = EntityService.method.batchUpdateEntities;
  const length = update.body(0, FIRST_VALUE).length - PREFIX_BYTES;
  // The tag of the first field, and the length of what follows: in one byte.
  const head = Buffer.of(0x0a, length);
  if (length > 0x7f) throw new Error("an update is longer than it is thought to be");
  return {
    method,
    path: `/${method.parent.typeName}/${method.name}`,
    body(index, value) {
      const parts = Array.from({ length: BATCH_ITEMS }, (_, i) => [
        head,
        update.body((index + i * BATCH_STEP) % entities, value + BATCH_VALUES).subarray(PREFIX_BYTES),
      ]).flat();
      const frame = Buffer.alloc(PREFIX_BYTES);
      frame.writeUInt32BE((head.length + length) * BATCH_ITEMS, 1);
      return Buffer.concat([frame, ...parts]);
    },
    problem(reply) {
      const { results } = fromBinary(method.output, reply.subarray(PREFIX_BYTES));
      const isDone = results.length === BATCH_ITEMS && results.every(({ updatedFields }) => updatedFields.length === 2);
      return isDone ? undefined : "a batch did not update each of its entities";
    },
  };
}

function problemOf(operation: Operation, bytes: Buffer, index: number, value: number): string | undefined {
  if (operation !== "update" && operation !== "edit") {
    const { entity } = fromBinary(EntityService.method.getEntity.output, bytes);
    return entity?.externalId === externalIdOf(index) && entity.name !== "" ? undefined : "the reply lacks the entity";
  }
  const { entity, previousEntity, updatedFields } = fromBinary(EntityService.method.updateEntity.output, bytes);
  const isNamed = operation === "update";
  if (entity?.externalId !== externalIdOf(index) || (isNamed && entity.name !== nameOf(value)))
    return "the entity is not updated";
  if (entity.attributes?.visit !== String(value)) return "the attribute is not updated";
  if (previousEntity?.id !== entity.id || (previousEntity.name === entity.name) === isNamed)
    return "the previous entity is wrong";
  if (previousEntity.etag === entity.etag) return "the etag is the same";
  if (updatedFields.join() !== (isNamed ? "name,attributes" : "attributes"))
    return `the updated fields are ${updatedFields.join()}`;
  return undefined;
}

/** Where `digits` stand in the bytes, each after `before`. */
function placesOf(bytes: Buffer, digits: string, before: string): number[] {
  const places: number[] = [];
  for (let at = bytes.indexOf(before + digits); at !== -1; at = bytes.indexOf(before + digits, at + 1)) {
    places.push(at + before.length);
  }
  return places;
}
