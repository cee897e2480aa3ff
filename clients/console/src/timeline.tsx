// What happened, newest first: when, what, who and why at a glance, with the values before and after side by side.

import type { MessageInitShape } from "@bufbuild/protobuf";
import { useRef, useState } from "preact/hooks";
import { type EntityEvent, EventType } from "../../typescript/gen/entity/v1/entity_event_pb.ts";
import type { ListEntityEventsRequestSchema } from "../../typescript/gen/entity/v1/entity_service_pb.ts";
import { type Change, changesOf } from "./changes.ts";
import { useList } from "./load.ts";
import { ListEnd } from "./parts.tsx";
import { entityPath } from "./route.ts";
import { useSession } from "./session.ts";
import { ChangeTable, Path } from "./values.tsx";
import { useWatch, type WatchState } from "./watch.ts";
import { clockText, dayText, EVENT_TYPES, eventWord, exactTime, timestampOf } from "./words.ts";

interface Filter {
  type: EventType;
  actor: string;
  /** Days of UTC, both included; empty: no bound. */
  from: string;
  to: string;
}

const NO_FILTER: Filter = { type: EventType.UNSPECIFIED, actor: "", from: "", to: "" };
const PAGE_SIZE = 40;
/** What is kept of what came live, at most: a page that stays open for days must not grow. */
const MAX_FRESH = 500;
const TELL_MS = 500;
/** Changes that are shown without being asked for. */
const SHOWN_CHANGES = 6;

/** Of one entity, or of all. */
export function Timeline({ entityId, onEvent }: { entityId?: string; onEvent?: () => void }) {
  const { entities } = useSession();
  const [filter, setFilter] = useState(NO_FILTER);
  const [fresh, setFresh] = useState<EntityEvent[]>([]);
  const list = useList(
    async (pageToken, signal) => {
      if (pageToken === "") setFresh([]);
      const { events, nextPageToken } = await entities.listEntityEvents(
        { ...requestOf(filter, entityId), pageSize: PAGE_SIZE, pageToken },
        { signal },
      );
      return { items: events, nextPageToken };
    },
    [filter, entityId],
  );
  const isToldSoon = useRef(false);
  /** Once for all that happens together: each would end what the one before has asked for. */
  const tellSoon = () => {
    if (onEvent === undefined || isToldSoon.current) return;
    isToldSoon.current = true;
    setTimeout(() => {
      isToldSoon.current = false;
      onEvent();
    }, TELL_MS);
  };
  const state = useWatch(entityId, true, {
    onBegin: list.again,
    onEvent(event) {
      if (fits(event, filter)) setFresh((before) => [event, ...before].slice(0, MAX_FRESH));
      // What is cut off would be in neither list: from the beginning, with all that the service has.
      if (fresh.length >= MAX_FRESH && !list.isLoading) list.again();
      tellSoon();
    },
  });
  const known = new Set(list.items.map(({ id }) => id));
  const events = [...fresh.filter(({ id }) => !known.has(id)), ...list.items];
  return (
    <div class="timeline">
      <FilterForm filter={filter} onChange={setFilter} state={state} />
      {daysOf(events).map(([day, ofDay]) => (
        <section key={day} aria-label={day}>
          <h2 class="day">{day}</h2>
          <ol>
            {ofDay.map((event) => (
              <Entry key={event.id} event={event} isOfAll={entityId === undefined} owner={entityId} />
            ))}
          </ol>
        </section>
      ))}
      <ListEnd list={list} what="read what happened" empty={events.length > 0 ? null : "Nothing happened that fits."} />
    </div>
  );
}

function requestOf(
  filter: Filter,
  entityId: string | undefined,
): MessageInitShape<typeof ListEntityEventsRequestSchema> {
  return {
    ...(entityId !== undefined && { lookup: { by: { case: "entityId", value: entityId } } }),
    types: filter.type === EventType.UNSPECIFIED ? [] : [filter.type],
    actor: filter.actor,
    ...(filter.from !== "" && { from: timestampOf(`${filter.from}T00:00:00Z`) }),
    ...(filter.to !== "" && { to: timestampOf(`${nextDay(filter.to)}T00:00:00Z`) }),
  };
}

function nextDay(day: string): string {
  const next = new Date(`${day}T00:00:00Z`);
  next.setUTCDate(next.getUTCDate() + 1);
  return next.toISOString().slice(0, 10);
}

function fits(event: EntityEvent, { type, actor, from, to }: Filter): boolean {
  const day = dayText(event.recordedAt);
  return (
    (type === EventType.UNSPECIFIED || event.type === type) &&
    (actor === "" || event.actor === actor) &&
    (from === "" || day >= from) &&
    (to === "" || day <= to)
  );
}

function daysOf(events: EntityEvent[]): [string, EntityEvent[]][] {
  const days = new Map<string, EntityEvent[]>();
  for (const event of events) {
    const day = dayText(event.recordedAt);
    const ofDay = days.get(day);
    if (ofDay === undefined) days.set(day, [event]);
    else ofDay.push(event);
  }
  return [...days];
}

const STATES: Record<WatchState, string> = {
  connecting: "connecting",
  live: "live",
  broken: "not live, trying again",
  "not allowed": "not live",
};

