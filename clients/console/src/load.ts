// What a page asks the service for, while the page is there: a page that is left asks for nothing any more.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";

export interface Loaded<T> {
  /** The last answer, kept while the next is on its way. */
  value: T | undefined;
  error: unknown;
  isLoading: boolean;
  again(): void;
}

/** Calls `load` now, whenever one of `inputs` changes, and on `again()`. */
export function useLoad<T>(load: (signal: AbortSignal) => Promise<T>, inputs: readonly unknown[]): Loaded<T> {
  const [state, setState] = useState<Omit<Loaded<T>, "again">>({ value: undefined, error: undefined, isLoading: true });
  const [round, setRound] = useState(0);
  useEffect(() => {
    const left = new AbortController();
    setState(({ value }) => ({ value, error: undefined, isLoading: true }));
    load(left.signal).then(
      (value) => left.signal.aborted || setState({ value, error: undefined, isLoading: false }),
      (error: unknown) => left.signal.aborted || setState({ value: undefined, error, isLoading: false }),
    );
    return () => left.abort();
  }, [...inputs, round]);
  return { ...state, again: useCallback(() => setRound((one) => one + 1), []) };
}

export interface Page<T> {
  items: T[];
  nextPageToken: string;
}

export interface List<T> {
  items: T[];
  /** Whether there is another page. */
  hasMore: boolean;
  isLoading: boolean;
  error: unknown;
  more(): void;
  again(): void;
}

/** A list of the service, page by page; from its beginning whenever one of `inputs` changes. */
export function useList<T>(
  load: (pageToken: string, signal: AbortSignal) => Promise<Page<T>>,
  inputs: readonly unknown[],
): List<T> {
  const [pages, setPages] = useState<T[]>([]);
  const [token, setToken] = useState("");
  const [isLoading, setLoading] = useState(true);
  const [error, setError] = useState<unknown>(undefined);
  const [round, setRound] = useState(0);
  const current = useRef(new AbortController());
  const next = (pageToken: string, signal: AbortSignal) => {
    setLoading(true);
    load(pageToken, signal).then(
      ({ items, nextPageToken }) => {
        if (signal.aborted) return;
        setPages((before) => (pageToken === "" ? items : [...before, ...items]));
        setToken(nextPageToken);
        setError(undefined);
        setLoading(false);
      },
      (problem: unknown) => {
        if (signal.aborted) return;
        if (pageToken === "") setPages([]);
        setError(problem);
        setLoading(false);
      },
    );
  };
  useEffect(() => {
    current.current = new AbortController();
    setToken("");
    next("", current.current.signal);
    return () => current.current.abort();
  }, [...inputs, round]);
  return {
    items: pages,
    hasMore: token !== "",
    isLoading,
    error,
    more: () => next(token, current.current.signal),
    again: useCallback(() => setRound((one) => one + 1), []),
  };
}

/** A write that somebody asks for by a button: one at a time, and what came of it. */
export function useAct(): {
  isBusy: boolean;
  error: unknown;
  act(write: () => Promise<void>): void;
  forget(): void;
} {
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(undefined);
  const act = (write: () => Promise<void>) => {
    if (isBusy) return;
    setBusy(true);
    setError(undefined);
    write()
      .catch(setError)
      .finally(() => setBusy(false));
  };
  return { isBusy, error, act, forget: () => setError(undefined) };
}
