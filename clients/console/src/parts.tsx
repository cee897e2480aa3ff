// What several pages show alike.
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import type { Entity } from "../../typescript/gen/entity/v1/entity_pb.ts";
import { EntityStatus } from "../../typescript/gen/entity/v1/entity_pb.ts";
import type { List } from "./load.ts";
import { Problem } from "./problem.tsx";
import { statusWord } from "./words.ts";

const TONES: Partial<Record<EntityStatus, string>> = {
  [EntityStatus.ACTIVE]: "good",
  [EntityStatus.PENDING]: "waiting",
  [EntityStatus.UNDER_REVIEW]: "waiting",
  [EntityStatus.SUSPENDED]: "bad",
  [EntityStatus.BLOCKED]: "bad",
  [EntityStatus.REJECTED]: "bad",
};

export function Status({ entity }: { entity: Entity }) {
  if (entity.deletedAt !== undefined) return <span class="status gone">deleted</span>;
  return <span class={`status ${TONES[entity.status] ?? ""}`}>{statusWord(entity.status)}</span>;
}

/** A value that is often needed elsewhere, with a button that copies it. */
export function Copyable({ text, label }: { text: string; label: string }) {
  const [isCopied, setCopied] = useState(false);
  const copy = () => {
    navigator.clipboard?.writeText(text).then(
      () => {
        setCopied(true);
        setTimeout(() => setCopied(false), 1_500);
      },
      () => {},
    );
  };
  return (
    <span class="copyable">
      <code>{text}</code>
      <button type="button" class="icon" onClick={copy} aria-label={`Copy ${label}`} title={`Copy ${label}`}>
        <svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true">
          <path d={isCopied ? "M3 8.5 6.5 12 13 4.5" : "M6 6h7v7H6zM3 10V3h7"} />
        </svg>
      </button>
    </span>
  );
}

/** The end of a list: more of it, what went wrong, or that there is nothing. */
export function ListEnd<T>({ list, what, empty }: { list: List<T>; what: string; empty: ComponentChildren }) {
  if (list.error !== undefined) return <Problem error={list.error} what={what} again={list.again} />;
  if (list.isLoading)
    return (
      <p class="hint" role="status">
        Loading
      </p>
    );
  if (list.items.length === 0) return <p class="empty">{empty}</p>;
  if (!list.hasMore) return null;
  return (
    <button type="button" class="more" onClick={list.more}>
      More
    </button>
  );
}

/** What may be wider than the screen: it scrolls by itself, by the keyboard too. */
export function Wide({ label, children }: { label: string; children: ComponentChildren }) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: else nobody could scroll it by the keyboard
    <section class="wide" tabIndex={0} aria-label={label}>
      {children}
    </section>
  );
}
