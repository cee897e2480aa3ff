// Reading any message by its descriptor, without the library's reflection, which would turn a Struct into
// a message of its own (and throw at what only our checks can name).
import type { DescField, DescMessage, Message } from "@bufbuild/protobuf";

/** The fields that are set to something other than their zero value, in the order of the contract. */
export function* presentFields(desc: DescMessage, message: Message): Generator<[DescField, unknown]> {
  const values = message as unknown as Record<string, unknown>;
  for (const field of desc.fields) {
    let value: unknown;
    if (field.oneof === undefined) {
      value = values[field.localName];
    } else {
      const oneof = values[field.oneof.localName] as { case?: string; value?: unknown };
      if (oneof.case === field.localName) value = oneof.value;
    }
    const implicitZero =
      field.oneof === undefined &&
      !field.proto.proto3Optional &&
      (value === "" || value === 0 || value === 0n || value === false);
    if (value === undefined || implicitZero || (Array.isArray(value) && value.length === 0)) continue;
    yield [field, value];
  }
}
