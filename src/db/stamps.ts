// A write commits soon after the time that it has: who reads the past relies on it that nothing of a moment comes long after
// it. The database says so itself, in a statement before COMMIT, where it is not certain.
import { DomainError } from "../domain/errors.ts";
import { instantToText } from "../domain/time.ts";
import type { StatementResult } from "./batch.ts";
import type { NamedStatementClient } from "./named-statements.ts";
import type { WriteTimes } from "./orm.ts";
import { serverErrorOf } from "./sqlstate.ts";
import type { Clock } from "./statements.ts";

/** Its answer is an error: COMMIT travels with it, and nobody has to wait for it first. */
const FAIL_IF_LATE = "select 1 / (clock_timestamp() <= $1::timestamptz + $2 * interval '1 ms')::int";
const DIVISION_BY_ZERO = "22012";

type Client = Pick<NamedStatementClient, "post">;

/** The statements of a transaction, whose `failures` are in their order, and the times that they write. */
export function createStamps(client: Client, failures: unknown[], { statementMs, longestMs }: WriteTimes) {
  let unanswered = 0;
  let earliest: Clock | undefined;
  let isLate = false;

  function post(
    text: string,
    values: readonly unknown[],
    failed: (error: Error) => void,
    answered?: (rows: StatementResult["rows"]) => void,
  ): void {
    unanswered += 1;
    const told = ({ rows }: StatementResult) => {
      unanswered -= 1;
      answered?.(rows);
    };
    client.post(text, values, told, (error) => {
      unanswered -= 1;
      failures.push(error);
      failed(error);
    });
  }

  return {
    post,

    stamp(clock: Clock): void {
      if (earliest === undefined || clock.now < earliest.now) earliest = clock;
    },

    /** Sent before COMMIT, unless that is in time if each statement without an answer took as long as it may. */
    look(): void {
      if (earliest === undefined) return;
      if (performance.now() - earliest.askedAt + unanswered * statementMs <= longestMs) return;
      post(FAIL_IF_LATE, [instantToText(earliest.now), longestMs], (error) => {
        isLate = failures[0] === error && serverErrorOf(error)?.code === DIVISION_BY_ZERO;
      });
    },

    /** Once COMMIT is answered. */
    refuseLate(): void {
      if (!isLate) return;
      throw new DomainError("WRITE_CONFLICT", "The write took too long behind its time: retry, or with less at once", {
        retry_after_ms: "100",
      });
    },
  };
}
