// Several addresses of one service, to which calls go in turn.
import type { Transport } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import { errorInfo } from "./errors.ts";
import { withoutAnswer } from "./lost.ts";

/** For so long an address that did not answer is left out, while others are there. */
const LEFT_OUT_MS = 1_000;

export function inTurn(transports: readonly Transport[]): Transport {
  const [only, ...others] = transports;
  if (only === undefined) throw new TypeError("baseUrl is empty: say where the service is");
  if (others.length === 0) return only;
  const lostAt = transports.map(() => Number.NEGATIVE_INFINITY);
  let turn = Math.floor(Math.random() * transports.length);

  async function call<T>(send: (transport: Transport) => Promise<T>): Promise<T> {
    const now = performance.now();
    const isHere = (index: number) => now - (lostAt[index] as number) > LEFT_OUT_MS;
    turn = (turn + 1) % transports.length;
    for (let i = 1; i < transports.length && !isHere(turn); i++) turn = (turn + 1) % transports.length;
    const index = turn;
    try {
      return await send(transports[index] as Transport);
    } catch (thrown) {
      const error = withoutAnswer(thrown);
      const isLost = error instanceof ConnectError && error.code === Code.Unavailable && errorInfo(error) === undefined;
      if (isLost) lostAt[index] = performance.now();
      throw error;
    }
  }
  return {
    unary: (...args) => call((transport) => transport.unary(...args)),
    stream: (...args) => call((transport) => transport.stream(...args)),
  };
}
