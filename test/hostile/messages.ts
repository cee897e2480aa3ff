// Requests of every RPC, made from the descriptors: some as a caller means them, some as far from that as types allow.
import {
  create,
  type DescEnum,
  type DescField,
  type DescMessage,
  type DescMethod,
  type DescService,
  type Message,
  ScalarType,
  toBinary,
} from "@bufbuild/protobuf";
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import { SERVICES } from "../services.ts";
import { CANARY } from "./answers.ts";
import { type Ground, LARGE, type Party, SMALL, SPARE } from "./ground.ts";
import type { Random } from "./random.ts";

export interface Rpc {
  path: string;
  method: DescMethod;
  service: DescService;
}

export const RPCS: Rpc[] = SERVICES.flatMap((service) =>
  service.methods.map((method) => ({ path: `/${service.typeName}/${method.name}`, method, service })),
);

/** RPCs that would take the ground away from the others. */
const GUARDED = new Set(["RevokeApiKey"]);
export const isGuarded = ({ method }: Rpc) => GUARDED.has(method.name);

export interface Taste {
  random: Random;
  ground: Ground;
  party: Party;
  /** How many values of a hundred are invalid on purpose. */
  wild: number;
  /** The longest list, and the longest string. */
  maxList: number;
  maxText: number;
}

const ODD_TEXTS = [
  "",
  " ",
  "\u0000",
  "\u200b",
  "\u202e\u2066",
  "a\nb",
  "'; drop table entity; --",
  "%",
  "_",
  "\\",
  "__proto__",
  "constructor",
  "toString",
  "null",
  "NaN",
  "\ufeff",
  "e\u0301".repeat(50),
  "\u{1F469}\u200d\u{1F467}",
  "\u0130",
  "ß",
  "\uffff",
  "𝟙𝟚𝟛",
  "{{7*7}}",
  "../../etc/passwd",
  "9".repeat(400),
];
const PATHS = [
  ...["name", "status", "tax_id", "nationality", "entity_data", "entity_data.person", "entity_data.person.email"],
  ...[
    "entity_data.company.trading_names",
    "attributes",
    "metadata",
    "attributes.a",
    "id",
    "external_ids",
    "*",
    "",
    ".",
  ],
  ...["a.b.c.d.e", "__proto__", "entity_data.person.additional.x", "NAME", "entityData", "name,status", "etag"],
];

/** A text that no caller means. */
export function oddText({ random, maxText }: Taste): string {
  switch (random.int(0, 5)) {
    case 0:
      return random.pick(ODD_TEXTS);
    case 1:
      // As a key it is not one that a path names: those look like an identifier.
      return `${CANARY} ${random.word(6)}`.repeat(random.chance(0.1) ? random.int(1, Math.max(1, maxText / 16)) : 1);
    case 2:
      return random.bytes(random.int(0, 40)).toString("latin1");
    case 3:
      return random.bytes(random.int(0, 200)).toString("utf8");
    case 4:
      return (
        String.fromCodePoint(random.pick([0, 7, 0x7f, 0x85, 0xa0, 0xad, 0x2028, 0x2800, 0xe0001, 0x10ffff])) + CANARY
      );
    default:
      return "x".repeat(random.chance(0.2) ? random.int(0, maxText) : random.int(0, 5_000));
  }
}

const knownLookup = ({ random, party }: Taste) => {
  switch (random.int(0, 9)) {
    case 0:
      return { by: { case: "externalId", value: `big-${random.int(0, LARGE - 1)}` } };
    case 1:
      return { by: { case: "entityId", value: random.pick(party.entityIds) } };
    case 2:
      return { by: { case: "taxId", value: `20-${10_000_000 + random.int(0, SMALL - 1)}-1` } };
    case 3:
      return { by: { case: "externalId", value: `nobody-${CANARY}` } };
    default:
      return { by: { case: "externalId", value: `small-${random.int(0, SMALL - 1)}` } };
  }
};

/** Whom to merge, or to mark as distinct. */
const knownSpare = ({ random, party }: Taste) =>
  random.chance(0.3)
    ? { by: { case: "entityId", value: random.pick(party.entityIds.slice(-SPARE)) } }
    : { by: { case: "externalId", value: `spare-${random.int(0, SPARE - 1)}` } };

