// A message of the contract as JSON: the library's, but for what would hold up others. It makes a message of every value of a
// google.protobuf.Struct: here that is plain JSON already, and written as it is. And a list is written an item at a time, so
// that a long answer is made in parts.
import {
  type DescField,
  type DescMessage,
  type JsonObject,
  type JsonValue,
  type JsonWriteOptions,
  type Message,
  toJson,
} from "@bufbuild/protobuf";
import { inParts, type More, PART_BYTES } from "./parts.ts";
import { isPlainStruct, leadsToStruct } from "./plain-message.ts";

/** The text of a message in UTF-8, in pieces; `more` as in inParts. */
export type JsonEncoder = (message: Message, more: More) => Buffer[] | Promise<Buffer[]>;

export function jsonEncoder(desc: DescMessage, options: Partial<JsonWriteOptions>): JsonEncoder {
  const form = formOf(desc, options, new Map());

  function* texts(message: Message): Generator<string, void> {
    // Some of these have a form of their own, that is no object of their fields.
    if (desc.typeName.startsWith("google.protobuf.")) {
      yield JSON.stringify(toJson(desc, message, options));
      return;
    }
    const others = form.others(message);
    let before = "{";
    for (const field of form.fields) {
      const name = `${before}${JSON.stringify(field.jsonName)}:`;
      const item = form.own.get(field);
      if (item !== undefined && field.fieldKind === "list") {
        const items = setValue(field, message) as unknown[] | undefined;
        if (items === undefined) continue;
        for (const [i, one] of items.entries()) yield `${i === 0 ? `${name}[` : ","}${JSON.stringify(item(one))}`;
        yield "]";
      } else {
        const value = jsonOfField(form, field, message, others);
        if (value === undefined) continue;
        yield `${name}${JSON.stringify(value)}`;
      }
      before = ",";
    }
    yield before === "{" ? "{}" : "}";
  }

  return (message, more) => {
    const rest = texts(message);
    const part = () => {
      let text = "";
      for (;;) {
        const next = rest.next();
        if (next.done === true) return { bytes: Buffer.from(text), isLast: true };
        text += next.value;
        if (text.length >= PART_BYTES) return { bytes: Buffer.from(text), isLast: false };
      }
    };
    return inParts(part, more);
  };
}

/** How a message is written. */
interface Form {
  /** In the order of their numbers, as the library has them. */
  fields: readonly DescField[];
  /** Fields that are not left to the library, and what one of their values becomes. */
  own: Map<DescField, (value: unknown) => JsonValue>;
  /** What the library makes of the other fields. */
  others: (message: Message) => JsonObject;
}

/** `made`: those of the messages that this one is in. */
function formOf(desc: DescMessage, options: Partial<JsonWriteOptions>, made: Map<DescMessage, Form>): Form {
  const known = made.get(desc);
  if (known !== undefined) return known;
  const isTop = made.size === 0;
  const own: Form["own"] = new Map();
  const form: Form = {
    fields: desc.fields.toSorted((a, b) => a.number - b.number),
    own,
    others: (message) => toJson(desc, without(own.keys(), message), options) as JsonObject,
  };
  made.set(desc, form);
  for (const field of desc.fields) {
    const { message: inside, fieldKind } = field;
    if (isPlainStruct(field)) own.set(field, (value) => value as JsonValue);
    else if (inside === undefined || fieldKind === "map") continue;
    else if (leadsToStruct(inside)) {
      const form = formOf(inside, options, made);
      own.set(field, (value) => jsonOf(form, value as Message));
    } else if (isTop && fieldKind === "list") own.set(field, (value) => toJson(inside, value as Message, options));
  }
  return form;
}

/** The message as if the fields were not set. */
function without(fields: Iterable<DescField>, message: Message): Message {
  const rest = { ...message } as Message & Record<string, unknown>;
  for (const { localName, oneof, fieldKind } of fields) {
    if (oneof === undefined) rest[localName] = fieldKind === "list" ? [] : undefined;
    else if ((rest[oneof.localName] as { case?: string }).case === localName)
      rest[oneof.localName] = { case: undefined };
  }
  return rest;
}

function jsonOf(form: Form, message: Message): JsonObject {
  const others = form.others(message);
  const json: JsonObject = {};
  for (const field of form.fields) {
    const value = jsonOfField(form, field, message, others);
    if (value !== undefined) json[field.jsonName] = value;
  }
  return json;
}

function jsonOfField({ own }: Form, field: DescField, message: Message, others: JsonObject): JsonValue | undefined {
  const write = own.get(field);
  if (write === undefined) return others[field.jsonName];
  const value = setValue(field, message);
  if (value === undefined) return undefined;
  return field.fieldKind === "list" ? (value as unknown[]).map(write) : write(value);
}

/** Undefined where it is not set, or an empty list. */
function setValue({ localName, oneof, fieldKind }: DescField, message: Message): unknown {
  const values = message as unknown as Record<string, unknown>;
  if (oneof !== undefined) {
    const chosen = values[oneof.localName] as { case?: string; value?: unknown };
    return chosen.case === localName ? chosen.value : undefined;
  }
  const value = values[localName];
  return fieldKind === "list" && (value as unknown[]).length === 0 ? undefined : value;
}
