// Finding an entity by whatever is known of it.
import { useState } from "preact/hooks";
import { errorInfo } from "../../typescript/errors.ts";
import { type Entity, EntityStatus, EntityType } from "../../typescript/gen/entity/v1/entity_pb.ts";
import { useList } from "./load.ts";
import { ListEnd, Status, Wide } from "./parts.tsx";
import { entityPath, isUuid } from "./route.ts";
import { type Session, useSession } from "./session.ts";
import { statusWord, timeText, typeWord } from "./words.ts";

interface Hit {
  entity: Entity;
  /** What it was found by; empty where the list is of all. */
  by: string;
}

type By = "anything" | "name" | "externalId" | "taxId" | "id";

const CHOICES: Record<By, string> = {
  anything: "Anything",
  name: "Name",
  externalId: "External id",
  taxId: "Tax id",
  id: "Id",
};

const PAGE_SIZE = 25;

interface Question {
  by: By;
  text: string;
  type: EntityType;
  status: EntityStatus;
}

const ALL: Question = { by: "anything", text: "", type: EntityType.UNSPECIFIED, status: EntityStatus.UNSPECIFIED };

export function SearchPage() {
  const session = useSession();
  const [asked, setAsked] = useState<Question>(ALL);
  const [draft, setDraft] = useState(ALL);
  const list = useList((pageToken, signal) => search(session, asked, pageToken, signal), [asked]);
  const filter = (change: Partial<Question>) => {
    setDraft({ ...draft, ...change });
    setAsked({ ...asked, ...change });
  };
  return (
    <section>
      <h1>Entities</h1>
      <search>
        <form
          class="search"
          onSubmit={(event) => {
            event.preventDefault();
            setAsked({ ...draft, text: draft.text.trim() });
          }}
        >
          <label class="by">
            <span class="unseen">Search by</span>
            <select value={draft.by} onChange={(event) => setDraft({ ...draft, by: event.currentTarget.value as By })}>
              {Object.entries(CHOICES).map(([by, text]) => (
                <option key={by} value={by}>
                  {text}
                </option>
              ))}
            </select>
          </label>
          <label class="text">
            <span class="unseen">Search for</span>
            <input
              type="search"
              autocomplete="off"
              spellcheck={false}
              placeholder="A name, an external id, a tax id, an id"
              value={draft.text}
              onInput={(event) => setDraft({ ...draft, text: event.currentTarget.value })}
            />
          </label>
          <button type="submit" class="primary">
            Search
          </button>
          <label>
            <span class="unseen">Type</span>
            <select
              value={draft.type}
              onChange={(event) => filter({ type: Number(event.currentTarget.value) as EntityType })}
            >
              <option value={EntityType.UNSPECIFIED}>All types</option>
              {[EntityType.PERSON, EntityType.COMPANY].map((type) => (
                <option key={type} value={type}>
                  {typeWord(type)}
                </option>
              ))}
            </select>
          </label>
          <label>
            <span class="unseen">Status</span>
            <select
              value={draft.status}
              onChange={(event) => filter({ status: Number(event.currentTarget.value) as EntityStatus })}
            >
              <option value={EntityStatus.UNSPECIFIED}>Any status</option>
              {Object.values(EntityStatus)
                .filter((one) => one !== EntityStatus.UNSPECIFIED)
                .map((status) => (
                  <option key={status} value={status}>
                    {statusWord(status)}
                  </option>
                ))}
            </select>
          </label>
        </form>
      </search>
      <EntityTable hits={list.items} isSearch={asked.text !== ""} />
      <ListEnd
        list={list}
        what="read entities"
        empty={
          asked.text === ""
            ? "There is no entity yet."
            : "Nothing was found. Ids are compared exactly, names by the beginnings of their words."
        }
      />
    </section>
  );
}

