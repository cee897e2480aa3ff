// Values of events and entities on a page: changes as a table, facts as a list.
import type { Change } from "./changes.ts";
import { fieldWord } from "./words.ts";

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
