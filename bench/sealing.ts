// What does sealing an event cost? npm run bench:sealing
// Without a server: the texts and hashes of two updates, of a name alone and of two fields with an address, beside what
// the same documents cost before (JSON.stringify) and by the library that the tests hold the texts against.
import canonicalize from "canonicalize";
import { newId } from "../src/db/uuid.ts";
import { documentsOf, NOTHING_BEFORE, sealOf } from "../src/domain/seal.ts";
import { sealEvents, type UnsealedEvent } from "../src/log/sealing.ts";

const TURNS = 50_000;
const ROUNDS = 7;

const base = {
  organizationId: newId(),
  id: newId(),
  entityId: newId(),
  entityVersion: 7,
  entityType: "person",
  type: "ATTRIBUTE_CHANGED",
  externalId: "customer-1001",
  externalIds: ["customer-1001", "crm-8842"],
  actor: "user-7",
  principal: newId(),
  source: "api",
  reason: "Yearly review",
  requestId: newId(),
  metadata: {},
  recordedAt: 1_795_183_623_464_011n,
  occurredAt: null,
} as const;

const person = (street: string) => ({
  person: {
    firstName: "Ana",
    lastName: "Souza",
    email: "ana@example.com",
    address: { street, city: "Buenos Aires", country: "AR", postalCode: "C1043AAZ" },
  },
});

const EVENTS: Record<string, UnsealedEvent> = {
  "a name": {
    ...base,
    externalIds: [...base.externalIds],
    updatedFields: ["name"],
    previousValues: { name: "Ana Souza" },
    newValues: { name: "Ana Souza Lima" },
  },
  "status and an address": {
    ...base,
    externalIds: [...base.externalIds],
    updatedFields: ["status", "entityData"],
    previousValues: { status: "pending", entityData: person("Av. Corrientes 1234") },
    newValues: { status: "active", entityData: person("Av. Corrientes 4321") },
  },
};

/** Microseconds of one turn, in the fastest of some rounds. */
function microsOf(turn: () => unknown): number {
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round++) {
    const began = performance.now();
    for (let i = 0; i < TURNS; i++) turn();
    best = Math.min(best, ((performance.now() - began) * 1_000) / TURNS);
  }
  return best;
}

for (const [name, event] of Object.entries(EVENTS)) {
  const documents = [event.previousValues, event.newValues, event.metadata];
  const texts = documentsOf(event);
  const salt = Buffer.alloc(16);
  const heads = new Map<string, Buffer>();
  const found = {
    "documents by JSON.stringify, as before": () => documents.map((value) => JSON.stringify(value)),
    "documents by the library": () => documents.map((value) => canonicalize(value)),
    "documents as they are sealed": () => documentsOf(event),
    "both hashes": () => sealOf(event, { salt, previousHash: NOTHING_BEFORE, documents: texts }),
    "all of it": () => sealEvents([event], heads),
  };
  const micros = Object.entries(found).map(([what, turn]) => [what, microsOf(turn)] as const);
  for (const [what, one] of micros)
    console.log(`${name}: ${what.padEnd(40)} ${one.toFixed(2).padStart(6)} µs an event`);
  const [[, before] = ["", 0]] = micros;
  const [, all] = micros.at(-1) ?? ["", 0];
  console.log(`${name}: ${"sealing adds".padEnd(40)} ${(all - before).toFixed(2).padStart(6)} µs an event`);
}
