// Shows that the suite works: copies of the service with one planted bug each, and the check that must find it. A text
// that is no longer in the source is an error: the bug must be planted anew.
import { type ChildProcess, spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { CHECKS, type CheckName } from "./checks.ts";

interface Planted {
  name: string;
  /** Each text, which is there once, and what it becomes. */
  changes: { file: string; from: string; to: string }[];
  /** Under which faults it shows; separated by semicolons. */
  faults: string;
  seconds: number;
  /** One of these is enough. */
  finds: CheckName[];
}

export const PLANTED: readonly Planted[] = [
  {
    name: "no event of a deletion",
    changes: [
      {
        file: "src/entities/group.ts",
        from: "insertEvents(db, organizationId, events)",
        to: 'insertEvents(db, organizationId, events.filter(({ type }) => type !== "DELETED"))',
      },
    ],
    faults: "kill",
    seconds: 15,
    finds: ["acknowledged"],
  },
  {
    name: "no period of an external id that was changed",
    changes: [
      {
        file: "src/entities/group.ts",
        from: "insertPast(db, organizationId, this.#past)",
        to: "insertPast(db, organizationId, [])",
      },
    ],
    faults: "kill",
    seconds: 15,
    finds: ["copies"],
  },
  {
    name: "answered before the commit",
    changes: [
      {
        file: "src/db/transaction.ts",
        from: "    await client.send(validateOnly",
        to: "    void client.send(validateOnly",
      },
    ],
    faults: "lost commits; crash",
    seconds: 25,
    finds: ["acknowledged"],
  },
  {
    // Statements that are sent together are all lost; a COMMIT that is sent alone is taken for done.
    name: "a connection lost at the commit is no news",
    changes: [
      {
        file: "src/db/named-statements.ts",
        from: '      throw new CommitUnknownError("the connection was lost during the commit", { cause: error });\n',
        to: '      return { command: "COMMIT", rowCount: null, oid: 0, rows: [], fields: [] };\n',
      },
    ],
    faults: "lost commits; lost answers",
    seconds: 30,
    finds: ["acknowledged", "refused"],
  },
  {
    name: "requests are not remembered",
    changes: [
      {
        file: "src/entities/requests.ts",
        from: '    if (record === undefined) throw new Error("a request record vanished");\n',
        to: '    if (record !== undefined) return "claimed";\n    if (record === undefined) throw new Error("gone");\n',
      },
    ],
    faults: "lost answers",
    seconds: 20,
    finds: ["once"],
  },
  {
    name: "tried again after an unknown commit",
    changes: [
      {
        file: "src/db/transaction.ts",
        from: "      const meaning = whatHappened(error);\n",
        to: "      const meaning = whatHappened(error);\n      if (meaning === IN_DOUBT && ++count < MAX_ATTEMPTS) continue;\n",
      },
    ],
    faults: "lost answers",
    seconds: 40,
    finds: ["once"],
  },
  {
    name: "the transaction at the beginning of a range is left out",
    changes: [{ file: "src/log/source.ts", from: "and v.xid >= $3::xid8", to: "and v.xid > $3::xid8" }],
    faults: "kill",
    seconds: 15,
    finds: ["watched"],
  },
  {
    name: "a position rests on transactions that left nothing behind",
    changes: [
      {
        file: "src/log/durable.ts",
        from: "export const durableEnd = (snapshot: Snapshot, lastXid: bigint): Snapshot => upTo(lastXid + 1n, snapshot);",
        to: "export const durableEnd = (snapshot: Snapshot, lastXid: bigint): Snapshot => (lastXid ? snapshot : upTo(lastXid, snapshot));",
      },
    ],
    faults: "crash, ids given again",
    seconds: 20,
    finds: ["watched", "streams", "told"],
  },
  {
    name: "webhooks do not wait for each other",
    changes: [
      {
        file: "src/db/migrations/20261124070000_webhooks.ts",
        from: "create unique index webhook_delivery_head",
        to: "create index webhook_delivery_head",
      },
      {
        file: "src/webhooks/queue.ts",
        from: "       case when v.is_first and (",
        to: "       case when true or (",
      },
    ],
    faults: "kill",
    seconds: 15,
    finds: ["deliveryOrder"],
  },
  {
    name: "who called last is taken for everybody",
    changes: [
      {
        file: "src/interceptors/cached-callers.ts",
        from: "    const found = known.get(key);\n",
        to: "    const found = known.get(key) && [...known.values()].at(-1);\n",
      },
    ],
    faults: "kill",
    seconds: 15,
    finds: ["wall"],
  },
  {
    name: "copies of external ids are not rewritten",
    changes: [
      {
        file: "src/entities/group.ts",
        from: "await rewriteCopies(db, this.#organizationId, move, { isShort })",
        to: "{ transactions: 0, userEvents: 0, areMany: false }",
      },
    ],
    faults: "kill",
    seconds: 15,
    finds: ["copies"],
  },
  {
    name: "what was merged before redirects to what is merged now",
    changes: [
      {
        file: "src/entities/merges.ts",
        from: 'db.send("update entity set survivor_id = $2 where organization_id = $1 and survivor_id = $3", [',
        to: 'db.send("update entity set survivor_id = $2 where organization_id = $1 and id = $3 and id = $2", [',
      },
    ],
    faults: "kill",
    seconds: 20,
    finds: ["merges", "audit"],
  },
  {
    name: "an update leaves the head as it is",
    changes: [
      {
        file: "src/entities/rows.ts",
        from: 'if (property === "auditHead") return true',
        to: 'if (property === "auditHead") return false',
      },
    ],
    faults: "kill",
    seconds: 15,
    finds: ["chains"],
  },
  {
    name: "what was committed late is in no checkpoint",
    changes: [
      {
        file: "src/audit/make.ts",
        from: "isPresent ? head.snapshot : END",
        to: "isPresent ? { ...head.snapshot, running: [] } : END",
      },
    ],
    faults: "kill",
    seconds: 20,
    finds: ["audit"],
  },
  {
    name: "always SERVING",
    changes: [{ file: "src/server.ts", from: "readiness.set(ready)", to: "readiness.set(ready || true)" }],
    faults: "database away",
    seconds: 25,
    finds: ["health"],
  },
  {
    name: "read without the lock",
    changes: [
      {
        file: "src/entities/lock-entities.ts",
        from: "order by e.id for no key update$",
        to: "order by e.id for key share$",
      },
      {
        file: "src/entities/lock-entities.ts",
        from: "order by e.id for no key update`",
        to: "order by e.id for key share`",
      },
      { file: "src/entities/lock-entities.ts", from: "for no key update of e", to: "for key share of e" },
      {
        file: "src/db/migrations/20261120120000_init.ts",
        from: "        constraint entity_event_version unique (organization_id, entity_id, entity_version),\n",
        to: "",
      },
    ],
    faults: "kill",
    seconds: 20,
    finds: ["fold", "versions"],
  },
  {
    name: "a field of the row is not written",
    changes: [
      {
        file: "src/entities/rows.ts",
        from: "const from = DERIVED[property]?.from ??",
        to: 'const from = property === "metadata" ? "type" : DERIVED[property]?.from ??',
      },
    ],
    faults: "kill",
    seconds: 15,
    finds: ["fold"],
  },
  {
    name: "previous values are those before the group",
    changes: [
      {
        file: "src/entities/group.ts",
        from: "eventOf(command, change, before, after, updatedFields)",
        to: "eventOf(command, change, this.#original.get(after.id) ?? before, after, updatedFields)",
      },
    ],
    faults: "slow network; rows held",
    seconds: 30,
    finds: ["fold"],
  },
  {
    name: "a full disk is a defect",
    changes: [{ file: "src/db/sqlstate.ts", from: '"53100": FULL', to: '"53100": DEFECT' }],
    faults: "disk full",
    seconds: 20,
    finds: ["typed"],
  },
  {
    name: "the log holds names",
    changes: [
      {
        file: "src/rpc/entities.ts",
        from: "      return { entity: toProto(entity, readMask), redirectedFrom };\n",
        to: '      process.stdout.write(entity.name + "\\n");\n      return { entity: toProto(entity, readMask), redirectedFrom };\n',
      },
    ],
    faults: "kill",
    seconds: 15,
    finds: ["logs"],
  },
];

const root = fileURLToPath(new URL("../..", import.meta.url));
const running = new Set<ChildProcess>();

/** PLANT=<part of a name> plants only those; DRY=1 only says whether all can be planted. Returns the exit code. */
export async function checkPlanted(say: (line: string) => void): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), "entity-service-planted-"));
  process.on("exit", () => {
    for (const child of running) child.kill("SIGTERM");
    rmSync(folder, { recursive: true, force: true });
  });
  const wanted = PLANTED.filter(({ name }) => name.includes(process.env.PLANT ?? ""));
  if (wanted.length === 0) throw new Error(`PLANT must be part of: ${PLANTED.map(({ name }) => name).join("; ")}`);
  let [passed, failed] = [0, 0];
  // All of them first, so that a missing text is known at once.
  const sources = wanted.map((planted, index) => plant(planted, join(folder, String(index))));
  if (process.env.DRY !== undefined) {
    say(`${wanted.length} bugs can be planted`);
    return 0;
  }
  for (const [index, planted] of wanted.entries()) {
    const { found, output } = await find(planted, sources[index] as string);
    const names = planted.finds.map((key) => `"${CHECKS[key]}"`).join(" or ");
    if (found) passed += 1;
    else failed += 1;
    say(`${found ? "found " : "MISSED"} ${planted.name}: by ${names}`);
    if (!found || process.env.VERBOSE) say(output.replaceAll(/^/gm, "    "));
  }
  say(`planted: ${passed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
}

/** A copy of the service with the bug in it. */
function plant({ name, changes }: Planted, source: string): string {
  mkdirSync(source, { recursive: true });
  for (const part of ["src", "clients", "package.json"])
    cpSync(join(root, part), join(source, part), { recursive: true });
  symlinkSync(join(root, "node_modules"), join(source, "node_modules"));
  for (const { file, from, to } of changes) {
    const text = readFileSync(join(source, file), "utf8");
    const parts = text.split(from);
    if (parts.length !== 2) {
      throw new Error(`"${name}" cannot be planted: ${file} has its text ${parts.length - 1} times:\n${from}`);
    }
    writeFileSync(join(source, file), parts.join(to));
  }
  return source;
}

async function find({ faults, seconds, finds }: Planted, source: string) {
  const env = {
    ...process.env,
    SOURCE: source,
    FAULTS: faults,
    SECONDS: String(seconds),
    SEED: "1",
    CATCH_UP_MS: "15000",
    SETTLE_MS: "15000",
  };
  const child = spawn(process.execPath, [fileURLToPath(new URL("run.ts", import.meta.url))], {
    env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  running.add(child);
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (output += chunk.toString()));
  await new Promise((resolve, reject) => child.once("close", resolve).once("error", reject));
  running.delete(child);
  return { output, found: finds.some((key) => output.includes(`FAILED ${key}: `)) };
}
