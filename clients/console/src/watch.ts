// What happens, as it happens. A watch that breaks off goes on from its position; where that is no longer to be had, from
// now on, and whoever shows a list loads it anew.
import { useEffect, useRef, useState } from "preact/hooks";
import { errorInfo } from "../../typescript/errors.ts";
import type { EntityEvent } from "../../typescript/gen/entity/v1/entity_event_pb.ts";
import { useSession } from "./session.ts";

export type WatchState = "connecting" | "live" | "broken" | "not allowed";

const PAUSE_MS = { least: 500, most: 15_000 };

/** Of one entity, or of all. `onBegin`: from now on nothing is missed; what was before must be listed. */
export function useWatch(
  entityId: string | undefined,
  isOn: boolean,
  handlers: { onBegin: () => void; onEvent: (event: EntityEvent) => void },
): WatchState {
  const { entities } = useSession();
  const [state, setState] = useState<WatchState>("connecting");
  const latest = useRef(handlers);
  latest.current = handlers;
  useEffect(() => {
    if (!isOn) return undefined;
    const left = new AbortController();
    const { signal } = left;
    let position = "";
    let pauseMs = PAUSE_MS.least;
    const lookup = entityId === undefined ? {} : { lookup: { by: { case: "entityId" as const, value: entityId } } };
    const watch = async () => {
      for await (const message of entities.watchEntities({ ...lookup, position }, { signal, timeoutMs: 0 })) {
        if (signal.aborted) return;
        if (position === "") latest.current.onBegin();
        ({ position } = message);
        pauseMs = PAUSE_MS.least;
        setState("live");
        if (message.event !== undefined) latest.current.onEvent(message.event);
      }
    };
    const watchOn = async () => {
      while (!signal.aborted) {
        try {
          await watch();
        } catch (error) {
          const reason = errorInfo(error)?.reason ?? "";
          if (reason === "UNAUTHENTICATED") return;
          if (reason === "PERMISSION_DENIED") return setState("not allowed");
          if (reason.startsWith("POSITION_")) position = "";
        }
        if (signal.aborted) return;
        setState("broken");
        await pause(pauseMs * (0.5 + Math.random()), signal);
        pauseMs = Math.min(PAUSE_MS.most, pauseMs * 2);
      }
    };
    setState("connecting");
    void watchOn();
    return () => left.abort();
  }, [entities, entityId, isOn]);
  return state;
}

const pause = (ms: number, signal: AbortSignal) =>
  new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