function EntityTable({ hits, isSearch }: { hits: Hit[]; isSearch: boolean }) {
  if (hits.length === 0) return null;
  return (
    <Wide label="What was found">
      <table class="entities">
        <thead>
          <tr>
            <th scope="col">Name</th>
            <th scope="col">Status</th>
            <th scope="col">Type</th>
            <th scope="col">Country</th>
            <th scope="col">External id</th>
            <th scope="col">Tax id</th>
            <th scope="col">{isSearch ? "Found by" : "Changed"}</th>
          </tr>
        </thead>
        <tbody>
          {hits.map(({ entity, by }) => (
            <tr key={entity.id}>
              <th scope="row">
                <a href={entityPath(entity.id)}>{entity.name}</a>
              </th>
              <td>
                <Status entity={entity} />
              </td>
              <td>{typeWord(entity.type)}</td>
              <td>{entity.countryCode}</td>
              <td>
                <code>{entity.externalId}</code>
              </td>
              <td>
                <code>{entity.taxId}</code>
              </td>
              <td class="nowrap">{isSearch ? by : timeText(entity.updatedAt)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Wide>
  );
}

/** A page of what is found: the first begins with what the text names exactly. */
async function search(session: Session, question: Question, pageToken: string, signal: AbortSignal) {
  const { by, text } = question;
  const named = text !== "" && by !== "name" && pageToken === "" ? await lookUp(session, by, text, signal) : [];
  if (text !== "" && by !== "name" && by !== "anything") return { items: named, nextPageToken: "" };
  try {
    const page = await session.entities.listEntities(
      {
        nameQuery: text,
        type: question.type,
        statuses: question.status === EntityStatus.UNSPECIFIED ? [] : [question.status],
        showDeleted: text !== "",
        pageSize: PAGE_SIZE,
        pageToken,
      },
      { signal },
    );
    const known = new Set(named.map(({ entity }) => entity.id));
    const others = page.entities
      .filter(({ id }) => !known.has(id))
      .map((entity) => ({ entity, by: text === "" ? "" : "name" }));
    return { items: [...named, ...others], nextPageToken: page.nextPageToken };
  } catch (error) {
    // A tax id may be no name.
    if (by === "anything" && errorInfo(error)?.reason === "VALIDATION_ERROR")
      return { items: named, nextPageToken: "" };
    throw error;
  }
}

/** In characters. */
const LONGEST = { externalId: 255, taxId: 64 };
/** Of such scripts that any tax id is of. */
const MAY_BE_TAX_ID = /^[\p{ASCII}\p{Nd}Ññ]*$/u;

/** What the text names as a key, one or all of them. */
async function lookUp(session: Session, by: By, text: string, signal: AbortSignal): Promise<Hit[]> {
  const keys = [
    ...(by === "id" || (by === "anything" && isUuid(text.toLowerCase()))
      ? [{ case: "entityId" as const, value: text.toLowerCase(), word: "id" }]
      : []),
    ...(by === "externalId" || (by === "anything" && text.length <= LONGEST.externalId)
      ? [{ case: "externalId" as const, value: text, word: "external id" }]
      : []),
    ...(by === "taxId" || (by === "anything" && text.length <= LONGEST.taxId && MAY_BE_TAX_ID.test(text))
      ? [{ case: "taxId" as const, value: text, word: "tax id" }]
      : []),
  ];
  // What the service takes for no key is none: as anything it is still looked for as a name.
  const isNone = (error: unknown) =>
    by === "anything" && ["VALIDATION_ERROR", "INVALID_LOOKUP"].includes(errorInfo(error)?.reason ?? "");
  const answers = await Promise.all(
    keys.map((key) =>
      session.entities.batchGetEntities({ lookups: [{ by: key }] }, { signal }).catch((error: unknown) => {
        if (isNone(error)) return undefined;
        throw error;
      }),
    ),
  );
  const hits: Hit[] = [];
  for (const [index, answer] of answers.entries()) {
    const [found] = answer?.results ?? [];
    if (found === undefined) continue;
    const { result, redirectedFrom } = found;
    const word = keys[index]?.word ?? "";
    if (result.case === "entity")
      add(hits, { entity: result.value, by: redirectedFrom === "" ? word : `${word}, merged` });
    const info = result.case === "error" ? errorInfo(result.value) : undefined;
    if (info?.reason === "AMBIGUOUS_TAX_ID_LOOKUP")
      for (const hit of await holders(session, text, signal)) add(hits, hit);
  }
  return hits;
}

async function holders(session: Session, taxId: string, signal: AbortSignal): Promise<Hit[]> {
  const { entities } = await session.entities.listEntities({ taxId, pageSize: PAGE_SIZE }, { signal });
  return entities.map((entity) => ({ entity, by: "tax id" }));
}

function add(hits: Hit[], hit: Hit): void {
  if (!hits.some(({ entity }) => entity.id === hit.entity.id)) hits.push(hit);
}
