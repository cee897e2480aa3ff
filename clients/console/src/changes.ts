// Values as events and entities have them, by path: what is nested is laid out flat, so that one sees what differs.
import type { JsonObject, JsonValue } from "@bufbuild/protobuf";
import type { EntityEvent } from "../../typescript/gen/entity/v1/entity_event_pb.ts";

export interface Change {
  path: string;
  before: string | undefined;
  after: string | undefined;
}

/** What the event changed, leaf by leaf. */
export function changesOf(event: EntityEvent): Change[] {
  const { previousValues: before = {}, newValues: after = {} } = event;
  return event.updatedFields.flatMap((field) => {
    const [from, to] = [leaves(field, before[field]), leaves(field, after[field])];
    const paths = new Set([...from.keys(), ...to.keys()]);
    return [...paths].flatMap((path) => {
      const [was, is] = [from.get(path), to.get(path)];
      if (was?.exact === is?.exact) return [];
      // 1 and "1" are read alike: then each as it is written.
      const shown = was?.text === is?.text ? "exact" : "text";
      return [{ path, before: was?.[shown], after: is?.[shown] }];
    });
  });
}

interface Leaf {
  text: string;
  /** As JSON. */
  exact: string;
}

/** The leaves of a value by their paths; nothing of what is absent, null or empty. */
export function leavesOf(path: string, value: JsonValue | undefined): Map<string, string> {
  const shown = [...leaves(path, value)].filter(([, { exact }]) => !["null", "{}", "[]"].includes(exact));
  return new Map(shown.map(([at, { text }]) => [at, text]));
}

/** All leaves; of what is null or empty those inside of it, which may have been something else. */
function leaves(path: string, value: JsonValue | undefined): Map<string, Leaf> {
  const found = new Map<string, Leaf>();
  const isNothing =
    value === undefined || value === null || (typeof value === "object" && Object.keys(value).length === 0);
  if (!isNothing) collect(path, value, found);
  return found;
}

function collect(path: string, value: JsonValue, found: Map<string, Leaf>): void {
  const exact = JSON.stringify(value);
  if (typeof value !== "object" || value === null) found.set(path, { text: String(value), exact });
  else if (Array.isArray(value)) found.set(path, { text: value.map(itemText).join("\n") || exact, exact });
  else if (Object.keys(value).length === 0) found.set(path, { text: exact, exact });
  else for (const [key, inner] of Object.entries(value)) collect(`${path}.${key}`, inner, found);
}

function itemText(item: JsonValue): string {
  if (typeof item !== "object" || item === null) return String(item);
  if (isExternalId(item)) {
    const type = typeof item["type"] === "string" && item["type"] !== "" ? `, ${item["type"]}` : "";
    return `${item["externalId"]}${type}${item["designation"] === "primary" ? " (primary)" : ""}`;
  }
  return JSON.stringify(item);
}

const isExternalId = (item: JsonValue): item is JsonObject & { externalId: string } =>
  typeof item === "object" && item !== null && !Array.isArray(item) && typeof item["externalId"] === "string";
