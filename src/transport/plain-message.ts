// Messages with google.protobuf.Struct in them: the library decodes them with the Structs as bytes, which struct-bytes.ts
// reads. Whatever is not as writers write it is left to the library, which merges, passes over and refuses.
import {
  clone,
  create,
  createFileRegistry,
  type DescField,
  type DescFile,
  type DescMessage,
  fromBinary,
  type Message,
} from "@bufbuild/protobuf";
import {
  type DescriptorProto,
  FieldDescriptorProto_Type,
  type FileDescriptorProto,
  FileDescriptorProtoSchema,
  FileDescriptorSetSchema,
} from "@bufbuild/protobuf/wkt";
import type { JsonObject } from "../domain/json.ts";
import { readStruct } from "./struct-bytes.ts";
import { wireOf } from "./values.ts";
import { MALFORMED, readVarint } from "./varint.ts";

const STRUCT = "google.protobuf.Struct";
const VALUES = [STRUCT, "google.protobuf.Value", "google.protobuf.ListValue"];
/** Of a number of 32. */
const MAX_BITS = 31;
const [FIXED64_WIRE, LENGTH_WIRE, FIXED32_WIRE] = [1, 2, 5];

/** A field of a message that the library does not read, or one on the way there. */
export interface Place {
  localName: string;
  oneof: string | undefined;
  isList: boolean;
  /** What of the message in it is on the way; undefined: it is the place. */
  inside: { parts: readonly Place[] } | undefined;
}

/** How a message of this type is read. */
interface Plan {
  /** The same with Structs as bytes. */
  form: DescMessage;
  fields: Map<number, Part>;
  /** Those on the way to Structs. */
  parts: Part[];
}

interface Part extends Place {
  /** The wire type that it must have: a field is read by its declaration, whatever its tag says. */
  wire: number;
  isStruct: boolean;
  inside: Plan | undefined;
  /** A bit of its own where it may be there once; else 0. */
  once: number;
}

/** To be called at the start: to make the plans takes some 50 ms, which are no caller's. */
export const preparePlain = (desc: DescMessage): void => void planOf(desc);

/** The message; undefined where the library is to read the bytes as they are. */
export function plainMessage(desc: DescMessage, bytes: Uint8Array): Message | undefined {
  const plan = planOf(desc);
  if (plan === undefined) return undefined;
  const structs = new Map<number, JsonObject>();
  try {
    if (!readStructs(plan, bytes, { at: 0 }, bytes.length, structs)) return undefined;
    const message = fromBinary(plan.form, bytes, { readUnknownFields: false });
    fillPlaces(plan, message, (place) => structOf(place as Uint8Array, structs));
    return message;
  } catch {
    return undefined;
  }
}

/**
 * Reads the Structs, by where their bytes are. False where a field on the way to one is there twice, since the library would
 * merge both or forget the first; where anything does not end where it says; and for fields that we do not know.
 */
function readStructs(
  { fields }: Plan,
  bytes: Uint8Array,
  place: { at: number },
  end: number,
  structs: Map<number, JsonObject>,
): boolean {
  let seen = 0;
  while (place.at < end) {
    const tag = readVarint(bytes, place, end);
    const part = tag === MALFORMED ? undefined : fields.get(tag >>> 3);
    if (part === undefined || part.wire !== (tag & 7) || (seen & part.once) !== 0) return false;
    seen |= part.once;
    const length = lengthOf(part.wire, bytes, place, end);
    if (length === MALFORMED || length > end - place.at) return false;
    const behind = place.at + length;
    if (part.isStruct) {
      const struct = readStruct(bytes.subarray(place.at, behind));
      if (struct === undefined) return false;
      structs.set(bytes.byteOffset + place.at, struct);
    } else if (part.inside !== undefined && !readStructs(part.inside, bytes, place, behind, structs)) return false;
    place.at = behind;
  }
  return place.at === end;
}

/** How much follows, behind the number that says so where there is one. */
function lengthOf(wire: number, bytes: Uint8Array, place: { at: number }, end: number): number {
  if (wire === FIXED64_WIRE) return 8;
  if (wire === FIXED32_WIRE) return 4;
  const number = readVarint(bytes, place, end);
  return wire === LENGTH_WIRE || number === MALFORMED ? number : 0;
}

type Values = Record<string, unknown>;

/** `fill` is called with what the library has left in each place, in their order, and returns what is to be there. */
export function fillPlaces(
  { parts }: { parts: readonly Place[] },
  message: Message,
  fill: (place: unknown) => unknown,
): void {
  const values = message as unknown as Values;
  for (const { localName, oneof, isList, inside } of parts) {
    const [holder, name] = oneof === undefined ? [values, localName] : [values[oneof] as Values, "value"];
    if (oneof !== undefined && holder["case"] !== localName) continue;
    const value = holder[name];
    if (value === undefined) continue;
    if (inside === undefined) holder[name] = fill(value);
    else for (const one of isList ? (value as Message[]) : [value as Message]) fillPlaces(inside, one, fill);
  }
}

