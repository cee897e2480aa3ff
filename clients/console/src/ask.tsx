// The question before a write: what it does, and why it is done.
import { Dialog, DialogDismiss, DialogHeading } from "@ariakit/react";
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { useAct } from "./load.ts";
import { Problem } from "./problem.tsx";

export interface Question {
  title: string;
  /** The word on the button. */
  button: string;
  /** What the key may lack the scope to do: "merge entities". */
  what: string;
  /** Whether a reason is asked for, which is kept for ever. */
  needsReason: boolean;
  children?: ComponentChildren;
  /** Writes; the id makes a second attempt the same write. */
  write(given: { reason: string; requestId: string }): Promise<void>;
}

const MIN_REASON = 5;
const MAX_REASON = 4_000;

/** Shown while there is a question; `onEnd` says that it was answered or dismissed. */
export function Ask({ question, onEnd }: { question: Question | undefined; onEnd: () => void }) {
  if (question === undefined) return null;
  return <OpenQuestion question={question} onEnd={onEnd} />;
}

function OpenQuestion({ question, onEnd }: { question: Question; onEnd: () => void }) {
  const { isBusy, error, act } = useAct();
  const [reason, setReason] = useState("");
  const [requestId] = useState(() => crypto.randomUUID());
  const write = () =>
    act(async () => {
      await question.write({ reason: reason.trim(), requestId });
      onEnd();
    });
  return (
    <Dialog open onClose={onEnd} class="dialog" backdrop={<div class="backdrop" />}>
      <DialogHeading>{question.title}</DialogHeading>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          write();
        }}
      >
        {question.children}
        {question.needsReason ? (
          <label>
            Why <span class="hint">kept for ever, beside what is done</span>
            <textarea
              rows={2}
              required
              minLength={MIN_REASON}
              maxLength={MAX_REASON}
              value={reason}
              onInput={(event) => setReason(event.currentTarget.value)}
            />
          </label>
        ) : null}
        <Problem error={error} what={question.what} />
        <p class="buttons">
          <DialogDismiss class="quiet">Cancel</DialogDismiss>
          <button type="submit" class="primary" disabled={isBusy}>
            {question.button}
          </button>
        </p>
      </form>
    </Dialog>
  );
}
