// What went wrong, said where it went wrong: a scope that the key lacks is no failure of anybody.
import { ConnectError } from "@connectrpc/connect";
import { errorInfo } from "../../typescript/errors.ts";

/** Nothing where there is no error. */
export function Problem({ error, what, again }: { error: unknown; what: string; again?: () => void }) {
  if (error === undefined || error === null) return null;
  const info = errorInfo(error);
  if (info?.reason === "PERMISSION_DENIED") {
    const { scope } = info.metadata;
    return (
      <p class="notice" role="status">
        Your key may not {what}.{" "}
        {scope === undefined ? (
          "It lacks a scope."
        ) : (
          <>
            It lacks the scope <code>{scope}</code>.
          </>
        )}{" "}
        Everything else works as before.
      </p>
    );
  }
  return (
    <div class="notice bad" role="alert">
      <p>
        {messageOf(error)} {info === undefined ? null : <code>{info.reason}</code>}
      </p>
      {info === undefined || info.fieldViolations.length === 0 ? null : (
        <ul>
          {info.fieldViolations.map(({ field, description }) => (
            <li key={field}>
              <code>{field}</code> {description}
            </li>
          ))}
        </ul>
      )}
      {again === undefined ? null : (
        <button type="button" class="small" onClick={again}>
          Try again
        </button>
      )}
    </div>
  );
}

export function messageOf(error: unknown): string {
  if (errorInfo(error) !== undefined && error instanceof ConnectError) return error.rawMessage;
  const { rawMessage } = ConnectError.from(error);
  return /fetch|network/i.test(rawMessage) ? "The service does not answer: is it running?" : rawMessage;
}

export const reasonIs = (error: unknown, reason: string): boolean => errorInfo(error)?.reason === reason;
