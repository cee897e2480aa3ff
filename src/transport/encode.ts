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
import { Edition } from "@bufbuild/protobuf/wkt";
import { inParts, lengthOf, type More, PART_BYTES } from "./parts.ts";
import { WIRE, WireWriter } from "./writer.ts";

export const PREFIX_BYTES = 5;

type Init = MessageInitShape<DescMessage>;
type Write<T> = (writer: WireWriter, value: T) => void;
type Fields = Readonly<Record<string, unknown>>;

/** Writes messages, or what one would make of them, each behind the prefix of gRPC that says its length. */
export interface FrameEncoder {
  /** The frames of messages from the one at `from` on, until they reach `bytes` or the end; and where to go on. */
  frames(messages: { length: number; at(index: number): Init }, from: number, bytes: number): [Buffer, next: number];
  /** The frame of one message, in pieces; `more` as in inParts. */
  frame(message: Init, more: More): Buffer[] | Promise<Buffer[]>;
}

export function frameEncoder(desc: DescMessage): FrameEncoder {
  const fields = messageFields(desc, new Map()) ?? [{ write: libraryWriter(desc) }];
  const writer = new WireWriter();
  const written = (write: () => void): Buffer => {
    try {
      write();
    } catch (error) {
      writer.reset();
      throw error;
    }
    return writer.finish();
  };

  function* inSteps(message: Fields) {
    writer.prefix();
    for (const { write, items } of fields) {
      if (items === undefined) write(writer, message);
      else for (const item of items.of(message)) yield items.write(writer, item);
    }
  }

  return {
    frames(messages, from, bytes) {
      let next = from;
      const frames = written(() => {
        while (next < messages.length && writer.at < bytes) {
          const place = writer.prefix();
          for (const { write } of fields) write(writer, messages.at(next) as Fields);
          writer.length32(place);
          next += 1;
        }
      });
      return [frames, next];
    },

    frame(message, more) {
      const steps = inSteps(message as Fields);
      let isLast = false;
      const part = () => {
        const bytes = written(() => {
          while (!isLast && writer.at < PART_BYTES) isLast = steps.next().done === true;
        });
        return { bytes, isLast };
      };
      const pieces = inParts(part, more);
      return pieces instanceof Promise ? pieces.then(withLength) : withLength(pieces);
    },
  };
}

/** Fills in the length of the message, for which the first piece has room. */
function withLength(pieces: Buffer[]): Buffer[] {
  pieces[0]?.writeUInt32BE(lengthOf(pieces) - PREFIX_BYTES, 1);
  return pieces;
}

function libraryWriter(desc: DescMessage): Write<Fields> {
  return (writer, message) => {
    const init = message as Init;
    writer.raw(toBinary(desc, isMessage(init, desc) ? init : create(desc, init)));
  };
}

interface FieldWriter {
  write: Write<Fields>;
  /** Of a list: its items, and how one is written. */
  items?: { of: (message: Fields) => readonly unknown[]; write: Write<unknown> };
}

type Known = Map<DescMessage, FieldWriter[]>;

/** Undefined where it has fields that are the library's: maps, wrappers, packed lists, whatever is not of proto3. */
function messageFields(desc: DescMessage, known: Known): FieldWriter[] | undefined {
  const before = known.get(desc);
  if (before !== undefined) return before;
  if (desc.file.edition !== Edition.EDITION_PROTO3) return undefined;
  const writers: FieldWriter[] = [];
  // Before its fields, which may be of its own type.
  known.set(desc, writers);
  for (const field of desc.fields.toSorted((a, b) => a.number - b.number)) {
    const writer = fieldWriter(field, known);
    if (writer === undefined) return undefined;
    writers.push(writer);
  }
  return writers;
}

function messageWriter(desc: DescMessage, known: Known): Write<Fields> | undefined {
  const fields = messageFields(desc, known);
  if (fields === undefined) return undefined;
  return (writer, message) => {
    for (const { write } of fields) write(writer, message);
  };
}

