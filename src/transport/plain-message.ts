// Messages with google.protobuf.Struct in them: the library decodes them with the Structs as bytes, which struct-bytes.ts
// reads. Whatever is not as writers write it is left to the library, which merges, passes over and refuses.
import {
  clone,
  create,
  createFileRegistry,
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
import { readStruct } from "./struct-bytes.ts";
import { wireOf } from "./values.ts";
import { MALFORMED, readVarint } from "./varint.ts";

const STRUCT = "google.protobuf.Struct";
const VALUES = [STRUCT, "google.protobuf.Value", "google.protobuf.ListValue"];
const [FIXED64_WIRE, LENGTH_WIRE, FIXED32_WIRE] = [1, 2, 5];

/** How a message of this type is read. */
interface Plan {
  /** The same with Structs as bytes. */
  form: DescMessage;
  /** The fields on the way to Structs. */
  parts: Map<number, Part>;
  /** The wire types of all fields. */
  wires: Map<number, number>;
}

interface Part {
  localName: string;
  oneof: string | undefined;
  isList: boolean;
  /** Of the message in it; undefined: it is a Struct. */
  inside: Plan | undefined;
}

/** To be called at the start: the first plan of a file takes some 20 ms, which are no caller's. */
export const preparePlain = (desc: DescMessage): void => void planOf(desc);

/** The message; undefined where the library is to read the bytes as they are. */
export function plainMessage(desc: DescMessage, bytes: Uint8Array): Message | undefined {
  const plan = planOf(desc);
  if (plan === undefined || !isPlain(plan, bytes, { at: 0 }, bytes.length)) return undefined;
  try {
    const message = fromBinary(plan.form, bytes, { readUnknownFields: false });
    return readStructs(plan, message as unknown as Values) ? message : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Whether each field on the way to a Struct is there once, where it is no list: given twice, the library would merge what is
 * in it. And every field is of its own wire type.
 */
function isPlain({ parts, wires }: Plan, bytes: Uint8Array, place: { at: number }, end: number): boolean {
  const seen = new Set<Part>();
  while (place.at < end) {
    const tag = readVarint(bytes, place, end);
    if (tag === MALFORMED || wires.get(tag >>> 3) !== (tag & 7)) return false;
    const part = parts.get(tag >>> 3);
    if (part !== undefined && !part.isList) {
      if (seen.has(part)) return false;
      seen.add(part);
    }
    const length = lengthOf(tag & 7, bytes, place, end);
    if (length === MALFORMED || length > end - place.at) return false;
    const behind = place.at + length;
    if (part?.inside !== undefined && !isPlain(part.inside, bytes, place, behind)) return false;
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

/** Puts what they hold in the place of their bytes. */
function readStructs({ parts }: Plan, message: Values): boolean {
  for (const { localName, oneof, isList, inside } of parts.values()) {
    const [holder, name] = oneof === undefined ? [message, localName] : [message[oneof] as Values, "value"];
    if (oneof !== undefined && holder["case"] !== localName) continue;
    const value = holder[name];
    if (value === undefined) continue;
    if (inside !== undefined) {
      const all = isList ? (value as Values[]) : [value as Values];
      if (!all.every((one) => readStructs(inside, one))) return false;
      continue;
    }
    const struct = readStruct(value as Uint8Array);
    if (struct === undefined) return false;
    holder[name] = struct;
  }
  return true;
}

// --- Plans --------------------------------------------------------------------------------------

const plans = new WeakMap<DescMessage, { plan: Plan | undefined }>();

/** Undefined: nothing in it is a Struct, or something that only the library reads. */
function planOf(desc: DescMessage): Plan | undefined {
  const known = plans.get(desc);
  if (known !== undefined) return known.plan;
  const plan = mayBePlain(desc, new Set()) ? makePlan(desc, formsOf(desc.file), new Map()) : undefined;
  plans.set(desc, { plan });
  return plan;
}

/** There are Structs in it, once or in lists, and no other free values. */
function mayBePlain(desc: DescMessage, above: Set<DescMessage>): boolean {
  let hasStructs = false;
  for (const { message, fieldKind, oneof } of desc.fields) {
    if (message === undefined) continue;
    if (message.typeName === STRUCT) {
      if (fieldKind !== "message" || oneof !== undefined) return false;
      hasStructs = true;
    } else if (VALUES.includes(message.typeName)) return false;
    else if (holdsValues(message, new Set())) {
      if (fieldKind === "map" || above.has(message)) return false;
      if (!mayBePlain(message, new Set([...above, message]))) return false;
      hasStructs = true;
    }
  }
  return hasStructs;
}

function holdsValues(desc: DescMessage, seen: Set<DescMessage>): boolean {
  if (VALUES.includes(desc.typeName)) return true;
  if (seen.has(desc)) return false;
  seen.add(desc);
  return desc.fields.some(({ message }) => message !== undefined && holdsValues(message, seen));
}

type Forms = (typeName: string) => DescMessage;

function makePlan(desc: DescMessage, formOf: Forms, made: Map<DescMessage, Plan>): Plan {
  const known = made.get(desc);
  if (known !== undefined) return known;
  const plan: Plan = { form: formOf(desc.typeName), parts: new Map(), wires: new Map() };
  made.set(desc, plan);
  for (const field of desc.fields) {
    plan.wires.set(field.number, wireOf(field));
    const { message, localName } = field;
    if (message === undefined || !holdsValues(message, new Set())) continue;
    const inside = message.typeName === STRUCT ? undefined : makePlan(message, formOf, made);
    const part = { localName, oneof: field.oneof?.localName, isList: field.fieldKind === "list", inside };
    plan.parts.set(field.number, part);
  }
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
