// What a run found: the table, the ratios, and the picture of the README.
import { availableParallelism, cpus, totalmem } from "node:os";

/** One contender in one setting, medians over the rounds. */
export interface Row {
  contender: string;
  operation: "get" | "update" | "import";
  /** In flight; for pgbench, clients. */
  concurrency: number;
  organizations: number;
  /** Of the service alone, while ten watchers get every event, and a webhook endpoint. */
  isConsumed?: boolean;
  /** Rows of an import, else calls or transactions. */
  perSecond: number;
  /** Of the rounds, the slowest and the fastest. */
  perSecondRange: [number, number];
  /** Milliseconds. */
  p50?: number;
  p99?: number;
  /** Microseconds of CPU per request, of the server and of all of PostgreSQL. */
  serverCpu?: number;
  databaseCpu?: number;
  /** Resident MiB of the server after it; of an import, before it and at its peak. */
  memory?: number;
  memoryBefore?: number;
  memoryPeak?: number;
}

export const RATIOS = {
  "get.64/guide": "GetEntity, 64 in flight: requests/s, times those of the guide's way",
  "get.64/guide.cpu": "GetEntity, 64 in flight: requests per CPU second, times those of the guide's way",
  "get.64/grpc-js": "GetEntity, 64 in flight: requests/s, times those of grpc-js over pg",
  "get.1/grpc-js.p50": "GetEntity, 1 in flight: how many times faster than grpc-js over pg (p50)",
  "get.64orgs/guide": "GetEntity, 64 in flight from 64 organizations: requests/s, times those of the guide's way",
  "update.64/guide": "UpdateEntity, 64 in flight: requests/s, times those of the guide's way",
  "update.64/pgbench": "UpdateEntity, 64 in flight: updates/s, times those of pgbench with 16 clients",
  "update.64/watched":
    "UpdateEntity, 64 in flight: updates/s with ten watchers and a webhook endpoint, over those without; 1 when they are free",
  "import/pgbench": "ImportEntities: rows/s, times pgbench's updates/s",
} as const;

export type Ratios = Partial<Record<keyof typeof RATIOS, number>>;

export interface Machine {
  cpu: string;
  cores: number;
  memoryGiB: number;
  node: string;
  /** Load average of the last minute when the run began and ended: on a quiet machine it begins near 0. */
  loadAverage: [number, number];
  date: string;
}

export function machineOf(loadAverage: [number, number]): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    node: process.version,
    loadAverage,
    date: new Date().toISOString().slice(0, 10),
  };
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

/** Higher is better for the service, in each. Those whose contenders were not measured are left out. */
export function ratiosOf(rows: readonly Row[]): Ratios {
  const find = (
    contender: string,
    operation: Row["operation"],
    concurrency: number,
    organizations = 1,
    isConsumed?: boolean,
  ) =>
    rows.find(
      (row) =>
        row.isConsumed === isConsumed &&
        row.contender === contender &&
        row.operation === operation &&
        row.concurrency === concurrency &&
        row.organizations === organizations,
    );
  const us = "entity-service";
  const pgbench = find("pgbench", "update", 16)?.perSecond;
  const over = (ours: number | undefined, theirs: number | undefined) => (ours ?? Number.NaN) / (theirs ?? Number.NaN);
  const all: Required<Ratios> = {
    "get.64/guide": over(find(us, "get", 64)?.perSecond, find("guide", "get", 64)?.perSecond),
    "get.64/guide.cpu": over(find("guide", "get", 64)?.serverCpu, find(us, "get", 64)?.serverCpu),
    "get.64/grpc-js": over(find(us, "get", 64)?.perSecond, find("grpc-js", "get", 64)?.perSecond),
    "get.1/grpc-js.p50": over(find("grpc-js", "get", 1)?.p50, find(us, "get", 1)?.p50),
    "get.64orgs/guide": over(find(us, "get", 64, 64)?.perSecond, find("guide", "get", 64, 64)?.perSecond),
    "update.64/guide": over(find(us, "update", 64)?.perSecond, find("guide", "update", 64)?.perSecond),
    "update.64/pgbench": over(find(us, "update", 64)?.perSecond, pgbench),
    "update.64/watched": over(find(us, "update", 64, 1, true)?.perSecond, find(us, "update", 64)?.perSecond),
    "import/pgbench": over(find(us, "import", 1)?.perSecond, pgbench),
  };
  const measured = Object.entries(all).filter(([, ratio]) => Number.isFinite(ratio));
  return Object.fromEntries(measured.map(([name, ratio]) => [name, Math.round(ratio * 100) / 100]));
}

const fixed = (value: number | undefined, digits: number) => (value === undefined ? "" : value.toFixed(digits));

