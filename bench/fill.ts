// Organizations with entities, written by the database itself: as many as one likes in minutes. Every table
// is as the service would have written it before events were sealed: the entity, its external id, the event of its creation.
import type { Service } from "./processes.ts";
import { ALIAS_PREFIX, FIRST_ENTITY, FIRST_MS } from "./requests.ts";

/** Rows of one statement. */
const CHUNK = 250_000;

/** The key of organization 0, 1, ... of those made here, with the scopes to read, write and merge entities, for risk and for webhooks. */
export const apiKeyOf = (organization: number): string => `bench-organization-${String(organization).padStart(8, "0")}`;

const uuid = (time: string, rest: string) =>
  `(overlay(lpad(to_hex(${time}), 12, '0') placing '-' from 9 for 0) || '-7000-8000-' || lpad(to_hex(${rest}), 12, '0'))::uuid`;

/** The id of organization 1, 2, ... of those made here. */
const organizationId = (n: string) => uuid(String(FIRST_MS), n);

/** Makes organizations with `entitiesEach` entities, named as requests.ts has it. Answers their API keys. */
export async function fill(
  service: Service,
  { organizations, entitiesEach, people = false }: { organizations: number; entitiesEach: number; people?: boolean },
  progress: (done: number) => void = () => {},
): Promise<string[]> {
  const { sql } = service;
  await sql(`
    insert into organization (organization_id, display_name, external_id_policy, etag)
    select ${organizationId("n::bigint")}, 'Organization ' || n, 'MUTABLE_WITH_REASON', gen_random_uuid()
    from generate_series(1, ${organizations}) n`);
  await sql(`
    insert into api_key (organization_id, id, digest, display_name, scopes)
    select ${organizationId("n::bigint")}, ${uuid(String(FIRST_MS + 1), "n::bigint")},
      sha256(('bench-organization-' || lpad((n - 1)::text, 8, '0'))::bytea), 'bench', array['entities:read', 'entities:write', 'entities:merge', 'risk:admin', 'webhooks:admin']
    from generate_series(1, ${organizations}) n`);

  const total = organizations * entitiesEach;
  for (let from = 0; from < total; from += CHUNK) {
    const to = Math.min(total, from + CHUNK) - 1;
    // As the superuser may: foreign keys are not looked at one by one; they are checked below, all at once.
    await sql(`begin; set local session_replication_role = replica; ${chunk(organizations, from, to, people)}; commit`);
    progress(to + 1);
  }
  await sql("vacuum analyze organization, api_key, entity, entity_word, external_id, entity_event");
  await sql("checkpoint");
  await check(service, organizations, total);
  return Array.from({ length: organizations }, (_, i) => apiKeyOf(i));
}

/** Gives every entity an alias, which was used today: what the first use of a day writes is not measured with each get. */
export async function addAliases({ sql }: Service): Promise<void> {
  const alias = `replace(e.external_id, 'bench-', '${ALIAS_PREFIX}')`;
  await sql(`begin; set local session_replication_role = replica;
    insert into external_id (organization_id, external_id, entity_id, is_primary, attached_at, tracked_since, last_resolved_on)
    select e.organization_id, ${alias}, e.id, false, e.created_at, e.created_at, (now() at time zone 'UTC')::date
    from entity e where e.external_id like 'bench-%';
    update entity e set external_ids = e.external_ids || jsonb_build_array(jsonb_build_array(
      ${alias}, '', false, e.created_at, e.created_at, (now() at time zone 'UTC')::date))
    where e.external_id like 'bench-%';
    commit`);
  await sql("vacuum analyze entity, external_id");
  await sql("checkpoint");
}

/** A number of n from 0 up to 1, the same each time. */
const random = (seed: number) => `((hashint8(m * 2654435761 + ${seed}) & 2147483647) / 2147483648.0)`;
const SYLLABLES =
  "array['ma','ri','jo','se','lu','ca','an','to','ni','el','pe','ro','ga','ve','mo','li','du','fer','gon','sa']";
/** One of `count` words of three syllables, of which the first are by far the most common, as names of people are. */
const word = (seed: number, count: number) => `(select a[1 + i % 20] || a[1 + i / 20 % 20] || a[1 + i / 400 % 20]
  from (select ${SYLLABLES} as a, floor(${count} * power(${random(seed)}, 3))::int as i) w)`;

/** What entities are called, from a number m: one of its own each, or such as people have. */
const NAMES = {
  made: { name: "'COMPANIA ' || upper(md5(m::text)) || ' S.A.'", tradingName: "left(md5((m + 2)::text), 12)" },
  people: {
    name: `initcap(${word(1, 800)} || ' ' || ${word(2, 800)} || ' ' || ${word(3, 8000)} || ' ' || ${word(4, 8000)})`,
    tradingName: word(5, 8000),
  },
};