function FilterForm({
  filter,
  onChange,
  state,
}: {
  filter: Filter;
  onChange: (filter: Filter) => void;
  state: WatchState;
}) {
  const [actor, setActor] = useState(filter.actor);
  return (
    <form
      class="filters"
      aria-label="Filter what happened"
      onSubmit={(event) => {
        event.preventDefault();
        onChange({ ...filter, actor: actor.trim() });
      }}
    >
      <label>
        What
        <select
          value={filter.type}
          onChange={(event) => onChange({ ...filter, type: Number(event.currentTarget.value) as EventType })}
        >
          <option value={EventType.UNSPECIFIED}>everything</option>
          {EVENT_TYPES.map((type) => (
            <option key={type} value={type}>
              {eventWord(type)}
            </option>
          ))}
        </select>
      </label>
      <label>
        Who
        <input
          type="text"
          autocomplete="off"
          placeholder="anybody"
          value={actor}
          onInput={(event) => setActor(event.currentTarget.value)}
          onBlur={() => actor.trim() === filter.actor || onChange({ ...filter, actor: actor.trim() })}
        />
      </label>
      <label>
        From
        <input
          type="date"
          value={filter.from}
          max={filter.to || undefined}
          onChange={(event) => onChange({ ...filter, from: event.currentTarget.value })}
        />
      </label>
      <label>
        To
        <input
          type="date"
          value={filter.to}
          min={filter.from || undefined}
          onChange={(event) => onChange({ ...filter, to: event.currentTarget.value })}
        />
      </label>
      <span class={`live ${state.replace(" ", "-")}`} role="status">
        {STATES[state]}
      </span>
    </form>
  );
}

const TONES: Partial<Record<EventType, string>> = {
  [EventType.CREATED]: "good",
  [EventType.UNDELETED]: "good",
  [EventType.DELETED]: "bad",
  [EventType.MERGED]: "merge",
  [EventType.MERGE_RECEIVED]: "merge",
  [EventType.UNMERGED]: "merge",
  [EventType.MERGE_RETURNED]: "merge",
  [EventType.EXTERNAL_ID_CHANGED]: "id",
};

function Entry({ event, isOfAll, owner }: { event: EntityEvent; isOfAll: boolean; owner: string | undefined }) {
  const changes = changesOf(event);
  const [isOpen, setOpen] = useState(changes.length <= SHOWN_CHANGES && event.type !== EventType.CREATED);
  const { recordedAt } = event;
  return (
    <li class={`entry ${TONES[event.type] ?? ""}`}>
      <time dateTime={recordedAt && exactTime(recordedAt)}>{clockText(recordedAt)}</time>
      <div class="what">
        <p class="line">
          <strong>{eventWord(event.type)}</strong>
          {isOfAll || event.entityId !== owner ? (
            <a href={entityPath(event.entityId, "timeline")}>
              {event.externalId === "" ? event.entityId : event.externalId}
            </a>
          ) : null}
          <Fields changes={changes} />
          <span class="who">
            by <b>{event.actor}</b>
          </span>
        </p>
        {event.reason === "" ? null : <p class="why">{event.reason}</p>}
        {changes.length === 0 ? null : (
          <details open={isOpen} onToggle={(toggled) => setOpen(toggled.currentTarget.open)}>
            <summary>{changes.length === 1 ? "1 value" : `${changes.length} values`}</summary>
            {isOpen ? <ChangeTable changes={changes} /> : null}
          </details>
        )}
        <Footnotes event={event} />
      </div>
    </li>
  );
}

const MAX_FIELDS = 4;

/** The names of what changed, for the eye that runs down the page. */
function Fields({ changes }: { changes: Change[] }) {
  const names = [...new Set(changes.map(({ path }) => path))];
  if (names.length === 0) return null;
  return (
    <span class="fields">
      {names.slice(0, MAX_FIELDS).map((path) => (
        <span key={path} class="field">
          <Path path={path.slice(path.lastIndexOf(".") + 1)} />
        </span>
      ))}
      {names.length > MAX_FIELDS ? <span class="hint">and {names.length - MAX_FIELDS} more</span> : null}
    </span>
  );
}

function Footnotes({ event }: { event: EntityEvent }) {
  const { primaryId, secondaryId } = event.metadata ?? {};
  const other = [primaryId, secondaryId].find((id) => typeof id === "string" && id !== event.entityId);
  return (
    <p class="hint footnotes">
      <span>version {String(event.entityVersion)}</span>
      <span>from {event.source}</span>
      {event.actor === event.principal ? null : <span>with key {event.principal}</span>}
      {event.recordedAt === undefined ? null : (
        <a href={entityPath(event.entityId, "overview", exactTime(event.recordedAt))}>as it was then</a>
      )}
      {typeof other === "string" ? <a href={entityPath(other)}>the other entity</a> : null}
      {event.occurredAt === undefined ? null : (
        <span>
          happened {dayText(event.occurredAt)} {clockText(event.occurredAt)}
        </span>
      )}
      {event.requestId === "" ? null : <span>request {event.requestId}</span>}
    </p>
  );
}
