// The addresses of a receiver's name.
import { Resolver, lookup as systemLookup } from "node:dns/promises";

/** All addresses of a name, none where it has none. `isNamed`: the operator's list names it. */
export type ResolveName = (name: string, isNamed: boolean) => Promise<string[]>;

/**
 * Asks DNS alone for what anybody may register: the files of the machine know nothing public, and the system's
 * resolver, with its few threads, would make all deliveries wait for one slow name server. What the operator names
 * may be in those files. Rejects where nothing answered.
 */
export function createLookup(resolver = new Resolver({ timeout: 2_000, tries: 2 })): ResolveName {
  return async (name, isNamed) => {
    if (isNamed) return (await systemLookup(name, { all: true })).map(({ address }) => address);
    // Each fails where there is no address of its family; half an answer is one that was checked too.
    const answers = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)]);
    return answers.flatMap((answer) => (answer.status === "fulfilled" ? answer.value : []));
  };
}
