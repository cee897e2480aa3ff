// What the command line says behind the list of its options.

export const HELP = `
Environment of serve and migrate: see docs/operate/configuration.md. The other commands talk to the service at
ENTITY_SERVICE_URL (default http://127.0.0.1:50051) with the API key ENTITY_SERVICE_API_KEY.

Examples:
  export ENTITY_SERVICE_API_KEY=$(cat .data/bootstrap-key)
  entity-service import entities.ndjson
  entity-service export entities.ndjson.gz
  entity-service get --tax-id 30-71234567-1
  entity-service get --external-id customer-1 --at 2027-01-31T00:00:00Z
  entity-service events --external-id customer-1 --type ATTRIBUTE_CHANGED --limit 10
  entity-service watch --type CREATED --json
  entity-service external-ids history customer-1
  entity-service entities duplicates --limit 20
  entity-service entities merge customer-1 crm-17 --reason "same person" --preview
  entity-service analyze --all
  entity-service webhooks listen --secret whsec_... --answer 503
  entity-service keys create --name billing --scope entities:read --scope activity:write

Exit codes: 0 done, 1 failed, some rows failed or something was found, 2 the command or the environment cannot be used,
3 the service was ended by force: its log says what was still open.`;

export const IMPORT_HELP = `
A line is the JSON form of an Entity, in snake_case or camelCase; reason, request_id, occurred_at and
update_mask may stand beside its fields. Its external_ids are attached, and none is removed. Keys of a person, a company or an address that the contract does not list are
kept in 'additional'; any other unknown key fails its row. Rows that fail do not stop the others.

Of a CSV with a header, --columns names a file of JSON: {"columns": {COLUMN: PATH}, "values": {PATH: VALUE}}, the
values being those of all rows. Columns that it does not name are left out, blank cells change nothing. A path is
such as external_id, type, entity_data.company.address.city, attributes.segment, or external_ids.crm for an
alias with the label crm; several columns may be external_ids or entity_data.company.trading_names.

Examples:
  entity-service import entities.ndjson --dry-run
  entity-service import examples/companies.csv --columns examples/companies.columns.json
  entity-service import entities.ndjson.gz --errors errors.ndjson --reason "first load"
  jq -c '.[]' array.json | entity-service import -`;

export const RECHECK_HELP = `
Run it after an update whose log says that tax ids of an older version are left: first without --apply, which tells what
would come of it and writes nothing. It may be stopped and run again at any time.

  entity-service tax-ids recheck
  entity-service tax-ids recheck --apply`;

export const EXPORT_HELP = `
The rows have all that callers set, and make the same entities where there are none. Deleted and merged entities are
not in it. Entities without an external id go to FILE with .without-external-id in its name. While it runs,
FILE.state says how far it has come, and FILE.lock keeps other exports away from it. At the end it prints the position
of the moment: a watch from it misses nothing.

Examples:
  entity-service export entities.ndjson.gz
  entity-service export blocked.ndjson --status BLOCKED REJECTED --country AR
  entity-service watch --json --position POSITION`;

export const WATCH_HELP = `
Runs until it is stopped, and goes on where it was when the service restarts.

Example:
  entity-service watch --json > events.ndjson
  entity-service watch --json --position "$(tail -n 1 events.ndjson | jq -r .position)" >> events.ndjson`;

export const DUPLICATES_HELP = `
A line has the ids of the two, each rule by which they look like one, and where the values are. Nothing is decided.

Examples:
  entity-service entities duplicates --external-id customer-1
  entity-service entities duplicates --limit 1000 --json > pairs.ndjson`;

export const ANALYZE_HELP = `
With --all every live entity that has a risk matrix is analyzed. What has not changed since its last analysis is
answered from that and writes nothing, so that it may run each night, and again after it was interrupted.

Examples:
  entity-service analyze --external-id customer-1
  entity-service analyze --external-id customer-1 --matrix 0198c0de-0000-7000-8000-000000000001
  entity-service analyze --all`;

export const CHECKPOINTS_HELP = `
Examples:
  entity-service audit-checkpoints > checkpoints.ndjson
  entity-service audit-checkpoints --after "$(tail -n 1 checkpoints.ndjson | jq -r .number)" >> checkpoints.ndjson`;

export const VERIFY_HELP = `
Prints what is wrong, a line each, and ends with 1 where something is. Without checkpoints that were kept elsewhere
nobody can tell a log that was rewritten as a whole, and without a public key none whose checkpoints were signed anew.

Examples:
  entity-service verify-audit --checkpoints checkpoints.ndjson --public-key audit-key.pem
  entity-service verify-audit --external-id customer-1`;

export const LISTEN_HELP = `
Runs until it is stopped. What is not signed with the secret is answered 401. A service sends to this
machine only what its WEBHOOK_ALLOW names, such as WEBHOOK_ALLOW=127.0.0.1:8484 for http://127.0.0.1:8484/.

Examples:
  entity-service webhooks listen --json | jq .body
  entity-service webhooks listen --answer 503`;

export const CHANGE_HELP = `
Lines are worked on one after the other, each once for ever: a line whose change is in the events
counts as unchanged when the same file is run again, whatever happened since.

Example:
  echo '{"old": "crm-1", "new": "erp-0001", "reason": "CRM migration"}' > ids.ndjson
  entity-service change-external-ids ids.ndjson`;

const KEYS = `
An entity is given as id:UUID, external-id:ID or tax-id:NUMBER; without such a word it is an external id.`;

export const MERGE_HELP = `${KEYS}
Prints the id of the merge, every value of the two that differs and which one is kept, and how much activity
comes with the second.

Examples:
  entity-service entities merge customer-1 crm-17 --reason "same tax id and name" --preview
  entity-service entities merge customer-1 id:0198c0de-0000-7000-8000-000000000001 --reason "same tax id and name"`;

export const UNMERGE_HELP = `${KEYS}
Prints what stays with the other entity because it was edited since, what the merged one has from it, and the
external ids that it has again or has lost. Down a chain of merges the last is undone first.

Examples:
  entity-service entities unmerge crm-17 --reason "father and son" --preview
  entity-service entities unmerge crm-17 --reason "father and son" --mark-distinct`;
