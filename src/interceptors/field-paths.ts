// Where in a request a field sits, seen from the request's type: the decoder's errors name a type and a
// field of it, the caller knows only the path from the request.
import type { DescEnum, DescField, DescMessage } from "@bufbuild/protobuf";

interface Place {
  /** Path of the message or enum from the request; "" for the request itself. */
  path: string;
  desc: DescMessage | DescEnum;
}

const places = new WeakMap<DescMessage, Map<string, Place[]>>();

/** The type with this name that the request can hold. */
export function typeIn(request: DescMessage, typeName: string): DescMessage | DescEnum | undefined {
  return placesOf(request).get(typeName)?.[0]?.desc;
}

/** The path of a type, with a field of it where one is given: "entity.name"; "Address.street" where the request has the type in several places. */
export function pathIn(request: DescMessage, typeName: string, field?: string): string {
  const found = placesOf(request).get(typeName) ?? [];
  const only = found.length === 1 ? found[0]?.path : undefined;
  const parent = only ?? typeName.slice(typeName.lastIndexOf(".") + 1);
  return [parent, field].filter((part) => part !== undefined && part !== "").join(".");
}

/** Whether the contract knows a field of this name anywhere in the request. */
export function isFieldIn(request: DescMessage, name: string): boolean {
  for (const [place] of placesOf(request).values()) {
    const desc = place?.desc;
    if (desc?.kind === "message" && desc.fields.some((field) => field.name === name || field.jsonName === name)) {
      return true;
    }
  }
  return false;
}

function placesOf(request: DescMessage): Map<string, Place[]> {
  let known = places.get(request);
  if (known === undefined) {
    known = new Map();
    collect(request, "", [], known);
    places.set(request, known);
  }
  return known;
}

function collect(desc: DescMessage | DescEnum, path: string, above: DescMessage[], into: Map<string, Place[]>): void {
  const same = into.get(desc.typeName);
  if (same === undefined) into.set(desc.typeName, [{ path, desc }]);
  else same.push({ path, desc });
  // Struct and the like have a JSON form of their own, without their fields; a type inside itself would never end.
  if (desc.kind === "enum" || desc.typeName.startsWith("google.protobuf.") || above.includes(desc)) return;
  for (const field of desc.fields) {
    const type = typeOf(field);
    if (type !== undefined) collect(type, path === "" ? field.name : `${path}.${field.name}`, [...above, desc], into);
  }
}

function typeOf(field: DescField): DescMessage | DescEnum | undefined {
  return field.message ?? field.enum;
}
