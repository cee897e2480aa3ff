// The key of a stream is checked as long as the stream lasts, and no longer.
import { expect, it } from "vitest";
import { EntityService } from "../clients/typescript/index.ts";
import { whileAllowed } from "../src/interceptors/while-allowed.ts";

it.each(["before the call begins", "while it is under way"])(
  "watches the key no longer when the caller leaves %s",
  async (when) => {
    let watched = 0;
    const watchKey = () => {
      watched += 1;
      return () => {
        watched -= 1;
      };
    };
    const method = EntityService.method.importEntities;
    const caller = new AbortController();
    if (when === "before the call begins") caller.abort();
    const request = { stream: true, service: EntityService, method, signal: caller.signal, header: new Headers() };
    const answer = { stream: true } as never;
    await whileAllowed({ watchKey, methods: new Set([method]) })(async () => answer)(request as never);
    caller.abort();
    expect(watched).toBe(0);
  },
);