export function tableOf(rows: readonly Row[], ratios: Ratios): string {
  const header = [
    "",
    "in flight",
    "",
    "per second",
    "(from, to)",
    "p50 ms",
    "p99 ms",
    "server CPU µs",
    "database CPU µs",
    "memory MiB",
  ];
  const cells = rows.map((row) => [
    `${row.operation}${row.organizations > 1 ? ` (${row.organizations} organizations)` : ""}${row.isConsumed ? " (ten watch, one webhook)" : ""}`,
    String(row.concurrency),
    row.contender,
    fixed(row.perSecond, 0),
    row.perSecondRange.map((value) => value.toFixed(0)).join(" "),
    fixed(row.p50, 2),
    fixed(row.p99, 2),
    fixed(row.serverCpu, 0),
    fixed(row.databaseCpu, 0),
    row.memoryPeak === undefined ? fixed(row.memory, 0) : `${row.memoryBefore} → ${row.memoryPeak}`,
  ]);
  const widths = header.map((name, i) => Math.max(name.length, ...cells.map((line) => line[i]?.length ?? 0)));
  const line = (texts: string[]) =>
    texts
      .map((text, i) => (i === 0 || i === 2 ? text.padEnd(widths[i] ?? 0) : text.padStart(widths[i] ?? 0)))
      .join("  ")
      .trimEnd();
  const names = Object.entries(RATIOS) as [keyof Ratios, string][];
  const told = names.map(
    ([name, text]) => `${name.padEnd(18)} ${(ratios[name]?.toFixed(2) ?? "-").padStart(7)}   ${text}`,
  );
  return [
    line(header),
    ...cells.map(line),
    "",
    "Ratios: more than 1 is better than the other. Those who watch are in a process of their own, on the same cores.",
    ...told,
  ].join("\n");
}

// --- The picture --------------------------------------------------------------------------------

const BARS: { title: string; operation: Row["operation"]; concurrency: number; organizations: number }[] = [
  { title: "GetEntity, 64 in flight", operation: "get", concurrency: 64, organizations: 1 },
  { title: "GetEntity, 64 in flight, 64 organizations", operation: "get", concurrency: 64, organizations: 64 },
  { title: "UpdateEntity with its audit event, 64 in flight", operation: "update", concurrency: 64, organizations: 1 },
];
const LABELS: Record<string, string> = {
  "entity-service": "EntityService",
  guide: "connect-node + MikroORM",
  "grpc-js": "grpc-js + pg",
  pgbench: "pgbench (no RPC)",
};
const WIDTH = 760;
const LEFT = 190;
const LONGEST = 430;

/** Requests/s as bars. Colours that can be read on white and on black; the text follows the reader's scheme. */
export function pictureOf(rows: readonly Row[], machine: Machine): string {
  const parts: string[] = [];
  let y = 26;
  const text = (x: number, at: number, content: string, extra = "") =>
    parts.push(`<text x="${x}" y="${at}"${extra}>${content}</text>`);
  text(12, y, "Requests per second", ' class="title"');
  y += 20;
  text(12, y, "All with the same contract, key check, row level security and database", ' class="note"');
  for (const { title, operation, concurrency, organizations } of BARS) {
    const shown = rows.filter(
      (row) =>
        row.operation === operation &&
        row.organizations === organizations &&
        !row.isConsumed &&
        LABELS[row.contender] !== undefined &&
        (row.concurrency === concurrency || row.contender === "pgbench"),
    );
    if (shown.length === 0) continue;
    const most = Math.max(...shown.map((row) => row.perSecond));
    y += 36;
    text(12, y, title, ' class="head"');
    for (const row of shown) {
      y += 24;
      const width = Math.max(2, Math.round((row.perSecond / most) * LONGEST));
      text(LEFT - 10, y, LABELS[row.contender] ?? "", ' text-anchor="end"');
      parts.push(
        `<rect x="${LEFT}" y="${y - 13}" width="${width}" height="16" rx="2" class="${row.contender === "entity-service" ? "us" : "other"}"/>`,
      );
      text(LEFT + width + 8, y, Math.round(row.perSecond).toLocaleString("en-US"));
    }
  }
  y += 34;
  const load = machine.loadAverage.map((value) => value.toFixed(1)).join(" to ");
  text(
    12,
    y,
    `${machine.cores} cores shared by load, server and PostgreSQL; load average ${load}; ${machine.date}; npm run bench`,
    ' class="note"',
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${y + 16}" viewBox="0 0 ${WIDTH} ${y + 16}" role="img" aria-label="Requests per second of EntityService and its peers">
<style>
text { font: 13px system-ui, sans-serif; fill: #6e7781; }
.title, .head { font-weight: 600; }
.title { font-size: 15px; }
.note { font-size: 11px; }
.us { fill: #2f81f7; }
.other { fill: #8b949e; }
@media (prefers-color-scheme: dark) { text { fill: #9198a1; } .title, .head { fill: #d1d7e0; } }
@media (prefers-color-scheme: light) { text { fill: #59636e; } .title, .head { fill: #1f2328; } }
</style>
${parts.join("\n")}
</svg>
`;
}
