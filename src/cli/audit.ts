// `audit-checkpoints` and `verify-audit`: what is kept elsewhere of the log, and whether the log is still the same.
import { createPublicKey } from "node:crypto";
import { readFile } from "node:fs/promises";
import { fromJson, toJson } from "@bufbuild/protobuf";
import {
  type AuditCheckpoint,
  AuditCheckpointSchema,
  type AuditCounts,
  type AuditFinding,
  AuditFindingKindSchema,
  AuditFindingSchema,
  type EntityClient,
  type EntityLookup,
  timestampFromDate,
} from "../../clients/typescript/index.ts";
import { ConfigError } from "../config.ts";
import { bodyHash } from "../domain/checkpoint.ts";
import { isObject, type JsonValue } from "../domain/json.ts";
import { CALL } from "./connection.ts";
import { linesOf, openSource } from "./lines.ts";
import { showProgress } from "./report.ts";

/** The checkpoints behind a number, a line of JSON each. */
export async function printCheckpoints(
  client: EntityClient,
  { after, leaves }: { after: number; leaves: boolean },
): Promise<void> {
  let pageToken = "";
  do {
    const query = { afterNumber: BigInt(after), includeLeaves: leaves, pageSize: 1000, pageToken };
    const page = await client.entities.listAuditCheckpoints(query, CALL);
    for (const checkpoint of page.checkpoints) {
      process.stdout.write(`${JSON.stringify(toJson(AuditCheckpointSchema, checkpoint))}\n`);
    }
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
}

export interface VerifyOptions {
  lookup: EntityLookup | undefined;
  from: Date | undefined;
  /** A file of printCheckpoints that was kept elsewhere. */
  checkpoints: string | undefined;
  /** Files of PEM. */
  publicKeys: readonly string[];
  json: boolean;
}

/** Prints each finding, and the counts. How many findings there were. */
export async function verifyAudit(client: EntityClient, options: VerifyOptions): Promise<number> {
  const publicKeys = await Promise.all(options.publicKeys.map(readPublicKey));
  const checkpoints = options.checkpoints === undefined ? [] : await readKept(options.checkpoints);
  const request = {
    checkpoints,
    publicKeys,
    ...(options.lookup !== undefined && { lookup: options.lookup }),
    ...(options.from !== undefined && { from: timestampFromDate(options.from) }),
  };
  using progress = showProgress(process.stderr, PROGRESS, "events");
  let found = 0;
  let counts: AuditCounts | undefined;
  for await (const message of client.entities.verifyAuditTrail(request)) {
    found += message.findings.length;
    counts = message.counts;
    progress.update(message.done * PROGRESS, Number((counts?.verified ?? 0n) + (counts?.unsealed ?? 0n)));
    for (const finding of message.findings) process.stdout.write(`${lineOf(finding, options.json)}\n`);
  }
  if (counts !== undefined) process.stderr.write(`${countsLine(counts)}; findings: ${found}\n`);
  return found;
}

const PROGRESS = 1_000;

function lineOf(finding: AuditFinding, json: boolean): string {
  if (json) return JSON.stringify(toJson(AuditFindingSchema, finding));
  const { entityId, entityVersion, eventId, checkpoint, evaluationId, riskMatrixId, matrixVersion, detail } = finding;
  const columns = [
    AuditFindingKindSchema.value[finding.kind]?.localName,
    entityId && `entity ${entityId}`,
    entityVersion > 0n && `version ${entityVersion}`,
    eventId && `event ${eventId}`,
    checkpoint > 0n && `checkpoint ${checkpoint}`,
    evaluationId && `evaluation ${evaluationId}`,
    riskMatrixId && `risk matrix ${riskMatrixId}${matrixVersion > 0 ? ` version ${matrixVersion}` : ""}`,
    detail,
  ];
  return columns.filter((column) => column).join("  ");
}

const countsLine = (counts: AuditCounts): string =>
  `verified ${counts.verified} events of ${counts.entities} entities, ${counts.checkpoints} checkpoints` +
  ` (${counts.unsignedCheckpoints} unsigned), ${counts.evaluations} evaluations and ${counts.matrixVersions} versions of` +
  ` risk matrices; unsealed ${counts.unsealed}, pruned ${counts.pruned}, erased ${counts.erased},` +
  ` not yet in a checkpoint ${counts.notInCheckpoint}`;

async function readPublicKey(file: string): Promise<Uint8Array> {
  const pem = await readFile(file, "utf8");
  try {
    return new Uint8Array(createPublicKey(pem).export({ type: "spki", format: "der" }));
  } catch {
    throw new ConfigError("--public-key must be a PEM file with a public key, as audit-key prints it");
  }
}

/** As many as one call takes. */
const MAX_KEPT = 5_000;

/**
 * The checkpoints of a file, but for those that stand before one that names them: whoever has that one has them. So a file
 * with all checkpoints comes to its last.
 */
async function readKept(file: string): Promise<AuditCheckpoint[]> {
  const kept: AuditCheckpoint[] = [];
  const { stream } = await openSource(file);
  for await (const { number, text } of linesOf(stream)) {
    const checkpoint = typeof text === "string" ? checkpointOf(text) : undefined;
    if (checkpoint === undefined)
      throw new Error(`${file}: line ${number} is no checkpoint as audit-checkpoints prints it`);
    const last = kept.at(-1);
    if (last !== undefined && isNamed(last, checkpoint)) kept.pop();
    kept.push(checkpoint);
    if (kept.length > MAX_KEPT) {
      throw new Error(`${file}: more than ${MAX_KEPT} checkpoints that do not follow each other: verify it in parts`);
    }
  }
  return kept;
}

function checkpointOf(line: string): AuditCheckpoint | undefined {
  try {
    return fromJson(AuditCheckpointSchema, JSON.parse(line));
  } catch {
    return undefined;
  }
}

/** Undefined where it is no JSON: the service will find that it is not its own. */
function jsonOf(text: string): JsonValue | undefined {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Whether a checkpoint says which one is before it, and that it is this one. */
function isNamed(before: AuditCheckpoint, { number, body }: AuditCheckpoint): boolean {
  if (number !== before.number + 1n) return false;
  const parsed = jsonOf(body);
  return isObject(parsed) && parsed.previous_hash === bodyHash(before.body).toString("hex");
}
