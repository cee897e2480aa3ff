// EntityService: the checkpoints of the log, and its verification.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { AuditFindingKind, type AuditFindingSchema } from "../../clients/typescript/gen/entity/v1/audit_pb.ts";
import {
  EntityService,
  type VerifyAuditTrailRequest,
  type VerifyAuditTrailResponseSchema,
} from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { listCheckpoints, listKeys } from "../audit/checkpoints.ts";
import { createShortTurns } from "../audit/short-turns.ts";
import { readVerifyingKey } from "../audit/signing-key.ts";
import { type VerifyStep, verifyTrail } from "../audit/verify.ts";
import { overloaded } from "../domain/errors.ts";
import type { Finding } from "../domain/finding.ts";
import { createShares } from "../domain/shares.ts";
import { readGroup } from "../entities/merges.ts";
import type { Slots } from "../slots.ts";
import { closePage, openPage } from "./page.ts";
import { fromTimestamp, parseLookup, toTimestamp } from "./request.ts";
import { Violations } from "./violations.ts";
import { assertWellFormed } from "./well-formed.ts";
import { type Deps, findEntityId, organizationOf, readInTurn } from "./write.ts";

export interface AuditDeps {
  /** Bounds the reads of those who verify. */
  auditSlots: Slots;
}

/** Verifications at once, and of one organization in any case: each holds some pages of the log. */
const VERIFICATIONS = 4;
const LEAST_VERIFICATIONS = 1;
/** Between two messages without findings, in milliseconds. */
const PROGRESS_MS = 1_000;
const FINDINGS = 1_000;
const MAX_NUMBER = BigInt(Number.MAX_SAFE_INTEGER);

export function auditRpcs(deps: Deps & AuditDeps) {
  const verifications = createShares(VERIFICATIONS, LEAST_VERIFICATIONS);
  const turns = createShortTurns();
  return {
    async listAuditCheckpoints(request, ctx) {
      const violations = new Violations();
      if (request.afterNumber < 0n) violations.add("after_number", "must not be negative");
      if (request.afterNumber > MAX_NUMBER) violations.add("after_number", `must be at most ${MAX_NUMBER}`);
      const organizationId = organizationOf(ctx);
      const page = openPage(EntityService.method.listAuditCheckpoints, request, {
        organizationId,
        cursor: { number: "version" },
        violations,
      });
      const after = Number(page.cursor?.number ?? request.afterNumber);
      const { rows, keys } = await readInTurn(deps, ctx, organizationId, async (em) => ({
        rows: await listCheckpoints(em, organizationId, {
          after,
          withLeaves: request.includeLeaves,
          bound: page.bound,
        }),
        keys: await listKeys(em),
      }));
      const { items, nextPageToken } = closePage(page, rows, {
        present: ({ number, body, signature, leaves }) => ({
          number: BigInt(number),
          body,
          signature: signature ?? new Uint8Array(),
          leaves: leaves ?? new Uint8Array(),
        }),
        cursorOf: ({ number }) => ({ number: String(number) }),
      });
      return {
        checkpoints: items,
        nextPageToken,
        keys: keys.map((key) => ({ ...key, firstUsedAt: toTimestamp(key.firstUsedAt) })),
      };
    },

    verifyAuditTrail: (request, ctx) => verify(request, ctx),
  } satisfies Partial<ServiceImpl<typeof EntityService>>;

  async function* verify(
    request: VerifyAuditTrailRequest,
    ctx: HandlerContext,
  ): AsyncGenerator<MessageInitShape<typeof VerifyAuditTrailResponseSchema>, void> {
    assertWellFormed(EntityService.method.verifyAuditTrail.input, request);
    const violations = new Violations();
    const publicKeys = request.publicKeys.flatMap((bytes, i) => {
      const key = readVerifyingKey(Buffer.from(bytes));
      if (key === undefined) violations.add(`public_keys[${i}]`, "must be a public key of Ed25519 as DER");
      return key ?? [];
    });
    for (const [i, { number }] of request.checkpoints.entries()) {
      if (number < 1n || number > MAX_NUMBER)
        violations.add(`checkpoints[${i}].number`, "must be the number of a checkpoint");
    }
    violations.throwIfAny();
    const lookup = request.lookup === undefined ? undefined : parseLookup(request.lookup);
    const organizationId = organizationOf(ctx);
    const entityId = lookup === undefined ? undefined : await findEntityId(deps, ctx, lookup);
    const entityIds =
      entityId === undefined
        ? undefined
        : await readInTurn(deps, ctx, organizationId, (em) => readGroup(em, organizationId, entityId));
    const owner = { organization: organizationId };
    if (!verifications.take(owner)) throw overloaded("Too many verifications are under way");
    try {
      const steps = verifyTrail(deps.orm, {
        organizationId,
        entityIds,
        since: request.from === undefined ? undefined : fromTimestamp(request.from),
        kept: request.checkpoints.map(({ number, body, signature }) => ({
          number: Number(number),
          body,
          signature: Buffer.from(signature),
        })),
        publicKeys,
        slots: deps.auditSlots,
        signal: ctx.signal,
        turns,
      });
      yield* messagesOf(steps);
    } finally {
      verifications.give(owner);
    }
  }
}

/** Findings at once, progress now and then, and the last step. */
async function* messagesOf(
  steps: AsyncIterable<VerifyStep>,
): AsyncGenerator<MessageInitShape<typeof VerifyAuditTrailResponseSchema>, void> {
  let sentAt = performance.now();
  let last: VerifyStep | undefined;
  const message = (findings: readonly Finding[], { counts, done }: VerifyStep) => {
    sentAt = performance.now();
    const numbers = Object.entries(counts).map(([name, count]) => [name, BigInt(count)]);
    return { findings: findings.map(toProto), counts: Object.fromEntries(numbers), done };
  };
  for await (const step of steps) {
    last = step;
    for (let at = 0; at < step.findings.length; at += FINDINGS) {
      yield message(step.findings.slice(at, at + FINDINGS), { ...step, done: Math.min(step.done, ALMOST) });
    }
    if (performance.now() - sentAt > PROGRESS_MS) yield message([], { ...step, done: Math.min(step.done, ALMOST) });
  }
  if (last !== undefined) yield message([], last);
}

/** Only the last message says that all is done. */
const ALMOST = 0.999;

const toProto = ({
  kind,
  entityId,
  entityVersion,
  eventId,
  checkpoint,
  evaluationId,
  riskMatrixId,
  matrixVersion,
  detail,
}: Finding): MessageInitShape<typeof AuditFindingSchema> => ({
  kind: AuditFindingKind[kind],
  entityId: entityId ?? "",
  entityVersion: BigInt(entityVersion ?? 0),
  eventId: eventId ?? "",
  checkpoint: BigInt(checkpoint ?? 0),
  evaluationId: evaluationId ?? "",
  riskMatrixId: riskMatrixId ?? "",
  matrixVersion: matrixVersion ?? 0,
  detail,
});