/** A valid text for the field, by its name. */
function meantText(field: DescField, taste: Taste): string {
  const { random, party } = taste;
  const { name } = field;
  const { name: message } = field.parent;
  if (name === "organization_id") return random.chance(0.5) ? "" : party.organizationId;
  if (name === "request_id") return random.chance(0.6) ? "" : random.uuid();
  if (name === "entity_id") return random.pick(party.entityIds);
  if (name === "merge_id") return random.pick(party.mergeIds);
  if (name === "country_code" || name === "country_codes" || name === "nationality")
    return random.pick(["AR", "BR", "de", "ZZ"]);
  if (name === "scopes") return random.pick(["entities:read", "entities:write", "activity:read", "webhooks:admin"]);
  if (name === "currency") return random.pick(["EUR", "ARS", "USD"]);
  if (name === "amount") return `${random.int(0, 1e6)}.${random.int(10, 99)}`;
  if (name === "url") return `http://127.0.0.1:${random.int(1, 9)}/hook`;
  if (name === "event_types" && message !== "UserEvent")
    return random.pick(["entity.created", "entity.updated", "entity.deleted"]);
  if (name.startsWith("date_of_") || name.endsWith("_date"))
    return `19${random.int(10, 99)}-0${random.int(1, 9)}-1${random.int(0, 9)}`;
  if (/etag$|page_token|position/.test(name)) return random.chance(0.8) ? "" : random.bytes(30).toString("base64url");
  if (name === "external_id" || name === "external_ids" || name === "new_external_id")
    return `${CANARY}-${random.word(8)}`;
  if (name.endsWith("_id") || name.endsWith("_ids")) return random.uuid();
  if (name === "reason") return random.chance(0.3) ? "" : `Review ${CANARY}`;
  if (name === "tax_id") return `${CANARY.replaceAll(/\W/g, "")}${random.int(1, 1e6)}`;
  return `${CANARY} ${random.word(random.int(1, 12))}`;
}

const ODD_NUMBERS = [0, -0, 1, -1, 127, 128, 1000, 1001, 2 ** 31 - 1, -(2 ** 31)];
const ODD_BIGS = [0n, 1n, -1n, 2n ** 63n - 1n, -(2n ** 63n), 253402300800n, -62135596801n, 2n ** 53n];

function scalar(field: DescField, type: ScalarType, taste: Taste): unknown {
  const { random, wild } = taste;
  const odd = random.int(0, 99) < wild;
  switch (type) {
    case ScalarType.STRING:
      return odd ? oddText(taste) : meantText(field, taste);
    case ScalarType.BOOL:
      return field.name === "validate_only" ? random.chance(0.3) : random.chance(0.5);
    case ScalarType.BYTES:
      return random.bytes(random.int(0, 64));
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return random.pick([0, -0, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 1e308, 5e-324]);
    case ScalarType.INT64:
    case ScalarType.SINT64:
    case ScalarType.SFIXED64:
      return random.pick(odd ? ODD_BIGS : [1_700_000_000n, 0n, 1n]);
    case ScalarType.UINT64:
    case ScalarType.FIXED64:
      return random.pick([0n, 2n ** 64n - 1n]);
    case ScalarType.UINT32:
    case ScalarType.FIXED32:
      return random.pick([0, 1, 2 ** 32 - 1]);
    default:
      return odd ? random.pick(ODD_NUMBERS) : random.int(0, 100);
  }
}

const enumeral = (desc: DescEnum, { random, wild }: Taste): number =>
  random.int(0, 99) < wild ? random.pick([0, -1, 99, 2 ** 31 - 1]) : random.pick(desc.values).number;

/** A value of a google.protobuf.Struct, as JSON. */
export function oddJson(taste: Taste, depth = 0): any {
  const { random, wild, maxList } = taste;
  const odd = random.int(0, 99) < wild;
  switch (random.int(0, depth > 4 ? 4 : 7)) {
    case 0:
      return null;
    case 1:
      return odd ? random.pick([1e308, -0, 5e-324, 2 ** 53, -(2 ** 53) - 2, 0.1]) : random.int(0, 100);
    case 2:
      return random.chance(0.5);
    case 3:
    case 4:
      return odd ? oddText(taste) : `${CANARY} ${random.word(8)}`;
    case 5:
      return Array.from({ length: random.int(0, odd ? Math.min(maxList, 300) : 5) }, () => oddJson(taste, depth + 1));
    default:
      return oddObject(taste, depth + 1);
  }
}

