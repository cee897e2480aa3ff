// Callers: each makes one write after the other under a separate request_id, and retries under the same one until it
// knows the outcome. Some read, some rehearse, one imports.
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  type Entity,
  type EntityClient,
  EntityStatus,
  EntityType,
  errorInfo,
  ImportOutcome,
} from "../../clients/typescript/index.ts";
import type { Checks } from "./checks.ts";
import type { Intent, Journal, Method } from "./journal.ts";
import { newRequestId, newToken, type Organization } from "./organization.ts";
import type { Service } from "./service.ts";

export interface World {
  services: Service[];
  organizations: Organization[];
  journal: Journal;
  checks: Checks;
  random: () => number;
  /** The fault that is under way, for messages. */
  fault(): string;
}

/** What is known about an entity that callers share. */
interface Known {
  id: string;
  taxId: string;
  /** The etag of some time ago. */
  oldEtag: string;
}

/** Merges that may be undone, so many at most: what is merged is found by fewer names of its own. */
const MAX_MERGES = 12;

export interface Callers {
  /** Starts no new calls until `resume`; resolves when the calls under way have ended. */
  pause(): Promise<void>;
  resume(): void;
  /** Resolves when every caller knows the outcome of its calls. */
  stop(): Promise<void>;
  /** Some known entities, for faults. */
  entityIds(organization: Organization): string[];
  /** One call that the service refuses after it has begun a transaction. */
  refusedWrite(organization: Organization, service: Service): Promise<void>;
  /** One user event of an entity, repeated until its outcome is known. */
  record(organization: Organization, entityId: string): Promise<void>;
}

/** After these a call is retried; any other reason is final. */
const RETRY = new Set(["DATABASE_UNAVAILABLE", "COMMIT_UNKNOWN", "OVERLOADED", "WRITE_CONFLICT", "DEADLINE_EXCEEDED"]);
const READS_END_IN = new Set(["DATABASE_UNAVAILABLE", "OVERLOADED", "DEADLINE_EXCEEDED"]);
/** How long a caller may take to notice, in milliseconds. */
const SLACK_MS = 1_000;
const PAUSE_MS = 40;
/** For one call, once nothing blocks it. */
const SETTLE_MS = Number(process.env.SETTLE_MS ?? 60_000);

