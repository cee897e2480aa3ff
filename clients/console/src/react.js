// Preact in React's place, for the components that are written for React. Ariakit's handlers are set by insertion effects,
// which Preact runs with the others, after handlers of the same commit were called: here they run at once. No TypeScript,
// since the types of preact/compat cannot be exported again.
import { useMemo } from "preact/compat";

export * from "preact/compat";

export function useInsertionEffect(effect, inputs) {
  useMemo(effect, inputs ?? [{}]);
}
