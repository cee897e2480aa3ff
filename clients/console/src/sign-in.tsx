// Signing in with an API key. The form is sent nowhere: the key goes into the header of calls, and into nothing else.
import { useRef, useState } from "preact/hooks";
import { Problem, reasonIs } from "./problem.tsx";
import { checkKey, createSession, type Session, type SessionEnd } from "./session.ts";

const GOODBYES: Record<SessionEnd, string> = {
  "signed out": "You are signed out, and the key is forgotten.",
  refused: "The service no longer accepts the key: it was revoked, or has expired. Sign in with another one.",
};

export function SignIn({
  end,
  onSignedIn,
  onRefused,
}: {
  end: SessionEnd | undefined;
  onSignedIn: (session: Session) => void;
  onRefused: () => void;
}) {
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(undefined);
  const key = useRef<HTMLInputElement>(null);
  const actor = useRef<HTMLInputElement>(null);

  const signIn = async () => {
    const secret = key.current?.value.trim() ?? "";
    if (secret === "") return key.current?.focus();
    setBusy(true);
    setError(undefined);
    let isSignedIn = false;
    const session = createSession(secret, actor.current?.value.trim() ?? "", () => isSignedIn && onRefused());
    try {
      await checkKey(session);
      isSignedIn = true;
      onSignedIn(session);
    } catch (problem) {
      setError(problem);
      setBusy(false);
      key.current?.focus();
    }
  };

  return (
    <main class="sign-in">
      <h1>EntityService</h1>
      {end === undefined ? null : (
        <p class="notice" role="status">
          {GOODBYES[end]}
        </p>
      )}
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void signIn();
        }}
      >
        <label>
          API key
          <input ref={key} type="password" autocomplete="off" spellcheck={false} required maxLength={256} autofocus />
        </label>
        <label>
          <span>
            Your user id <span class="hint">shown as who did it; empty: the key</span>
          </span>
          <input ref={actor} type="text" autocomplete="off" spellcheck={false} maxLength={255} />
        </label>
        {reasonIs(error, "UNAUTHENTICATED") ? (
          <p class="notice bad" role="alert">
            The service does not know this key, or it was revoked or has expired.
          </p>
        ) : (
          <Problem error={error} what="sign in" />
        )}
        <button type="submit" class="primary" disabled={isBusy}>
          {isBusy ? "Signing in" : "Sign in"}
        </button>
      </form>
      <p class="hint">
        The key stays in the memory of this page, and is forgotten when you sign out, reload or close it. The first key
        of a new service is in <code>.data/bootstrap-key</code>.
      </p>
    </main>
  );
}
