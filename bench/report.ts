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

type Peer = "guide" | "grpc-js" | "go";
const PEERS: Record<Peer, string> = {
  guide: "the guide's way",
  "grpc-js": "grpc-js over pg",
  go: "grpc-go over pgx",
};
const US = "entity-service";

/** A ratio to a peer in one setting, by what: higher is better for the service, in each. */
interface Comparison {
  operation: "get" | "update";
  concurrency: number;
  organizations: number;
  peer: Peer;
  by: keyof typeof MEASURES;
}

const MEASURES = {
  rate: { text: "requests/s, times those of", of: (us: Row, them: Row) => us.perSecond / them.perSecond },
  p50: { text: "how many times faster (p50) than", of: (us: Row, them: Row) => over(them.p50, us.p50) },
  cpu: {
    text: "requests per CPU second of the server, times those of",
    of: (us: Row, them: Row) => over(them.serverCpu, us.serverCpu),
  },
  total: {
    text: "requests per CPU second of server and database, times those of",
    of: (us: Row, them: Row) => over(totalCpu(them), totalCpu(us)),
  },
};

const over = (a: number | undefined, b: number | undefined) => (a ?? Number.NaN) / (b ?? Number.NaN);
const totalCpu = ({ serverCpu, databaseCpu }: Row) => (serverCpu ?? Number.NaN) + (databaseCpu ?? Number.NaN);

const COMPARED: { concurrency: number; organizations: number; peers: Partial<Record<Peer, Comparison["by"][]>> }[] = [
  { concurrency: 1, organizations: 1, peers: { "grpc-js": ["p50", "cpu", "total"], go: ["p50", "total"] } },
  { concurrency: 16, organizations: 1, peers: { go: ["rate"] } },
  {
    concurrency: 64,
    organizations: 1,
    peers: { guide: ["rate", "cpu"], "grpc-js": ["rate"], go: ["rate", "total"] },
  },
  { concurrency: 1, organizations: 64, peers: { go: ["p50"] } },
  { concurrency: 64, organizations: 64, peers: { guide: ["rate"], "grpc-js": ["rate"], go: ["rate", "total"] } },
];

const COMPARISONS: Comparison[] = (["get", "update"] as const).flatMap((operation) =>
  COMPARED.flatMap(({ concurrency, organizations, peers }) =>
    Object.entries(peers).flatMap(([peer, measures]) =>
      measures.map((by) => ({ operation, concurrency, organizations, peer: peer as Peer, by })),
    ),
  ),
);

/** Such as `get.64/guide`, `update.64orgs/go.total`. */
const nameOf = ({ operation, concurrency, organizations, peer, by }: Comparison) =>
  `${operation}.${concurrency}${organizations === 1 ? "" : "orgs"}/${peer}${by === "rate" ? "" : `.${by}`}`;

const METHODS = { get: "GetEntity", update: "UpdateEntity" };
const titleOf = ({ operation, concurrency, organizations }: Omit<Comparison, "peer" | "by">) =>
  `${METHODS[operation]}, ${concurrency} in flight${organizations === 1 ? "" : ` from ${organizations} organizations`}`;

/** What the ratios are of, in the order of the report. */
const RATIOS: ReadonlyMap<string, string> = new Map([
  ...COMPARISONS.map((one): [string, string] => [
    nameOf(one),
    `${titleOf(one)}: ${MEASURES[one.by].text} ${PEERS[one.peer]}`,
  ]),
  ["update.64/pgbench", "UpdateEntity, 64 in flight: updates/s, times those of pgbench with 16 clients"],
  [
    "update.64/watched",
    "UpdateEntity, 64 in flight: updates/s with ten watchers and a webhook endpoint, over those without; 1 when they are free",
  ],
  ["import/pgbench", "ImportEntities: rows/s, times pgbench's updates/s"],
]);

/** By the names of RATIOS; what was not measured is not there. */
export type Ratios = Record<string, number>;

export interface Machine {
  cpu: string;
  cores: number;
  memoryGiB: number;
  node: string;
  /** Load average of the last minute when the run began and ended: on a quiet machine it begins near 0. */
  loadAverage: [number, number];
  /** How many of the cores others used while the rounds ran, on average: on a quiet machine near 0. */
  coresOfOthers: number;
  date: string;
}

export function machineOf(loadAverage: [number, number], coresOfOthers: number): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    node: process.version,
    loadAverage,
    coresOfOthers,
    date: new Date().toISOString().slice(0, 10),
  };
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