function fieldWriter(field: DescField, known: Known): FieldWriter | undefined {
  const { localName, oneof } = field;
  if (field.fieldKind === "map") return undefined;
  const single = valueWriter(field, known);
  if (single === undefined) return undefined;
  if (field.fieldKind === "list") {
    const of = (message: Fields) => (message[localName] as unknown[] | undefined) ?? [];
    const write: Write<Fields> = (writer, message) => {
      for (const item of of(message)) single(writer, item);
    };
    return { write, items: { of, write: single } };
  }
  if (oneof !== undefined) {
    const write: Write<Fields> = (writer, message) => {
      const chosen = message[oneof.localName] as { case?: string; value?: unknown } | undefined;
      if (chosen?.case === localName) single(writer, chosen.value);
    };
    return { write };
  }
  const isImplicit = field.fieldKind !== "message" && !field.proto.proto3Optional;
  const write: Write<Fields> = (writer, message) => {
    const value = message[localName];
    if (value === undefined || (isImplicit && isZero(value))) return;
    single(writer, value);
  };
  return { write };
}

const isZero = (value: unknown) =>
  value === "" ||
  value === 0n ||
  value === false ||
  Object.is(value, 0) ||
  (value instanceof Uint8Array && value.length === 0);

/** One value with its tag: of the kinds of fields that the contract has. */
function valueWriter(field: DescField, known: Known): Write<unknown> | undefined {
  const { number } = field;
  if (field.message !== undefined) {
    // Those of the numbers and texts stand for what is in them, and google.protobuf.Value for whatever it holds.
    if (/^google\.protobuf\.\w*Value$/.test(field.message.typeName)) return undefined;
    const write = (
      field.message.typeName === "google.protobuf.Struct" ? writeStruct : messageWriter(field.message, known)
    ) as Write<unknown> | undefined;
    if (write === undefined) return undefined;
    return (writer, value) => {
      writer.tag(number, WIRE.lengthDelimited);
      const place = writer.begin();
      write(writer, value);
      writer.end(place);
    };
  }
  // In a list these would be packed.
  if (field.fieldKind === "list" && field.packed) return undefined;
  const tagged =
    <T>(wire: number, write: (writer: WireWriter, value: T) => void): Write<unknown> =>
    (writer, value) => {
      writer.tag(number, wire);
      write(writer, value as T);
    };
  if (field.enum !== undefined) return tagged<number>(WIRE.varint, (writer, value) => writer.int(value));
  switch (field.scalar) {
    case ScalarType.STRING:
      return tagged<string>(WIRE.lengthDelimited, (writer, value) => writer.text(value));
    case ScalarType.BYTES:
      return tagged<Uint8Array>(WIRE.lengthDelimited, (writer, value) => writer.bytes(value));
    case ScalarType.BOOL:
      return tagged<boolean>(WIRE.varint, (writer, value) => writer.varint(value ? 1 : 0));
    case ScalarType.INT32:
    case ScalarType.INT64:
      return tagged<number | bigint>(WIRE.varint, (writer, value) => writer.int(value));
    case ScalarType.DOUBLE:
      return tagged<number>(WIRE.fixed64, (writer, value) => writer.double(value));
    default:
      return undefined;
  }
}

// google/protobuf/struct.proto: Struct.fields is a map, whose entries are a key and a value.

function writeStruct(writer: WireWriter, struct: Fields): void {
  for (const key of Object.keys(struct)) {
    writer.tag(1, WIRE.lengthDelimited);
    const entry = writer.begin();
    writer.tag(1, WIRE.lengthDelimited);
    writer.text(key);
    writer.tag(2, WIRE.lengthDelimited);
    writeJson(writer, struct[key]);
    writer.end(entry);
  }
}

/** google.protobuf.Value, with its length before it. */
function writeJson(writer: WireWriter, value: unknown): void {
  const place = writer.begin();
  if (value === null) {
    writer.tag(1, WIRE.varint);
    writer.varint(0);
  } else if (typeof value === "number") {
    writer.tag(2, WIRE.fixed64);
    writer.double(value);
  } else if (typeof value === "string") {
    writer.tag(3, WIRE.lengthDelimited);
    writer.text(value);
  } else if (typeof value === "boolean") {
    writer.tag(4, WIRE.varint);
    writer.varint(value ? 1 : 0);
  } else if (Array.isArray(value)) {
    writer.tag(6, WIRE.lengthDelimited);
    const list = writer.begin();
    for (const item of value) {
      writer.tag(1, WIRE.lengthDelimited);
      writeJson(writer, item);
    }
    writer.end(list);
  } else if (typeof value === "object") {
    writer.tag(5, WIRE.lengthDelimited);
    const struct = writer.begin();
    writeStruct(writer, value as Fields);
    writer.end(struct);
  } else throw new Error("not a value of JSON");
  writer.end(place);
}