export function oddObject(taste: Taste, depth = 0): any {
  const { random, wild, maxList } = taste;
  const odd = random.int(0, 99) < wild;
  if (odd && depth === 0 && random.chance(0.2)) {
    let nested: any = 1;
    for (let i = random.int(1, 200); i > 0; i--) nested = random.chance(0.5) ? { a: nested } : [nested];
    return { nested };
  }
  const length = random.int(0, odd && depth < 2 ? Math.min(maxList, 250) : 5);
  const entries = Array.from({ length }, (_, i) => [
    odd && random.chance(0.05) ? oddText({ ...taste, maxText: 200 }) : `k${i}`,
    oddJson(taste, depth + 1),
  ]);
  return Object.fromEntries(entries);
}

/** Fields that say which two entities to merge, or to tell apart. */
const SIDES = new Set(["primary", "secondary", "first", "second"]);

/** A message of the type; with `wild: 0` one that a caller could mean. */
export function messageOf(desc: DescMessage, taste: Taste, depth = 0): Message {
  const { random, wild, party } = taste;
  const message = create(desc);
  const odd = () => random.int(0, 99) < wild;
  if (desc.typeName === "google.protobuf.FieldMask") {
    const length = odd() ? random.int(0, taste.maxList) : random.int(1, 3);
    (message as any).paths = Array.from({ length }, () =>
      random.chance(0.9) ? random.pick(PATHS) : oddText({ ...taste, maxText: 300 }),
    );
    return message;
  }
  if (desc.typeName === "google.protobuf.Timestamp" && !odd()) {
    (message as any).seconds = BigInt(random.int(1_500_000_000, 1_790_000_000));
    return message;
  }
  if (desc.typeName === "entity.v1.EntityLookup" && !odd()) return create(desc, knownLookup(taste) as never);
  const on: ReflectMessage = reflect(desc, message);
  const chosen = new Set<string>();
  for (const { fields } of desc.oneofs) if (fields.length > 1) chosen.add(random.pick(fields).name);
  for (const field of desc.fields) {
    if (field.oneof !== undefined && field.oneof.fields.length > 1 && !chosen.has(field.name)) continue;
    const isNeeded =
      /^(lookup|lookups|primary|secondary|first|second|merge_id|entity|endpoint|type|country_code|name|display_name|external_id|endpoint_id|url|transactions|user_events|requests|origin|amount|currency|event_type|organization|seconds|scopes)$/.test(
        field.name,
      );
    if (!isNeeded && random.chance(depth === 0 ? 0.6 : 0.75)) continue;
    if (isNeeded && odd() && random.chance(0.3)) continue;
    const one = (of: DescMessage): any => {
      if (of.typeName === "google.protobuf.Struct") return oddObject(taste);
      if (of.typeName === "entity.v1.EntityLookup" && SIDES.has(field.name) && !odd())
        return reflect(of, create(of, knownSpare(taste) as never));
      return reflect(of, messageOf(of, taste, depth + 1));
    };
    switch (field.fieldKind) {
      case "scalar":
        on.set(field, scalar(field, field.scalar, taste) as never);
        break;
      case "enum":
        on.set(field, enumeral(field.enum, taste));
        break;
      case "message":
        if (depth < 6) on.set(field, one(field.message));
        break;
      case "list": {
        const isHeavy = field.listKind === "message";
        const length = odd()
          ? random.int(0, isHeavy ? Math.min(taste.maxList, 3_000) : taste.maxList)
          : random.int(1, 4);
        const list = on.get(field);
        for (let i = 0; i < length; i++) {
          if (field.listKind === "message") list.add(one(field.message));
          else if (field.listKind === "enum") list.add(enumeral(field.enum, taste));
          else list.add(scalar(field, field.scalar, taste) as never);
        }
        break;
      }
      default:
        break;
    }
  }
  if (desc.typeName === "entity.v1.Entity" && !odd()) {
    const kind = (message as any).entityData?.kind?.case;
    (message as any).type = kind === "company" ? 2 : 1;
    (message as any).status = random.pick([0, 1, 3]);
  }
  void party;
  return message;
}

/** The bytes of a request; what protobuf refuses to write comes as the empty request. */
export function bytesOf(desc: DescMessage, taste: Taste): Uint8Array {
  try {
    return toBinary(desc, messageOf(desc, taste));
  } catch {
    return new Uint8Array();
  }
}