/** Those whose contenders were not measured are left out. */
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
  const all = COMPARISONS.map((one): [string, number] => {
    const [us, them] = [US, one.peer].map((name) => find(name, one.operation, one.concurrency, one.organizations));
    return [nameOf(one), us === undefined || them === undefined ? Number.NaN : MEASURES[one.by].of(us, them)];
  });
  const updates = find(US, "update", 64)?.perSecond;
  const pgbench = find("pgbench", "update", 16)?.perSecond;
  all.push(["update.64/pgbench", over(updates, pgbench)]);
  all.push(["update.64/watched", over(find(US, "update", 64, 1, true)?.perSecond, updates)]);
  all.push(["import/pgbench", over(find(US, "import", 1)?.perSecond, pgbench)]);
  const measured = all.filter(([, ratio]) => Number.isFinite(ratio));
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
  const width = Math.max(...[...RATIOS.keys()].map((name) => name.length));
  const told = [...RATIOS].map(
    ([name, text]) => `${name.padEnd(width)} ${(ratios[name]?.toFixed(2) ?? "-").padStart(7)}   ${text}`,
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

const LABELS: Record<string, string> = {
  [US]: "EntityService",
  guide: "connect-node + MikroORM",
  "grpc-js": "grpc-js + pg",
  go: "grpc-go + pgx",
  pgbench: "pgbench (no RPC)",
};
const WIDTH = 760;
const COLUMN = 376;
/** Where the bars of a column begin, and how long the longest is. */
const LEFT = 172;
const LONGEST = 142;
const LINE = 17;

/** Requests/s as bars, a column for one organization and one for many. Colours that can be read on white and on black; the text follows the reader's scheme. */
export function pictureOf(rows: readonly Row[], machine: Machine): string {
  const parts: string[] = [];
  const text = (x: number, y: number, content: string, extra = "") =>
    parts.push(`<text x="${x}" y="${y}"${extra}>${content}</text>`);
  text(12, 26, "Requests per second", ' class="title"');
  text(12, 46, "All with the same contract, key check, row level security and database", ' class="note"');
  const settings = new Map<string, Row[]>();
  for (const row of rows) {
    if (row.operation === "import" || row.isConsumed || LABELS[row.contender] === undefined) continue;
    const key = JSON.stringify([row.operation, row.concurrency]);
    settings.set(key, [...(settings.get(key) ?? []), row]);
  }
  let y = 46;
  for (const shown of settings.values()) {
    const columns = [shown.filter((row) => row.organizations === 1), shown.filter((row) => row.organizations > 1)];
    y += 34;
    for (const [i, column] of columns.entries()) chartOf(column, 12 + i * COLUMN, y);
    y += LINE * Math.max(...columns.map((column) => column.length));
  }
  y += 34;
  const load = machine.loadAverage.map((value) => value.toFixed(1)).join(" to ");
  const sharing = `${machine.cores} cores shared by load, server and PostgreSQL; others used ${machine.coresOfOthers.toFixed(2)}; load average ${load}`;
  text(12, y, `${sharing}; ${machine.date}; npm run bench`, ' class="note"');

  /** One setting: its title at (x, top), the bars below it. */
  function chartOf(shown: readonly Row[], x: number, top: number): void {
    const [first] = shown;
    if (first === undefined || first.operation === "import") return;
    const most = Math.max(...shown.map((row) => row.perSecond));
    text(x, top, titleOf({ ...first, operation: first.operation }), ' class="head"');
    for (const [i, row] of shown.entries()) {
      const at = top + 3 + LINE * (i + 1);
      const width = Math.max(2, Math.round((row.perSecond / most) * LONGEST));
      text(x + LEFT - 10, at, LABELS[row.contender] ?? "", ' text-anchor="end"');
      parts.push(
        `<rect x="${x + LEFT}" y="${at - 10}" width="${width}" height="12" rx="2" class="${row.contender === US ? "us" : "other"}"/>`,
      );
      text(x + LEFT + width + 6, at, Math.round(row.perSecond).toLocaleString("en-US"));
    }
  }

  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${y + 16}" viewBox="0 0 ${WIDTH} ${y + 16}" role="img" aria-label="Requests per second of EntityService and its peers">
<style>
text { font: 12px system-ui, sans-serif; fill: #6e7781; }
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
