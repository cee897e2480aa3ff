// Collects what is wrong with a request, so that a caller learns of everything at once: the first fields by name, the
// rest as a number.
import { DomainError, type Violation } from "../domain/errors.ts";
import { LIMITS } from "../domain/limits.ts";

export class Violations {
  readonly #list: Violation[] = [];
  #more = 0;

  /** Notes that `field`, a path of the request, is at fault. */
  add(field: string, description: string): void {
    if (this.#list.length < LIMITS.violations) this.#list.push({ field, description });
    else this.#more += 1;
  }

  /** Notes `problem` where there is one. */
  check(field: string, problem: string | null): void {
    if (problem !== null) this.add(field, problem);
  }

  /** Throws VALIDATION_ERROR if anything was noted; its text is that of the first. */
  throwIfAny(): void {
    const [first] = this.#list;
    if (first === undefined) return;
    const limit = /(?:longer|more|deeper|larger) than (\d+)|at most (\d+)/
      .exec(first.description)
      ?.slice(1)
      .find(Boolean);
    throw new DomainError(
      "VALIDATION_ERROR",
      `${first.field}: ${first.description}`,
      {
        field: first.field,
        ...(limit === undefined ? {} : { limit }),
        ...(this.#more === 0 ? {} : { more_violations: String(this.#more) }),
      },
      this.#list,
    );
  }
}
