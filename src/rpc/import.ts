// EntityService: the import. Rows that have arrived while a group was written form the next group.
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import { EntitySchema } from "../../clients/typescript/gen/entity/v1/entity_pb.ts";
import {
  EntityService,
  type ImportEntitiesRequest,
  ImportOutcome,
  type ImportProgress,
  ImportProgressSchema,
  type ImportResult,
  ImportResultSchema,
} from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { newEntity, update } from "../domain/entity.ts";
import { DomainError, invalidField, overloaded } from "../domain/errors.ts";
import { withExternalIds } from "../domain/external-ids.ts";
import { createShares, type Owner, type Shares } from "../domain/shares.ts";
import { latestDate } from "../domain/time.ts";
import { type Author, type Command, type Outcome, onlyOutcome, toOneEntity } from "../entities/command.ts";
import { writeGroup } from "../entities/write-group.ts";
import { toStatus } from "../errors.ts";
import type { Slots } from "../slots.ts";
import { externalIdFromProto, fromProto } from "./entity-message.ts";
import { groupsOf } from "./import-groups.ts";
import { parseExternalIds, parseReason, requestHash } from "./request.ts";
import { Violations } from "./violations.ts";
import { assertWellFormed } from "./well-formed.ts";
import { authorOf, type Deps, organizationOf, parseWrite } from "./write.ts";

const METHOD = EntityService.method.importEntities;

export interface ImportDeps {
  /** Imports that may be open at once. */
  maxImports: number;
  /** Bounds the groups that are written. */
  importSlots: Slots;
}

/** Any organization may have this many open while there is a place: few places are not divided. */
const LEAST_IMPORTS = 2;

export function importRpcs(deps: Deps & ImportDeps) {
  const imports = createShares(deps.maxImports, LEAST_IMPORTS);
  return {
    async *importEntities(requests, ctx) {
      const author = authorOf(ctx);
      const organizationId = organizationOf(ctx);
      using _place = enter(imports, { organization: organizationId, part: author.principal });
      const named: Command["named"] = (lookup, entity) => deps.aliasUse.named(organizationId, lookup, entity);
      const progress = create(ImportProgressSchema);
      let row = 0n;
      for await (const group of groupsOf(requests)) {
        const today = latestDate(deps.clock());
        const rows = group.map((request) => ({
          row: row++,
          request,
          command: commandOf(request, author, today, named),
        }));
        const results: ImportResult[] = [];
        // Rows that are only checked are not written with those that are.
        for (const part of runsOf(rows, ({ request }) => request.validateOnly)) {
          const commands = part.flatMap(({ command }) => (command instanceof DomainError ? [] : [command]));
          const validateOnly = part[0]?.request.validateOnly ?? false;
          // Each group in its turn: between two of them, other writes of the organization have theirs.
          const { signal } = ctx;
          const since = performance.now();
          const run = () =>
            writeGroup(deps.orm, organizationId, commands, {
              validateOnly,
              signal,
              waitedMs: performance.now() - since,
            });
          const written = await deps.importSlots(organizationId, run, { signal });
          if (!validateOnly) deps.bell.ring(organizationId);
          const failure = written.find((result) => result.kind === "failed");
          if (failure !== undefined) throw failure.error;
          let next = 0;
          for (const { row, command } of part) {
            const result =
              command instanceof DomainError ? { kind: "refused" as const, error: command } : written[next++];
            if (result?.kind === "done") results.push(resultOf(row, onlyOutcome(result.outcomes)));
            else if (result?.kind === "replayed") {
              ctx.responseHeader.set("idempotent-replay", "true");
              results.push({ ...fromBinary(ImportResultSchema, result.answer), row });
            } else if (result?.kind === "refused") {
              results.push(
                create(ImportResultSchema, { row, outcome: ImportOutcome.FAILED, error: toStatus(result.error) }),
              );
            }
          }
        }
        for (const result of results) count(progress, result.outcome);
        yield { results, progress: { ...progress } };
      }
    },
  } satisfies Partial<ServiceImpl<typeof EntityService>>;
}

function enter(imports: Shares, owner: Owner): Disposable {
  if (!imports.take(owner)) throw overloaded("Too many imports are open");
  return { [Symbol.dispose]: () => imports.give(owner) };
}

/** The write that a row asks for, or why there is none. */
function commandOf(
  request: ImportEntitiesRequest,
  author: Author,
  today: string,
  named: Command["named"],
): Command | DomainError {
  try {
    assertWellFormed(METHOD.input, request);
    const violations = new Violations();
    const input = fromProto(request.entity ?? create(EntitySchema), request.updateMask, today, violations);
    const externalId = externalIdFromProto(request.entity, violations);
    const { externalIds, places } = parseExternalIds(request.externalIds, violations);
    externalIds.forEach((item, i) => {
      if (item.primary && item.externalId !== externalId) {
        violations.add(`external_ids[${i}].designation`, "PRIMARY is for entity.external_id alone");
      }
    });
    const reason = parseReason(request.reason, violations, false);
    const { requestId, occurredAt } = parseWrite(request, violations);
    violations.throwIfAny();
    const { patch } = input;
    if (externalId === undefined) throw invalidField("entity.external_id", "is required: rows are found by it");
    return toOneEntity({
      author,
      named,
      lookup: { by: "external_id", key: externalId },
      allowMissing: !request.updateOnly,
      etag: input.etag,
      claims: [externalId, ...externalIds.map((item) => item.externalId)],
      claimField: (id) => {
        const index = id === externalId ? undefined : places.get(id);
        return { field: index === undefined ? "entity.external_id" : `external_ids[${index}].external_id` };
      },
      occurredAt,
      request:
        requestId === undefined
          ? undefined
          : {
              method: METHOD.name,
              requestId,
              hash: requestHash(METHOD.input, request),
              answer: (outcome) => toBinary(ImportResultSchema, resultOf(0n, outcome)),
            },
      decide: (current, { now }) => {
        const change =
          current === null ? newEntity({ ...patch, externalId }, reason, now) : update(current, patch, reason);
        return withExternalIds(current, change, { externalIds, reason }, now);
      },
    });
  } catch (error) {
    if (error instanceof DomainError) return error;
    throw error;
  }
}

function resultOf(row: bigint, { before, after, redirectedFrom }: Outcome): ImportResult {
  const outcome =
    before === null ? ImportOutcome.CREATED : before === after ? ImportOutcome.UNCHANGED : ImportOutcome.UPDATED;
  return create(ImportResultSchema, { row, outcome, entityId: after.id, redirectedFrom });
}

function count(progress: ImportProgress, outcome: ImportOutcome): void {
  if (outcome === ImportOutcome.CREATED) progress.created++;
  else if (outcome === ImportOutcome.UPDATED) progress.updated++;
  else if (outcome === ImportOutcome.UNCHANGED) progress.unchanged++;
  else progress.failed++;
}

/** Splits a list where `key` changes. */
function runsOf<T>(items: readonly T[], key: (item: T) => unknown): T[][] {
  const runs: T[][] = [];
  for (const item of items) {
    const run = runs.at(-1);
    if (run?.[0] !== undefined && key(run[0]) === key(item)) run.push(item);
    else runs.push([item]);
  }
  return runs;
}
