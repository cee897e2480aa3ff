// Entities that may be one: what they share, and the way to merging them or to saying that they are not.
import { useState } from "preact/hooks";
import type { DuplicateSuggestion } from "../../typescript/gen/entity/v1/duplicate_pb.ts";
import type { Entity } from "../../typescript/gen/entity/v1/entity_pb.ts";
import { Ask, type Question } from "./ask.tsx";
import { useList } from "./load.ts";
import { ListEnd, Status } from "./parts.tsx";
import { entityPath, pathOf } from "./route.ts";
import { type Session, useSession } from "./session.ts";
import { ruleWord } from "./words.ts";

export function DuplicatesPage() {
  return (
    <section>
      <h1>Suggested duplicates</h1>
      <p class="hint">
        Pairs that look like one person or company, the most certain first. Nothing is decided until you say so.
      </p>
      <DuplicateList />
    </section>
  );
}

interface Pair {
  suggestion: DuplicateSuggestion;
  first: Entity | undefined;
  second: Entity | undefined;
}

const PAGE_SIZE = 20;

/** Of one entity, or of all. */
export function DuplicateList({ entityId }: { entityId?: string }) {
  const session = useSession();
  const [question, setQuestion] = useState<Question | undefined>(undefined);
  const list = useList((pageToken, signal) => suggestions(session, entityId, pageToken, signal), [entityId]);
  const markDistinct = ({ suggestion, first, second }: Pair) =>
    setQuestion({
      title: "Mark as distinct?",
      button: "Mark as distinct",
      what: "mark entities as distinct",
      needsReason: true,
      children: (
        <p>
          <strong>{first?.name}</strong> and <strong>{second?.name}</strong> are two. They are no longer suggested, and
          nobody can merge them until the mark is lifted.
        </p>
      ),
      async write({ reason, requestId }) {
        const [one, other] = [suggestion.firstEntityId, suggestion.secondEntityId].map((value) => ({
          by: { case: "entityId" as const, value },
        }));
        await session.entities.markDistinct({ first: one!, second: other!, reason, requestId });
        list.again();
      },
    });
  return (
    <>
      <ul class="plain">
        {list.items.map((pair) => {
          const { suggestion, first, second } = pair;
          const { firstEntityId, secondEntityId } = suggestion;
          return (
            <li key={`${firstEntityId} ${secondEntityId}`} class="row">
              <div>
                <p>
                  <PairName entity={first} id={firstEntityId} />
                </p>
                <p>
                  <PairName entity={second} id={secondEntityId} />
                </p>
                <p class="fields">
                  {suggestion.reasons.map((reason, index) => (
                    <span key={index} class="field" title={reason.firstPaths.join(", ")}>
                      {ruleWord(reason.rule)}
                    </span>
                  ))}
                </p>
              </div>
              <p class="buttons">
                <button type="button" class="quiet" onClick={() => markDistinct(pair)}>
                  Not the same
                </button>
                <a class="button" href={pathOf({ page: "merge", primary: firstEntityId, secondary: secondEntityId })}>
                  Compare and merge
                </a>
              </p>
            </li>
          );
        })}
      </ul>
      <ListEnd list={list} what="read suggestions" empty="Nothing looks like a duplicate." />
      <Ask question={question} onEnd={() => setQuestion(undefined)} />
    </>
  );
}

function PairName({ entity, id }: { entity: Entity | undefined; id: string }) {
  return (
    <>
      <a href={entityPath(id)}>{entity?.name ?? id}</a>
      {entity === undefined ? null : (
        <>
          {" "}
          <Status entity={entity} /> <code class="hint">{entity.externalId}</code>
        </>
      )}
    </>
  );
}

async function suggestions(session: Session, entityId: string | undefined, pageToken: string, signal: AbortSignal) {
  const { suggestions: found, nextPageToken } = await session.entities.suggestDuplicates(
    {
      ...(entityId !== undefined && { lookup: { by: { case: "entityId", value: entityId } } }),
      pageSize: PAGE_SIZE,
      pageToken,
    },
    { signal },
  );
  const ids = [...new Set(found.flatMap(({ firstEntityId, secondEntityId }) => [firstEntityId, secondEntityId]))];
  const known = new Map<string, Entity>();
  if (ids.length > 0) {
    const { results } = await session.entities.batchGetEntities(
      {
        lookups: ids.map((value) => ({ by: { case: "entityId" as const, value } })),
        readMask: { paths: ["id", "name", "status", "external_id", "deleted_at"] },
      },
      { signal },
    );
    for (const { result } of results) if (result.case === "entity") known.set(result.value.id, result.value);
  }
  const items = found.map((suggestion) => ({
    suggestion,
    first: known.get(suggestion.firstEntityId),
    second: known.get(suggestion.secondEntityId),
  }));
  return { items, nextPageToken };
}
