// Values as events and entities have them, by path: what is nested is laid out flat, so that one sees what differs.
import type { JsonObject, JsonValue } from "@bufbuild/protobuf";
import type { EntityEvent } from "../../typescript/gen/entity/v1/entity_event_pb.ts";
import { fieldWord } from "./words.ts";

export interface Change {
  path: string;
  before: string | undefined;
  after: string | undefined;
}

/** What the event changed, leaf by leaf. */
export function changesOf(event: EntityEvent): Change[] {
  const { previousValues: before = {}, newValues: after = {} } = event;
  return event.updatedFields.flatMap((field) => {
    const [from, to] = [leavesOf(field, before[field]), leavesOf(field, after[field])];
    const paths = new Set([...from.keys(), ...to.keys()]);
    return [...paths]
      .map((path) => ({ path, before: from.get(path), after: to.get(path) }))
      .filter((change) => change.before !== change.after);
  });
}

/** The leaves of a value by their paths; nothing of what is absent, null or empty. */
export function leavesOf(path: string, value: JsonValue | undefined): Map<string, string> {
  const leaves = new Map<string, string>();
  collect(path, value, leaves);
  return leaves;
}

function collect(path: string, value: JsonValue | undefined, leaves: Map<string, string>): void {
  if (value === undefined || value === null) return;
  if (typeof value !== "object") leaves.set(path, String(value));
  else if (Array.isArray(value)) {
    if (value.length > 0) leaves.set(path, value.map(itemText).join("\n"));
  } else for (const [key, inner] of Object.entries(value)) collect(`${path}.${key}`, inner, leaves);
}

function itemText(item: JsonValue): string {
  if (typeof item !== "object" || item === null) return String(item);
  if (isExternalId(item))
    return item["designation"] === "primary" ? `${item["externalId"]} (primary)` : item["externalId"];
  return JSON.stringify(item);
}

const isExternalId = (item: JsonValue): item is JsonObject & { externalId: string } =>
  typeof item === "object" && item !== null && !Array.isArray(item) && typeof item["externalId"] === "string";

/** Each change with the value before beside the one after. */
export function ChangeTable({
  changes,
  first = "Before",
  second = "After",
}: {
  changes: Change[];
  first?: string;
  second?: string;
}) {
  return (
    <table class="changes">
      <thead>
        <tr>
          <th scope="col">Field</th>
          <th scope="col">{first}</th>
          <th scope="col">{second}</th>
        </tr>
      </thead>
      <tbody>
        {changes.map(({ path, before, after }) => (
          <tr key={path}>
            <th scope="row">
              <Path path={path} />
            </th>
            <td data-title={first}>
              <Value text={before} kind="before" />
            </td>
            <td data-title={second}>
              <Value text={after} kind="after" />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** The path with its last name in full weight. */
export function Path({ path }: { path: string }) {
  const at = path.lastIndexOf(".");
  return (
    <span class="path">
      {at < 0 ? null : <span class="hint">{path.slice(0, at).split(".").map(fieldWord).join(" › ")} › </span>}
      {fieldWord(path.slice(at + 1))}
    </span>
  );
}

function Value({ text, kind }: { text: string | undefined; kind: "before" | "after" }) {
  return text === undefined ? <span class="hint">none</span> : <span class={`value ${kind}`}>{text}</span>;
}

/** Values by their paths, as a list of names and values. */
export function Facts({ leaves }: { leaves: Map<string, string> }) {
  return (
    <dl class="facts-list">
      {[...leaves].map(([path, text]) => (
        <div key={path}>
          <dt>
            <Path path={path} />
          </dt>
          <dd>{text}</dd>
        </div>
      ))}
    </dl>
  );
}
