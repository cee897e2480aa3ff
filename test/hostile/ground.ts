// What the attackers find: organizations of their own, with keys of every scope and small and large entities, and one
// organization of the good client.
import { call, session } from "./answers.ts";
import { BOOTSTRAP_KEY } from "./service.ts";

export interface Party {
  organizationId: string;
  /** Keys by scope: all scopes, and each alone. */
  keys: Record<"all" | "read" | "write" | "activity" | "webhooks" | "admin", string>;
  entityIds: string[];
  /** Merges that are there from the beginning. */
  mergeIds: string[];
}

export interface Ground {
  port: number;
  seed: string;
  good: Party;
  /** One for each process of attackers: shares belong to organizations. */
  hostile: Party[];
}

export const SMALL = 40;
export const LARGE = 4;
/** Of very many small values. */
export const DENSE = 12;
/** Those that are merged and parted: were it any, all would soon be one. */
export const SPARE = 12;
const MERGED_PAIRS = 4;
/** External ids: `small-0` up to, `big-0`, `dense-0` and `spare-0`. */
const SCOPES = {
  all: [
    ...["entities:read", "entities:write", "entities:merge", "external_ids:change", "activity:read", "activity:write"],
    ...["webhooks:admin", "admin"],
  ],
  read: ["entities:read"],
  write: ["entities:write"],
  activity: ["activity:read", "activity:write"],
  webhooks: ["webhooks:admin"],
  admin: ["admin"],
} as const;

/** Makes all of it. Throws if the service refuses. */
export async function makeGround(port: number, seed: string, hostile: number): Promise<Ground> {
  const on = await session(port);
  const ask = async (method: string, body: object, key = BOOTSTRAP_KEY): Promise<any> => {
    const { http, body: said } = await call(on, {
      path: `/entity.v1.${method}`,
      headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
      body: Buffer.from(JSON.stringify(body)),
    });
    if (http !== 200) throw new Error(`${method}: HTTP ${http} ${said.toString("utf8").slice(0, 400)}`);
    return JSON.parse(said.toString("utf8"));
  };
  const party = async (name: string): Promise<Party> => {
    const { organization } = await ask("OrganizationService/CreateOrganization", {
      organization: { displayName: name },
    });
    const keys: Record<string, string> = {};
    for (const [of, scopes] of Object.entries(SCOPES)) {
      const made = await ask("OrganizationService/CreateApiKey", {
        organizationId: organization.id,
        displayName: of,
        scopes,
      });
      keys[of] = made.secret;
    }
    const entityIds: string[] = [];
    const create = async (entity: object) => {
      const made = await ask("EntityService/CreateEntity", { entity }, keys.all);
      entityIds.push(made.entity.id);
    };
    for (let i = 0; i < SMALL; i++) {
      await create({
        externalId: `small-${i}`,
        type: i % 2 === 0 ? "ENTITY_TYPE_PERSON" : "ENTITY_TYPE_COMPANY",
        countryCode: "AR",
        name: `Small ${i}`,
        taxId: `20-${10_000_000 + i}-1`,
      });
    }
    const much = () => Object.fromEntries(Array.from({ length: 16 }, (_, i) => [`k${i}`, "x".repeat(4_050)]));
    for (let i = 0; i < LARGE; i++) {
      await create({
        externalId: `big-${i}`,
        type: "ENTITY_TYPE_PERSON",
        countryCode: "AR",
        name: `Big ${i}`,
        attributes: much(),
        metadata: much(),
        entityData: { person: { firstName: "x", additional: much() } },
      });
    }
    const lists = () => ({ a: Array.from({ length: 9_000 }, (_, i) => [i % 10]) });
    for (let i = 0; i < DENSE; i++) {
      const dense = { externalId: `dense-${i}`, type: "ENTITY_TYPE_PERSON", countryCode: "AR", name: `Dense ${i}` };
      await create({ ...dense, attributes: lists(), metadata: lists() });
    }
    for (let i = 0; i < SPARE; i++) {
      const attributes = { [`k${i}`]: i };
      const status = i % 3 === 0 ? "ENTITY_STATUS_ACTIVE" : "ENTITY_STATUS_PENDING";
      const spare = { externalId: `spare-${i}`, type: "ENTITY_TYPE_PERSON", countryCode: "AR", name: `Spare ${i}` };
      await create({ ...spare, status, attributes });
    }
    const mergeIds: string[] = [];
    for (let i = 0; i < MERGED_PAIRS; i++) {
      const [primary, secondary] = [0, 1].map((side) => ({ externalId: `spare-${2 * i + side}` }));
      const merge = { primary, secondary, reason: "the same person" };
      mergeIds.push((await ask("EntityService/MergeEntities", merge, keys.all)).mergeId);
    }
    return { organizationId: organization.id, keys: keys as Party["keys"], entityIds, mergeIds };
  };
  const ground: Ground = { port, seed, good: await party("Good"), hostile: [] };
  for (let i = 0; i < hostile; i++) ground.hostile.push(await party(`Hostile ${i}`));
  on.destroy();
  return ground;
}