export function startCallers(world: World, { perOrganization }: { perOrganization: number }): Callers {
  const { services, organizations, journal, checks, random } = world;
  const known = new Map<Organization, Known[]>(organizations.map((one) => [one, []]));
  const merges = new Map<Organization, string[]>(organizations.map((one) => [one, []]));
  let isOver = false;
  let overAt = Number.POSITIVE_INFINITY;
  let gate: PromiseWithResolvers<void> | undefined;
  let busy = 0;

  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)] as T;

  /** The outcome of an attempt, and what is wrong with it. */
  function outcomeOf(
    error: unknown,
    service: Service,
    method: string,
    began: number,
    final: ReadonlySet<string>,
  ): string {
    const ended = performance.now();
    const info = errorInfo(error);
    const problem = (what: string) =>
      checks.typed.fail(`${method} on ${service.name} during ${world.fault()}: ${what}`, () =>
        service.logOf(info?.metadata.request_id),
      );
    if (info === undefined) {
      const connectError = ConnectError.from(error);
      // The client's own clock: the answer may be on its way.
      if (connectError.code === Code.DeadlineExceeded) return "late";
      const isDown = service.down.some(({ from, to }) => from <= ended + SLACK_MS && to >= began - SLACK_MS);
      if (!isDown) problem(`untyped: ${Code[connectError.code]} ${connectError.rawMessage}`);
      return "lost";
    }
    if (info.reason === "INTERNAL" || (!RETRY.has(info.reason) && !final.has(info.reason))) {
      problem(`${info.reason} ${JSON.stringify(info.metadata)} ${ConnectError.from(error).rawMessage}`);
    }
    return info.reason;
  }

  const tally = (outcome: string) => journal.outcomes.set(outcome, (journal.outcomes.get(outcome) ?? 0) + 1);

  /** Retries until the outcome is known. */
  async function settle<T>(
    intent: Intent,
    clients: Map<Service, EntityClient>,
    call: (client: EntityClient) => Promise<T>,
    final: readonly string[] = [],
  ): Promise<T | undefined> {
    const { organization, method } = intent;
    const accepted = new Set(final);
    let service = pick(services);
    journal.intents.push(intent);
    for (let tries = 0; ; tries++) {
      const began = performance.now();
      let outcome = "OK";
      let response: T | undefined;
      try {
        checks.typed.count();
        response = await call(clients.get(service) as EntityClient);
      } catch (error) {
        outcome = outcomeOf(error, service, method, began, accepted);
      }
      const ended = performance.now();
      tally(outcome);
      intent.attempts.push({ service, began, ended, outcome });
      // An expected refusal also shows that writes are processed.
      const isDone = outcome === "OK" || accepted.has(outcome);
      journal.writes.push({ service, organization, method, began, ended, isDone, isRehearsal: intent.isRehearsal });
      if (outcome === "OK") return response;
      if (!RETRY.has(outcome) && !["lost", "late", "INTERNAL", "CANCELLED"].includes(outcome)) {
        intent.refused = outcome;
        return undefined;
      }
      if (intent.requestId === "" || performance.now() - overAt > SETTLE_MS) return undefined;
      await sleep(Math.min(400, 40 * 1.5 ** tries) * (0.5 + random()));
      service = services[(services.indexOf(service) + 1) % services.length] as Service;
    }
  }

  function intent(
    organization: Organization,
    method: Method,
    entityId: string | undefined,
    isRehearsal = false,
  ): Intent {
    return {
      ...{ organization, method, entityId, isRehearsal },
      ...{ requestId: newRequestId(), token: newToken(), attempts: [], answer: undefined, refused: undefined },
    };
  }

  const answered = (one: Intent, entity: Entity | undefined, changed: boolean): void => {
    if (entity === undefined) return;
    one.answer = { entityId: entity.id, updatedAt: microseconds(entity.updatedAt), changed };
  };

  async function create(
    organization: Organization,
    clients: Map<Service, EntityClient>,
    isOnce = false,
  ): Promise<void> {
    const one = intent(organization, "CreateEntity", undefined);
    const { canary, personal } = organization;
    if (isOnce) one.requestId = "";
    const { token, requestId } = one;
    const isPerson = random() < 0.6;
    // Without a request_id and an external id only the service itself prevents a duplicate.
    if (!isOnce) one.externalId = `${canary}-${token}`;
    const taxId = `${personal}-${token}`;
    const response = await settle(one, clients, (client) =>
      client.entities.createEntity({
        requestId,
        entity: {
          externalId: one.externalId ?? "",
          type: isPerson ? EntityType.PERSON : EntityType.COMPANY,
          countryCode: "ZZ",
          name: `${personal} ${canary} ${token}`,
          taxId,
          entityData: {
            kind: isPerson
              ? { case: "person", value: { firstName: personal, email: `${canary}@example.com` } }
              : { case: "company", value: { legalName: personal, industry: canary } },
          },
          attributes: { token, canary },
        },
      }),
    );
    answered(one, response?.entity, true);
    if (response?.entity)
      known.get(organization)?.push({ id: response.entity.id, taxId, oldEtag: response.entity.etag });
  }

  async function update(
    organization: Organization,
    clients: Map<Service, EntityClient>,
    entity: Known,
    { isRehearsal = false, isStale = false } = {},
  ): Promise<void> {
    const one = intent(organization, "UpdateEntity", entity.id, isRehearsal);
    const { token, requestId } = one;
    const status =
      random() < 0.25
        ? pick([EntityStatus.ACTIVE, EntityStatus.UNDER_REVIEW, EntityStatus.INACTIVE])
        : EntityStatus.UNSPECIFIED;
    const isByTaxId = random() < 0.1;
    const attributes = { token, [`k${Math.floor(random() * 5)}`]: token };
    const response = await settle(
      one,
      clients,
      (client) =>
        client.entities.updateEntity({
          ...{ requestId, validateOnly: isRehearsal, etag: isStale ? entity.oldEtag : "" },
          lookup: { by: isByTaxId ? { case: "taxId", value: entity.taxId } : { case: "entityId", value: entity.id } },
          entity: {
            name: `${organization.personal} ${organization.canary} ${token}`,
            ...{ status, attributes },
            metadata: { canary: organization.canary },
          },
        }),
      ["ENTITY_DELETED", ...(isByTaxId ? ["NOT_FOUND"] : []), ...(isStale ? ["ETAG_MISMATCH"] : [])],
    );
    answered(one, response?.entity, !isRehearsal);
    if (response?.entity && !isRehearsal && random() < 0.3) entity.oldEtag = response.entity.etag;
  }

  async function changeExternalId(
    organization: Organization,
    clients: Map<Service, EntityClient>,
    entity: Known,
  ): Promise<void> {
    const one = intent(organization, "ChangeExternalId", entity.id);
    one.externalId = `${organization.canary}-x-${one.token}`;
    // Few: groups may not have more than 100.
    const keepPreviousAsAlias = random() < 0.05;
    const response = await settle(
      one,
      clients,
      (client) =>
        client.entities.changeExternalId({
          ...{
            requestId: one.requestId,
            newExternalId: one.externalId as string,
            reason: "faults of the run",
            keepPreviousAsAlias,
          },
          lookup: { by: { case: "entityId", value: entity.id } },
        }),
      ["ENTITY_DELETED"],
    );
    answered(one, response?.entity, response?.changed ?? false);
  }

  async function merge(
    organization: Organization,
    clients: Map<Service, EntityClient>,
    primary: Known,
    secondary: Known,
    isRehearsal: boolean,
  ): Promise<void> {
    const one = intent(organization, "MergeEntities", primary.id, isRehearsal);
    const response = await settle(
      one,
      clients,
      (client) =>
        client.entities.mergeEntities({
          ...{ requestId: one.requestId, reason: `faults ${one.token}`, validateOnly: isRehearsal },
          primary: { by: { case: "entityId", value: primary.id } },
          secondary: { by: { case: "entityId", value: secondary.id } },
        }),
      ["ENTITY_DELETED", "MERGE_NOT_ALLOWED"],
    );
    answered(one, response?.entity, !isRehearsal);
    if (response && !isRehearsal) merges.get(organization)?.push(response.mergeId);
  }

  /** Of those that are known the oldest or the newest: across and along chains. */
  async function unmerge(organization: Organization, clients: Map<Service, EntityClient>): Promise<void> {
    const made = merges.get(organization) as string[];
    const mergeId = random() < 0.5 ? made.shift() : made.pop();
    if (mergeId === undefined) return;
    const one = intent(organization, "UnmergeEntities", undefined);
    const response = await settle(
      one,
      clients,
      (client) => client.entities.unmergeEntities({ requestId: one.requestId, reason: `faults ${one.token}`, mergeId }),
      ["ENTITY_DELETED", "MERGE_NOT_ALLOWED"],
    );
    answered(one, response?.entity, true);
    // It was merged on, or is deleted: some time it will be possible.
    if (one.refused !== undefined) made.push(mergeId);
  }

  async function remove(
    organization: Organization,
    clients: Map<Service, EntityClient>,
    entity: Known,
    isBack: boolean,
  ): Promise<void> {
    const one = intent(organization, isBack ? "UndeleteEntity" : "DeleteEntity", entity.id);
    const request = {
      ...{ requestId: one.requestId, reason: `faults ${one.token}` },
      lookup: { by: { case: "entityId" as const, value: entity.id } },
    };
    const response = await settle(
      one,
      clients,
      async (client) => {
        const { entity: after, changed } = isBack
          ? await client.entities.undeleteEntity(request)
          : await client.entities.deleteEntity(request);
        return { entity: after, changed };
      },
      // One that is merged.
      isBack ? [] : ["MERGE_NOT_ALLOWED"],
    );
    answered(one, response?.entity, response?.changed ?? false);
  }

  async function recordTransactions(
    organization: Organization,
    clients: Map<Service, EntityClient>,
    entity: Known,
  ): Promise<void> {
    const one = intent(organization, "RecordTransactions", entity.id);
    const other = pick(known.get(organization) as Known[]);
    const at = { seconds: BigInt(Math.floor(Date.now() / 1000)), nanos: 0 };
    const response = await settle(
      one,
      clients,
      (client) =>
        client.activity.recordTransactions({
          requestId: one.requestId,
          transactions: [0, 1].map((number) => ({
            ...{
              externalId: `${one.token}-${number}`,
              type: "payment",
              amount: "12.50",
              currency: "ARS",
              transactedAt: at,
            },
            origin: { entityId: entity.id },
            destination: number === 0 ? { entityId: other.id } : { name: organization.personal },
            details: { token: one.token, canary: organization.canary },
          })),
        }),
      ["ENTITY_DELETED"],
    );
    if (response) one.answer = { entityId: entity.id, updatedAt: 0n, changed: true };
  }

  async function recordUserEvents(
    organization: Organization,
    clients: Map<Service, EntityClient>,
    entity: Pick<Known, "id">,
  ): Promise<void> {
    const one = intent(organization, "RecordUserEvents", entity.id);
    const at = { seconds: BigInt(Math.floor(Date.now() / 1000)), nanos: 0 };
    const response = await settle(
      one,
      clients,
      (client) =>
        client.activity.recordUserEvents({
          requestId: one.requestId,
          userEvents: [
            {
              entityId: entity.id,
              eventType: "login",
              occurredAt: at,
              payload: { token: one.token, canary: organization.canary },
            },
          ],
        }),
      ["ENTITY_DELETED"],
    );
    if (response) one.answer = { entityId: entity.id, updatedAt: 0n, changed: true };
  }

  /** Every kind of read, and whether it shows what was acknowledged before. */
  async function read(clients: Map<Service, EntityClient>, entity: Known): Promise<void> {
    const service = pick(services);
    const { entities, activity } = clients.get(service) as EntityClient;
    const lookup = { by: { case: "entityId" as const, value: entity.id } };
    const newest = journal.intents.findLast(
      (one) => one.entityId === entity.id && one.answer && one.method === "UpdateEntity" && !one.isRehearsal,
    );
    const reads = {
      GetEntity: async () => {
        const { entity: found } = await entities.getEntity({ lookup });
        checks.readBack.count();
        if (newest?.answer && microseconds(found?.updatedAt) < newest.answer.updatedAt) {
          checks.readBack.fail(
            `${entity.id} is older than what was acknowledged (${newest.requestId}), during ${world.fault()}`,
          );
        }
      },
      ListEntityEvents: () => entities.listEntityEvents({ lookup, pageSize: 5 }),
      ListEntities: () => entities.listEntities({ pageSize: 5 }),
      ListTransactions: () => activity.listTransactions({ lookup, pageSize: 5 }),
      ListUserEvents: () => activity.listUserEvents({ lookup, pageSize: 5 }),
      ListMerges: () => entities.listMerges({ lookup, pageSize: 5 }),
      ListExternalIdHistory: () => entities.listExternalIdHistory({ lookup, pageSize: 5 }),
    };
    const method = pick(Object.keys(reads) as (keyof typeof reads)[]);
    const began = performance.now();
    journal.reads += 1;
    try {
      checks.typed.count();
      await reads[method]();
    } catch (error) {
      const outcome = outcomeOf(error, service, method, began, READS_END_IN);
      tally(outcome);
      if (RETRY.has(outcome) && !READS_END_IN.has(outcome)) {
        checks.typed.fail(`${method}, which reads, ends in ${outcome}, during ${world.fault()}`);
      }
      await sleep(100);
    }
  }

  async function act(organization: Organization, clients: Map<Service, EntityClient>): Promise<void> {
    const entities = known.get(organization) as Known[];
    const roll = random();
    // The same few for half of the calls: writers meet.
    const entity = random() < 0.5 ? pick(entities.slice(0, 8)) : pick(entities);
    if (entity === undefined || roll < 0.07) return create(organization, clients);
    if (roll < 0.1) return create(organization, clients, true);
    if (roll < 0.48) return update(organization, clients, entity);
    if (roll < 0.51) return update(organization, clients, entity, { isRehearsal: true });
    if (roll < 0.54) return update(organization, clients, entity, { isStale: true });
    if (roll < 0.62) return changeExternalId(organization, clients, entity);
    if (roll < 0.66) return remove(organization, clients, pick(entities.slice(4)) ?? entity, false);
    if (roll < 0.71) return remove(organization, clients, pick(entities.slice(4)) ?? entity, true);
    if (roll < 0.8) return recordTransactions(organization, clients, entity);
    if (roll < 0.87) return recordUserEvents(organization, clients, entity);
    if (roll < 0.91) {
      const isFull = (merges.get(organization) as string[]).length >= MAX_MERGES;
      if (isFull || random() < 0.4) return unmerge(organization, clients);
      return merge(organization, clients, entity, pick(entities.slice(0, 8)), random() < 0.1);
    }
    return read(clients, entity);
  }

  const clientsOf = (organization: Organization, protocol?: "http/1.1") =>
    new Map(services.map((service) => [service, organization.client(service.baseUrl, protocol)]));

  async function whileOpen(work: () => Promise<void>): Promise<void> {
    while (!isOver) {
      await gate?.promise;
      if (isOver) break;
      busy += 1;
      try {
        await work();
      } finally {
        busy -= 1;
      }
      await sleep(PAUSE_MS * (0.5 + random()));
    }
  }

  async function call(organization: Organization, number: number): Promise<void> {
    const clients = clientsOf(organization, number === 0 ? "http/1.1" : undefined);
    await whileOpen(() => act(organization, clients));
  }

  /** Sends the same rows again until all are answered: rows that exist are answered as before. */
  async function importRows(organization: Organization): Promise<void> {
    const clients = clientsOf(organization);
    await whileOpen(async () => {
      const rows = Array.from({ length: 40 }, () => intent(organization, "ImportEntities", undefined));
      journal.intents.push(...rows);
      for (let tries = 0; rows.some(({ answer, refused }) => !answer && !refused); tries++) {
        const service = services[tries % services.length] as Service;
        const began = performance.now();
        const outcomes = new Map<Intent, string>();
        try {
          checks.typed.count();
          const stream = (clients.get(service) as EntityClient).entities.importEntities(importOf(organization, rows), {
            timeoutMs: 20_000,
          });
          for await (const { results } of stream) {
            for (const { row, outcome, entityId, error } of results) {
              const one = rows[Number(row)] as Intent;
              const reason = errorInfo(error)?.reason;
              outcomes.set(one, outcome === ImportOutcome.FAILED ? (reason ?? "INTERNAL") : "OK");
              if (outcome !== ImportOutcome.FAILED) {
                one.answer = { entityId, updatedAt: 0n, changed: outcome !== ImportOutcome.UNCHANGED };
              } else if (reason === undefined || !RETRY.has(reason)) {
                checks.typed.fail(`a row of ImportEntities ends in ${reason}, during ${world.fault()}`);
              }
            }
          }
        } catch (error) {
          const outcome = outcomeOf(error, service, "ImportEntities", began, new Set());
          for (const one of rows) if (!outcomes.has(one)) outcomes.set(one, outcome);
        }
        const ended = performance.now();
        for (const [one, outcome] of outcomes) {
          tally(outcome);
          one.attempts.push({ service, began, ended, outcome });
        }
        if (performance.now() - overAt > SETTLE_MS) return;
        if (rows.some(({ answer }) => !answer)) await sleep(200 + 300 * random());
      }
      for (let left = 20; left > 0 && !isOver; left--) await sleep(100);
    });
  }

  const running = organizations.flatMap((organization) => [
    ...Array.from({ length: perOrganization }, (_, number) => call(organization, number)),
    importRows(organization),
  ]);
  const all = Promise.all(running);
  all.catch(() => {});

  const refusing = new Map<string, EntityClient>();
  return {
    async pause() {
      gate ??= Promise.withResolvers();
      const end = performance.now() + 5_000;
      while (busy > 0 && performance.now() < end) await sleep(10);
    },
    resume() {
      gate?.resolve();
      gate = undefined;
    },
    async stop() {
      isOver = true;
      overAt = performance.now();
      gate?.resolve();
      await all;
    },
    entityIds: (organization) => (known.get(organization) as Known[]).slice(0, 8).map(({ id }) => id),
    record: (organization, id) => recordUserEvents(organization, clientsOf(organization), { id }),
    async refusedWrite(organization, service) {
      const entity = known.get(organization)?.[0];
      if (entity === undefined) return;
      const request = {
        lookup: { by: { case: "entityId" as const, value: entity.id } },
        ...{ etag: newRequestId(), requestId: newRequestId(), entity: { name: "never" } },
      };
      const key = `${organization.name} ${service.name}`;
      const client = refusing.get(key) ?? organization.client(service.baseUrl);
      refusing.set(key, client);
      await client.entities.updateEntity(request, { timeoutMs: 2_000 }).catch(() => {});
    },
  };
}

async function* importOf({ canary, personal }: Organization, rows: readonly Intent[]) {
  for (const { token, requestId } of rows) {
    yield {
      requestId,
      entity: {
        ...{ externalId: `${canary}-i-${token}`, type: EntityType.COMPANY, countryCode: "ZZ" },
        ...{ name: `${personal} ${canary} ${token}`, attributes: { token } },
      },
    };
  }
}

export function microseconds(time: { seconds: bigint; nanos: number } | undefined): bigint {
  return time === undefined ? 0n : time.seconds * 1_000_000n + BigInt(Math.floor(time.nanos / 1_000));
}
