// Timers for calls that nearly always end before their time is up. Setting and clearing a timer for each would cost more than
// what it guards: an alarm that is given back stays set, fires without an effect or is taken by the next call, and looks
// again when it fires.

/** Rings once, at the time that was set last. Times are milliseconds of performance.now(). */
export interface Alarm {
  /** From now on it rings at this time; Infinity: not at all. */
  ringAt(time: number): void;
  /** It does not ring any more, and is not to be used again. */
  giveBack(): void;
}

/** Whoever an alarm rings for. */
interface Sleeper {
  timeUp(): void;
}

/** Alarms that are kept when they are given back. */
const MAX_SPARE = 256;

/** The returned function sets up an alarm; it holds the sleeper until it is given back. */
export function createAlarms(): (sleeper: Sleeper) => Alarm {
  const spare: Clock[] = [];
  return (sleeper) => new OneAlarm(spare, spare.pop() ?? new Clock(), sleeper);
}

/** What a call holds: the clock behind it serves another call once it is given back. */
class OneAlarm implements Alarm {
  readonly #spare: Clock[];
  #clock: Clock | undefined;

  constructor(spare: Clock[], clock: Clock, sleeper: Sleeper) {
    this.#spare = spare;
    this.#clock = clock;
    clock.sleeper = sleeper;
  }

  ringAt(time: number): void {
    this.#clock?.ringAt(time);
  }

  giveBack(): void {
    const clock = this.#clock;
    if (clock === undefined) return;
    this.#clock = undefined;
    clock.sleeper = undefined;
    clock.ringAt(Number.POSITIVE_INFINITY);
    if (this.#spare.length < MAX_SPARE) this.#spare.push(clock);
    else clock.stop();
  }
}

class Clock {
  sleeper: Sleeper | undefined;
  #ringsAt = Number.POSITIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #firesAt = 0;

  ringAt(time: number): void {
    this.#ringsAt = time;
    if (time === Number.POSITIVE_INFINITY || (this.#timer !== undefined && this.#firesAt <= time)) return;
    clearTimeout(this.#timer);
    this.#firesAt = time;
    // Calls hold the process by their connections; alarms that were given back must not.
    this.#timer = setTimeout(() => this.#look(), Math.max(0, time - performance.now())).unref();
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  #look(): void {
    this.#timer = undefined;
    if (this.#ringsAt > performance.now()) this.ringAt(this.#ringsAt);
    else {
      this.#ringsAt = Number.POSITIVE_INFINITY;
      this.sleeper?.timeUp();
    }
  }
}
