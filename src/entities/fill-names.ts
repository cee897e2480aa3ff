// Fills in what names are searched and compared by, for entities that were written before there was that: in small steps
// with rests between them, beside what goes on. Rows are locked and skipped where they are, so any number of processes may.
import { setTimeout as sleep } from "node:timers/promises";
import { readAcross } from "../db/across.ts";
import { columnsOf, selected, updateOf } from "../db/columns.ts";
import type { Orm } from "../db/orm.ts";
import { EntityRow } from "../db/schema.ts";
import { pipelined } from "../db/transaction.ts";
import { externalIdFold, nameDateKey, nameNumberKey } from "../domain/duplicates.ts";
import type { EntityState } from "../domain/entity-state.ts";
import { nameWords, wordsOf } from "../domain/name.ts";
import { toState } from "./rows.ts";
import { digestOf, INSERT_MISSING, pairsOf } from "./words.ts";

/** Entities of one step. */
const STEP = 200;
/** Rows that a look for work reads. */
const LOOK_ROWS = 1_000;
/** Pause between steps: `times` the duration of the step, at least `atLeastMs`. */
const REST = { times: 1, atLeastMs: 5 };
/** Between two looks: a process of an older version may still write. */
const LOOK_MS = 60_000;

export interface FillerOptions {
  log: {
    info(what: object, message: string): void;
    warn(what: object, message: string): void;
  };
  /** What the log may know of an error. */
  describe(error: unknown): object;
}

/** Fills in until it is disposed, which waits for the step that is under way. */
export function startNameFiller(orm: Orm, { log, describe }: FillerOptions): AsyncDisposable {
  const stop = new AbortController();
  const { signal } = stop;
  const pause = (ms: number) => sleep(ms, undefined, { signal, ref: false }).catch(() => {});

  async function fill(): Promise<number> {
    let filled = 0;
    for (;;) {
      const rows = await readAcross(orm, (db) =>
        db.execute<{ organization_id: string }[]>("select organization_id from list_unfolded($1)", [LOOK_ROWS]),
      );
      let inRound = 0;
      for (const { organization_id: organizationId } of rows) {
        for (let count = STEP; count === STEP && !signal.aborted; ) {
          const from = performance.now();
          count = await fillNames(orm, organizationId, STEP);
          inRound += count;
          await pause(Math.max(REST.atLeastMs, REST.times * (performance.now() - from)));
        }
      }
      filled += inRound;
      // Others have what is left, or there is nothing.
      if (inRound === 0 || signal.aborted) return filled;
    }
  }

  async function run(): Promise<void> {
    while (!signal.aborted) {
      try {
        const entities = await fill();
        if (entities > 0) log.info({ entities }, "names of older entities can be searched");
      } catch (error) {
        log.warn(describe(error), "could not fill in names");
      }
      await pause(LOOK_MS * (0.5 + Math.random()));
    }
  }

  const ended = run();
  return {
    async [Symbol.asyncDispose]() {
      stop.abort();
      await ended;
    },
  };
}

const COLUMNS = columnsOf(EntityRow);
const named = (...properties: (keyof EntityState | "nameWords" | "nameDateKey" | "nameNumberKey")[]) =>
  COLUMNS.filter(({ property }) => (properties as string[]).includes(property));
const SELECTED = selected(COLUMNS, "e", { attributes: "'{}'::jsonb", metadata: "'{}'::jsonb" });
const [ID] = named("id");
const writeNames = updateOf<EntityState>("entity", ID!, named("nameWords", "nameDateKey", "nameNumberKey"), {
  derived: {
    nameWords: (entity) => nameWords(entity),
    nameDateKey: (entity) => digestOf(nameDateKey(entity)),
    nameNumberKey: (entity) => digestOf(nameNumberKey(entity)),
  },
});

/** One step, in a transaction: at most `limit` entities of the organization. Returns how many it was. */
export function fillNames(orm: Orm, organizationId: string, limit: number): Promise<number> {
  return pipelined(orm, organizationId, async (db) => {
    const rows = await db.execute<unknown[]>(
      `select ${SELECTED} from entity e where e.organization_id = $1 and e.name_words is null
       order by e.id limit $2 for no key update skip locked`,
      [organizationId, limit],
    );
    const entities = rows.map(toState);
    if (entities.length === 0) return 0;
    const [words, ids] = pairsOf(entities.map((entity) => ({ id: entity.id, words: wordsOf(nameWords(entity)) })));
    db.send(INSERT_MISSING, [organizationId, words, ids]);
    const folded = entities.flatMap(({ externalIds }) =>
      externalIds.map(({ externalId }) => ({ externalId, fold: externalIdFold(externalId) })),
    );
    const differing = folded.filter(({ fold }) => fold !== null);
    if (differing.length > 0) {
      db.send(
        `update external_id x set folded = v.folded from unnest($2::text[], $3::text[]) as v(external_id, folded)
         where x.organization_id = $1 and x.external_id = v.external_id`,
        [organizationId, differing.map(({ externalId }) => externalId), differing.map(({ fold }) => fold)],
      );
    }
    db.send(...writeNames(organizationId, entities));
    return entities.length;
  });
}
