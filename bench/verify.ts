// Before anything is measured: the contenders answer alike, write alike and refuse alike.
import { isDeepStrictEqual } from "node:util";
import { toJson } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { UpdateEntityResponseSchema } from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { createEntityClient, EntitySchema } from "../clients/typescript/index.ts";
import { type Contender, DEFAULT_ORGANIZATION, type Service } from "./processes.ts";
import { externalIdOf, nameOf, updateOf } from "./requests.ts";

/** One entity of the default organization for each contender, alike but for its names. */
export interface Twin {
  contender: Contender;
  index: number;
}

const VALUE = 1_234_567_890;

/** Throws at the first difference. `pgbench`, where there is one, updates its twin too. */
export async function verify(
  service: Service,
  twins: readonly Twin[],
  pgbench?: { index: number; update: (index: number, value: number) => Promise<void> },
): Promise<void> {
  const lookup = { by: { case: "externalId" as const, value: externalIdOf(twins[0]?.index ?? 0) } };
  const read: unknown[] = [];
  const updated: unknown[] = [];
  const written: unknown[] = [];
  const clientOf = (contender: Contender, apiKey = DEFAULT_ORGANIZATION.apiKey) =>
    createEntityClient({ retries: false, baseUrl: `http://127.0.0.1:${contender.port}`, apiKey, actorId: "bench" })
      .entities;
  for (const { contender } of twins) {
    const { entity } = await clientOf(contender).getEntity({ lookup });
    if (entity === undefined) throw new Error(`${contender.name} answers no entity`);
    read.push(toJson(EntitySchema, entity));
  }
  for (const { contender, index } of twins) {
    const entities = clientOf(contender);
    updated.push(
      withoutIdentity(toJson(UpdateEntityResponseSchema, await entities.updateEntity(updateOf(index, VALUE)))),
    );
    written.push(await rowsOf(service, index));
    await refuses(contender, Code.NotFound, () =>
      entities.getEntity({ lookup: { by: { case: "externalId", value: "bench-0" } } }),
    );
    await refuses(contender, Code.Aborted, () =>
      entities.updateEntity({ ...updateOf(index, VALUE + 1), etag: "00000000-0000-7000-8000-000000000000" }),
    );
    await refuses(contender, Code.Unauthenticated, () => clientOf(contender, "es_nobody").getEntity({ lookup }));
  }
  const names = twins.map(({ contender }) => contender.name);
  alike("GetEntity", names, read);
  alike("UpdateEntity", names, updated);
  if (pgbench !== undefined) {
    await pgbench.update(pgbench.index, VALUE);
    names.push("pgbench");
    written.push(await rowsOf(service, pgbench.index));
  }
  alike("the rows of an update", names, written);
  if (!JSON.stringify(written[0]).includes(`"name":"${nameOf(VALUE)}"`)) throw new Error("no update was verified");
}

async function refuses({ name }: Contender, code: Code, call: () => Promise<unknown>): Promise<void> {
  const error = await call().then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof ConnectError && error.code === code) return;
  throw new Error(`${name} should have refused with ${Code[code]}: ${String(error)}`);
}

/** The entity, its external ids and its events, as they lie in the tables. */
async function rowsOf({ sql }: Service, index: number) {
  const key = [DEFAULT_ORGANIZATION.id, externalIdOf(index)];
  const entities = await sql("select * from entity where organization_id = $1 and external_id = $2", key);
  const names = await sql("select * from external_id where organization_id = $1 and external_id = $2", key);
  const events = await sql(
    "select * from entity_event where organization_id = $1 and external_id = $2 order by entity_version",
    key,
  );
  if (entities.length !== 1 || names.length !== 1 || events.length !== 2)
    throw new Error(`${externalIdOf(index)} is not whole`);
  return withoutIdentity({ entities: shared(entities), names, events: shared(events) });
}

/** Only the service seals its events, and keeps the words of names. */
const OURS_ALONE = [
  ...["audit_head", "salt", "personal_hash", "previous_hash", "hash"],
  ...["name_words", "name_date_key", "name_number_key"],
];
const shared = (rows: Record<string, unknown>[]) =>
  rows.map((row) => Object.fromEntries(Object.entries(row).filter(([column]) => !OURS_ALONE.includes(column))));

/** Ids, names, times and numbers of the bench, of which each entity has its own, by what they are. */
function withoutIdentity(value: unknown): unknown {
  const text = JSON.stringify(value)
    .replaceAll(/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}/g, "<id>")
    .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "<time>")
    .replaceAll(/bench-\d{8}/g, "<external id>")
    .replaceAll(/"xid":"\d+"/g, `"xid":"<transaction>"`);
  return JSON.parse(text);
}

function alike(what: string, names: string[], answers: unknown[]): void {
  for (const [i, answer] of answers.entries()) {
    if (isDeepStrictEqual(answer, answers[0])) continue;
    throw new Error(
      `${what}: ${names[i]} differs from ${names[0]}\n${JSON.stringify(answers[0])}\n${JSON.stringify(answer)}`,
    );
  }
}
