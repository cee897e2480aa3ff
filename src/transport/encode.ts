// A message of the contract as the bytes that gRPC sends. The library makes a message of every value of a
// google.protobuf.Struct before it writes the first byte, and most of what we answer is in one: here what came from
// the database, plain JSON, is written as it is. The bytes are the library's, which does what is not done here.
import {
  create,
  type DescField,
  type DescMessage,
  isMessage,
  type MessageInitShape,
  ScalarType,
  toBinary,
} from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { Edition } from "@bufbuild/protobuf/wkt";

export const PREFIX_BYTES = 5;

type Init = MessageInitShape<DescMessage>;
type Write<T> = (writer: BinaryWriter, value: T) => void;
type Fields = Readonly<Record<string, unknown>>;

const NO_PREFIX = new Uint8Array(PREFIX_BYTES);
/** A writer keeps its memory for the next message; not what a larger one took. */
const KEPT_BYTES = 64 * 1024;

/** Writes messages, or what one would make of them, behind the prefix of gRPC that says their length. */
export function frameEncoder(desc: DescMessage): (message: Init) => Uint8Array {
  const write = messageWriter(desc, new Map()) ?? libraryWriter(desc);
  let writer = new BinaryWriter();
  return (message) => {
    const own = writer;
    // Not to be used again where this throws.
    writer = new BinaryWriter();
    own.raw(NO_PREFIX);
    write(own, message as Fields);
    const frame = own.finish();
    if (frame.length <= KEPT_BYTES) writer = own;
    new DataView(frame.buffer).setUint32(1, frame.length - PREFIX_BYTES);
    return frame;
  };
}

function libraryWriter(desc: DescMessage): Write<Fields> {
  return (writer, message) => {
    const init = message as Init;
    writer.raw(toBinary(desc, isMessage(init, desc) ? init : create(desc, init)));
  };
}

/** Undefined where it has fields that are the library's: maps, wrappers, packed lists, whatever is not of proto3. */
function messageWriter(desc: DescMessage, known: Map<DescMessage, Write<Fields>>): Write<Fields> | undefined {
  const before = known.get(desc);
  if (before !== undefined) return before;
  if (desc.file.edition !== Edition.EDITION_PROTO3) return undefined;
  const writers: Write<Fields>[] = [];
  const write: Write<Fields> = (writer, message) => {
    for (const writeField of writers) writeField(writer, message);
  };
  // Before its fields, which may be of its own type.
  known.set(desc, write);
  for (const field of desc.fields.toSorted((a, b) => a.number - b.number)) {
    const writeField = fieldWriter(field, known);
    if (writeField === undefined) return undefined;
    writers.push(writeField);
  }
  return write;
}

function fieldWriter(field: DescField, known: Map<DescMessage, Write<Fields>>): Write<Fields> | undefined {
  const { localName, oneof } = field;
  if (field.fieldKind === "map") return undefined;
  const single = valueWriter(field, known);
  if (single === undefined) return undefined;
  if (field.fieldKind === "list") {
    return (writer, message) => {
      for (const item of (message[localName] as unknown[] | undefined) ?? []) single(writer, item);
    };
  }
  if (oneof !== undefined) {
    return (writer, message) => {
      const chosen = message[oneof.localName] as { case?: string; value?: unknown } | undefined;
      if (chosen?.case === localName) single(writer, chosen.value);
    };
  }
  const isImplicit = field.fieldKind !== "message" && !field.proto.proto3Optional;
  return (writer, message) => {
    const value = message[localName];
    if (value === undefined || (isImplicit && isZero(value))) return;
    single(writer, value);
  };
}

const isZero = (value: unknown) =>
  value === "" ||
  value === 0n ||
  value === false ||
  Object.is(value, 0) ||
  (value instanceof Uint8Array && value.length === 0);

/** One value with its tag: of the kinds of fields that the contract has. */
function valueWriter(field: DescField, known: Map<DescMessage, Write<Fields>>): Write<unknown> | undefined {
  const { number } = field;
  if (field.message !== undefined) {
    // Those of the numbers and texts stand for what is in them, and google.protobuf.Value for whatever it holds.
    if (/^google\.protobuf\.\w*Value$/.test(field.message.typeName)) return undefined;
    const write = (
      field.message.typeName === "google.protobuf.Struct" ? writeStruct : messageWriter(field.message, known)
    ) as Write<unknown> | undefined;
    if (write === undefined) return undefined;
    return (writer, value) => {
      writer.tag(number, WireType.LengthDelimited).fork();
      write(writer, value);
      writer.join();
    };
  }
  // In a list these would be packed.
  if (field.fieldKind === "list" && field.packed) return undefined;
  if (field.enum !== undefined) {
    return (writer, value) => writer.tag(number, WireType.Varint).int32(value as number);
  }
  switch (field.scalar) {
    case ScalarType.STRING:
      return (writer, value) => writer.tag(number, WireType.LengthDelimited).string(value as string);
    case ScalarType.BYTES:
      return (writer, value) => writer.tag(number, WireType.LengthDelimited).bytes(value as Uint8Array);
    case ScalarType.BOOL:
      return (writer, value) => writer.tag(number, WireType.Varint).bool(value as boolean);
    case ScalarType.INT32:
      return (writer, value) => writer.tag(number, WireType.Varint).int32(value as number);
    case ScalarType.INT64:
      return (writer, value) => writer.tag(number, WireType.Varint).int64(value as bigint);
    case ScalarType.DOUBLE:
      return (writer, value) => writer.tag(number, WireType.Bit64).double(value as number);
    default:
      return undefined;
  }
}

// google/protobuf/struct.proto: Struct.fields is a map, whose entries are a key and a value.

function writeStruct(writer: BinaryWriter, struct: Fields): void {
  for (const key of Object.keys(struct)) {
    writer.tag(1, WireType.LengthDelimited).fork();
    writer.tag(1, WireType.LengthDelimited).string(key);
    writer.tag(2, WireType.LengthDelimited).fork();
    writeJson(writer, struct[key]);
    writer.join().join();
  }
}

/** google.protobuf.Value. */
function writeJson(writer: BinaryWriter, value: unknown): void {
  if (value === null) writer.tag(1, WireType.Varint).int32(0);
  else if (typeof value === "number") writer.tag(2, WireType.Bit64).double(value);
  else if (typeof value === "string") writer.tag(3, WireType.LengthDelimited).string(value);
  else if (typeof value === "boolean") writer.tag(4, WireType.Varint).bool(value);
  else if (Array.isArray(value)) {
    writer.tag(6, WireType.LengthDelimited).fork();
    for (const item of value) {
      writer.tag(1, WireType.LengthDelimited).fork();
      writeJson(writer, item);
      writer.join();
    }
    writer.join();
  } else if (typeof value === "object") {
    writer.tag(5, WireType.LengthDelimited).fork();
    writeStruct(writer, value as Fields);
    writer.join();
  } else throw new Error("not a value of JSON");
}
