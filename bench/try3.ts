import { startService, DEFAULT_ORGANIZATION } from "./processes.ts";
import { openRows, importRows } from "./rows.ts";
import { recordUpdate, scriptOf, runPgbench } from "./pgbench.ts";
await using s = await startService();
await importRows(s.port, DEFAULT_ORGANIZATION.apiKey, openRows(), 1000);
const [{id}] = await s.sql("select id from api_key");
const author = { principal: id, actor: id, source: "api" };
const st = await recordUpdate(s.address, DEFAULT_ORGANIZATION.id, author, 7, 1000000001);
const script = scriptOf(st, 7);
console.log(script);
try {
console.log(await runPgbench({ address: s.address, organizationId: DEFAULT_ORGANIZATION.id, author, script, clients: 1, from: 9, to: 9, limit: { transactions: 1 } }));
console.log(await runPgbench({ address: s.address, organizationId: DEFAULT_ORGANIZATION.id, author, script, clients: 16, from: 0, to: 999, limit: { seconds: 3 } }));
} catch (e) { console.log(e) }
console.log(await s.sql("select * from entity_event where external_id='bench-10000009' and entity_version=2"));
