// The histogram of how long calls take. The library's own makes a text of the labels for each observation and looks its
// buckets up by the texts of their bounds, which costs more than all else that is counted of a call.
import { Histogram, type Registry } from "prom-client";

type Label = "method" | "code";

/** The calls of one method that ended with one code. */
interface Series {
  labels: Record<Label, string>;
  /** By bucket, the last for what is longer than any. */
  counts: number[];
  sum: number;
}

/** A value as the library writes it. */
interface Value {
  metricName: string;
  labels: { le?: number | "+Inf" };
  sharedLabels: Record<Label, string>;
  value: number;
}

/** Durations in seconds. */
export class Durations extends Histogram<Label> {
  readonly #about: { name: string; help: string };
  readonly #bounds: readonly number[];
  readonly #series: Series[] = [];
  readonly #known = new Map<string, Map<string, Series>>();

  /** `bounds` are those of the buckets, ascending. */
  constructor({ bounds, registry, ...about }: { name: string; help: string; bounds: number[]; registry: Registry }) {
    super({ ...about, labelNames: ["method", "code"], buckets: bounds, registers: [registry] });
    this.#about = about;
    this.#bounds = bounds;
  }

  count(method: string, code: string, seconds: number): void {
    const { counts } = this.#add(method, code, seconds);
    let bucket = 0;
    while (bucket < this.#bounds.length && seconds > (this.#bounds[bucket] as number)) bucket += 1;
    counts[bucket] = (counts[bucket] as number) + 1;
  }

  #add(method: string, code: string, seconds: number): Series {
    let byCode = this.#known.get(method);
    if (byCode === undefined) {
      byCode = new Map();
      this.#known.set(method, byCode);
    }
    let series = byCode.get(code);
    if (series === undefined) {
      series = { labels: { method, code }, counts: new Array(this.#bounds.length + 1).fill(0), sum: 0 };
      byCode.set(code, series);
      this.#series.push(series);
    }
    series.sum += seconds;
    return series;
  }

  /** What the library makes both of its forms of. Its types lack it; a test holds the outcome against the library's own. */
  async getForPromString() {
    const values = this.#series.flatMap((series) => this.#valuesOf(series));
    return { ...this.#about, type: "histogram", aggregator: "sum", values };
  }

  #valuesOf({ labels: sharedLabels, counts, sum }: Series): Value[] {
    const { name } = this.#about;
    let count = 0;
    const buckets = counts.map((own, bucket): Value => {
      count += own;
      const le = this.#bounds[bucket] ?? "+Inf";
      return { metricName: `${name}_bucket`, labels: { le }, sharedLabels, value: count };
    });
    return [
      ...buckets,
      { metricName: `${name}_sum`, labels: {}, sharedLabels, value: sum },
      { metricName: `${name}_count`, labels: {}, sharedLabels, value: count },
    ];
  }
}