/** Organizations in turn, as they would come over time. Of `people` one in a thousand has the name and date of the one before. */
function chunk(organizations: number, from: number, to: number, people: boolean): string {
  const { name, tradingName } = NAMES[people ? "people" : "made"];
  const m = people ? "n - (n % 1000 = 7)::int" : "n";
  const taxId = people ? "n - 8 * (n % 1000 = 8)::int" : "n";
  const date = people ? "'incorporationDate', incorporation_date," : "";
  const digest = (value: string) =>
    `left(encode(sha256(convert_to('company ' || ${value} || ' ' || array_to_string(folded, ' '), 'UTF8')), 'hex'), 32)::uuid`;
  return `
    create temp table made on commit drop as
    select ${organizationId(`(n % ${organizations}) + 1`)} as organization_id,
      ${uuid(String(FIRST_MS + 1), `(n % ${organizations}) + 1`)} as principal,
      ${uuid(`${FIRST_MS} + n`, "n")} as id,
      ${uuid(`${FIRST_MS} + n`, "n + (1::bigint << 40)")} as event_id,
      'bench-' || (${FIRST_ENTITY} + n / ${organizations}) as external_id,
      to_char(to_timestamp((${FIRST_MS} + n) / 1000.0) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as created_at,
      name, words, folded,
      case when n % 8 = 0 then '30-' || (10000000 + ${taxId}) || '-0' end as tax_id,
      jsonb_build_object('program', jsonb_build_array('SDGT'), 'remarks', repeat(md5((n + 1)::text) || ' ', 3)) as attributes,
      ${people ? digest("incorporation_date") : "null::uuid"} as name_date_key,
      jsonb_build_object('legalName', name, ${date}
        'tradingNames', jsonb_build_array(trading_name),
        'address', jsonb_build_object('street', 'Ibex House ' || n, 'city', 'Santo Tomas', 'country', 'ZZ')) as entity_data
    from (
      select n, m, name, trading_name,
        (date '1960-01-01' + (20000 * ${random(6)})::int)::text as incorporation_date,
        array(select distinct w from unnest(string_to_array(lower(replace(name, '.', '')), ' ')) w order by w) as folded,
        array(select distinct w from unnest(string_to_array(lower(replace(name, '.', '') || ' ' || trading_name), ' ')) w) as words
      from (select n, m, ${name} as name, ${tradingName} as trading_name
        from (select n, ${m} as m from generate_series(${from}::bigint, ${to}::bigint) n) n offset 0) n
    ) n;

    insert into entity_word (organization_id, word, entity_id)
    select organization_id, w, id from made cross join lateral unnest(words) w;

    insert into entity (organization_id, id, version, type, country_code, external_id, external_ids, name, name_words,
      name_date_key, tax_id, tax_id_key, tax_id_check, status, entity_data, attributes, etag, created_at, updated_at)
    select organization_id, id, 1, 'company', 'ZZ', external_id,
      jsonb_build_array(jsonb_build_array(external_id, '', true, created_at)), name, ' ' || array_to_string(words, ' '),
      name_date_key, tax_id, replace(tax_id, '-', ''),
      case when tax_id is not null then 'unknown_format' end, 'pending', entity_data, attributes, gen_random_uuid(),
      created_at::timestamptz, created_at::timestamptz
    from made;

    insert into external_id (organization_id, external_id, entity_id, is_primary, attached_at)
    select organization_id, external_id, id, true, created_at::timestamptz from made;

    insert into entity_event (organization_id, id, entity_id, entity_version, entity_type, type, external_id, external_ids,
      updated_fields, previous_values, new_values, actor, principal, source, recorded_at, xid)
    select organization_id, event_id, id, 1, 'company', 'CREATED', external_id, array[external_id],
      array['type', 'countryCode', 'externalId', 'externalIds', 'name']
        || case when tax_id is null then array['status'] else array['taxId', 'taxIdCheck', 'status'] end
        || array['entityData', 'attributes'],
      '{}',
      jsonb_strip_nulls(jsonb_build_object('type', 'company', 'countryCode', 'ZZ', 'externalId', external_id,
        'externalIds', jsonb_build_array(jsonb_build_object('externalId', external_id, 'designation', 'primary', 'attachedAt', created_at)),
        'name', name, 'taxId', tax_id, 'taxIdCheck', case when tax_id is not null then 'unknown_format' end,
        'status', 'pending', 'entityData', jsonb_build_object('company', entity_data), 'attributes', attributes)),
      principal::text, principal, 'api', created_at::timestamptz, '0'
    from made`;
}

/** In the organizations made here every entity has its external id and its event, and there is nothing else. */
async function check({ sql }: Service, organizations: number, total: number): Promise<void> {
  const [row] = await sql(`
    with made as materialized (
      select ${organizationId("n::bigint")} as organization_id from generate_series(1, ${organizations}) n
    )
    select count(*) as entities,
      count(*) filter (where x.external_id is not null and v.id is not null and x.primary_of = e.id) as whole,
      (select count(*) from external_id where organization_id in (select organization_id from made)) as names,
      (select count(*) from entity_event where organization_id in (select organization_id from made)) as events
    from entity e
    left join external_id x on x.organization_id = e.organization_id and x.external_id = e.external_id and x.entity_id = e.id
    left join entity_event v on v.organization_id = e.organization_id and v.entity_id = e.id and v.entity_version = 1
    where e.organization_id in (select organization_id from made)`);
  const counts = [row.entities, row.whole, row.names, row.events];
  if (counts.some((count) => Number(count) !== total)) {
    throw new Error(
      `of ${total} entities ${row.entities} are there and ${row.whole} are whole; external ids: ${row.names}, events: ${row.events}`,
    );
  }
}
