// Alarms for calls, which nearly always end before their time is up. To set and clear a timer costs several microseconds
// when no other is running. So the timer of an alarm that was given back keeps running and serves the next call. When it
// fires, it checks whether the time of its call is up, and runs on if not.

/** Rings once, at the time set last. Times are milliseconds of performance.now(). */
export interface Alarm {
  /** Replaces the time; Infinity: it does not ring. */
  ringAt(time: number): void;
  /** The alarm no longer rings, whatever is called on it. */
  giveBack(): void;
}

/** What an alarm calls when it rings. */
interface Sleeper {
  timeUp(): void;
}

/** The most timers kept for reuse. */
const MAX_SPARE = 256;

/** The returned function creates an alarm, which references the sleeper until it is given back. */
export function createAlarms(): (sleeper: Sleeper) => Alarm {
  const spare: Clock[] = [];
  return (sleeper) => new OneAlarm(spare, spare.pop() ?? new Clock(), sleeper);
}

/** The alarm of one call. Its clock serves another call once the alarm is given back. */
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
    // Open connections keep the process alive; alarms that were given back must not.
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
