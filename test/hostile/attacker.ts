// What an attacker is, and what it can use.
import type { ClientHttp2Session, ClientSessionOptions } from "node:http2";
import { type Answer, type Call, call, outcomeOf, problemOf, session } from "./answers.ts";
import type { Ground, Party } from "./ground.ts";
import { type Random, randomOf } from "./random.ts";

/** One input, or a handful that belong together. */
export interface Case {
  attacker: string;
  index: number;
  random: Random;
  ground: Ground;
  party: Party;
  port: number;
  /** The end of the attack: cases that wait or hold something stop. */
  over: AbortSignal;
  /** Counts inputs that were sent. */
  sent(inputs: number): void;
  /** Counts how something ended. */
  ended(outcome: string): void;
  /** A failure of the service, which is kept with the case. */
  failed(problem: string, input?: string): void;
  /** One of the connections that the process keeps open. */
  session(): Promise<ClientHttp2Session>;
  /** A call on one of them, counted and judged. */
  call(one: Call, on?: ClientHttp2Session): Promise<Answer>;
}

export interface Attacker {
  name: string;
  /** Cases begun in a second, and under way at once, at most. */
  perSecond: number;
  atOnce: number;
  attack(one: Case): Promise<void>;
}

export interface Failure {
  attacker: string;
  index: number;
  problem: string;
  input?: string;
}

/** Connections that are shared by the cases of a process, each replaced when it is over or has carried many calls. */
export function sessions(port: number, count: number, options: ClientSessionOptions = {}) {
  const open: (Promise<ClientHttp2Session> | undefined)[] = [];
  let turn = 0;
  return {
    async next(): Promise<ClientHttp2Session> {
      const at = turn++ % count;
      const known = await open[at]?.catch(() => undefined);
      if (known !== undefined && !known.destroyed && !known.closed) return known;
      const made = session(port, options);
      open[at] = made;
      return made;
    },
    async close() {
      for (const one of open) (await one?.catch(() => undefined))?.destroy();
    },
  };
}

export interface Notes {
  sent(inputs: number): void;
  ended(outcome: string): void;
  failed(failure: Failure): void;
}

export function caseOf(
  attacker: string,
  index: number,
  of: { ground: Ground; party: Party; over: AbortSignal; notes: Notes; next: () => Promise<ClientHttp2Session> },
): Case {
  const { ground, party, over, notes, next } = of;
  const one: Case = {
    attacker,
    index,
    random: randomOf(`${ground.seed}/${attacker}/${index}`),
    ground,
    party,
    port: ground.port,
    over,
    sent: notes.sent,
    ended: notes.ended,
    failed: (problem, input) => notes.failed({ attacker, index, problem, ...(input !== undefined && { input }) }),
    session: next,
    async call(request, on) {
      const answer = await call(on ?? (await next()), request);
      notes.sent(1);
      notes.ended(outcomeOf(answer));
      const problem = over.aborted ? undefined : problemOf(answer, request.path);
      if (problem !== undefined)
        one.failed(`${problem} (${request.path})`, [answer.state ?? [], describe(request)].flat().join(" "));
      return answer;
    },
  };
  return one;
}

/** The request, as far as it can be shown. */
function describe({ path, headers, body }: Call): string {
  const bytes = Array.isArray(body) ? Buffer.concat(body) : Buffer.from(body);
  const { authorization: _, ...shown } = headers;
  const text = /json/.test(headers["content-type"] ?? "") ? bytes.toString("utf8") : bytes.toString("hex");
  return `${path} ${JSON.stringify(shown)} ${bytes.length} bytes ${text.slice(0, 600)}`;
}