function structOf(bytes: Uint8Array, structs: ReadonlyMap<number, JsonObject>): JsonObject {
  if (bytes.length === 0) return {};
  const struct = structs.get(bytes.byteOffset);
  if (struct === undefined) throw new Error("a Struct was not read");
  return struct;
}

// --- Plans --------------------------------------------------------------------------------------

const plans = new WeakMap<DescMessage, { plan: Plan | undefined }>();

/** Undefined: nothing in it is a Struct, or something that only the library reads. */
function planOf(desc: DescMessage): Plan | undefined {
  const known = plans.get(desc);
  if (known !== undefined) return known.plan;
  const plan = mayBePlain(desc) ? makePlan(desc, formsOf(desc.file), new Map()) : undefined;
  plans.set(desc, { plan });
  return plan;
}

/** There are Structs in it, in fields of their own, and no other free values and no maps. */
function mayBePlain(desc: DescMessage): boolean {
  const fields = [...messagesIn(desc)].flatMap((one) => one.fields);
  return (
    fields.some(isStruct) &&
    fields.every((field) =>
      isStruct(field)
        ? isPlainStruct(field)
        : field.fieldKind !== "map" && !VALUES.includes(field.message?.typeName ?? ""),
    )
  );
}

const isStruct = ({ message }: DescField) => message?.typeName === STRUCT;

/** A field whose value is plain JSON in the library's messages: elsewhere it has a message of a Struct. */
export const isPlainStruct = (field: DescField): boolean =>
  isStruct(field) && field.fieldKind === "message" && field.oneof === undefined;

/** Whether there is such a field in a message, or in what it is made of. */
export const leadsTo = (desc: DescMessage, is: (field: DescField) => boolean): boolean =>
  [...messagesIn(desc)].some(({ fields }) => fields.some(is));

export const leadsToStruct = (desc: DescMessage): boolean => leadsTo(desc, isPlainStruct);

/** A message and what it is made of, without what is in free values. */
function messagesIn(desc: DescMessage, found = new Set<DescMessage>()): Set<DescMessage> {
  if (found.has(desc) || VALUES.includes(desc.typeName)) return found;
  found.add(desc);
  for (const { message } of desc.fields) if (message !== undefined) messagesIn(message, found);
  return found;
}

type Forms = (typeName: string) => DescMessage;

function makePlan(desc: DescMessage, formOf: Forms, made: Map<DescMessage, Plan>): Plan {
  const known = made.get(desc);
  if (known !== undefined) return known;
  const plan: Plan = { form: formOf(desc.typeName), fields: new Map(), parts: [] };
  made.set(desc, plan);
  for (const field of desc.fields) {
    const { message, localName } = field;
    const oneof = field.oneof?.localName;
    const inside = message === undefined || isStruct(field) ? undefined : makePlan(message, formOf, made);
    const isList = field.fieldKind === "list";
    const part = { localName, oneof, wire: wireOf(field), isList, isStruct: isStruct(field), inside, once: 0 };
    plan.fields.set(field.number, part);
    const isOnTheWay = isStruct(field) || (message !== undefined && leadsToStruct(message));
    if (!isOnTheWay) continue;
    if (!isList) part.once = 1 << plan.parts.length;
    plan.parts.push(part);
  }
  if (plan.parts.length > MAX_BITS) throw new Error(`${desc.typeName} has too many fields on the way to Structs`);
  return plan;
}

const forms = new WeakMap<DescFile, Forms>();

function formsOf(file: DescFile): Forms {
  const known = forms.get(file) ?? makeForms(file);
  forms.set(file, known);
  return known;
}

/** The messages of a file, and of those that it imports, with Structs as bytes. */
function makeForms(file: DescFile): Forms {
  const files = new Map<string, FileDescriptorProto>();
  // Each behind those that it imports.
  const collect = (one: DescFile): void => {
    if (files.has(one.proto.name)) return;
    one.dependencies.forEach(collect);
    const proto = clone(FileDescriptorProtoSchema, one.proto);
    proto.messageType.forEach(structsAsBytes);
    // Generated code does not import what only options come from.
    proto.dependency = one.dependencies.map((imported) => imported.proto.name);
    files.set(proto.name, proto);
  };
  collect(file);
  const registry = createFileRegistry(create(FileDescriptorSetSchema, { file: [...files.values()] }));
  return (typeName) => {
    const form = registry.getMessage(typeName);
    if (form === undefined) throw new Error(`${typeName} has no form with bytes`);
    return form;
  };
}

function structsAsBytes(message: DescriptorProto): void {
  message.nestedType.forEach(structsAsBytes);
  for (const field of message.field) {
    if (field.typeName !== `.${STRUCT}`) continue;
    field.type = FieldDescriptorProto_Type.BYTES;
    field.typeName = "";
    // So that it is told from an empty one that it is not there.
    field.proto3Optional = true;
  }
}
