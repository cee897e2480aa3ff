// The migrations, in order. One that has landed is never edited.
import { Init } from "./20261120120000_init.ts";
import { EventFeed } from "./20261124032000_event_feed.ts";
import { FeedSink } from "./20261124060000_feed_sink.ts";
import { Webhooks } from "./20261124070000_webhooks.ts";
import { Retention } from "./20261124150000_retention.ts";
import { WebhookLog } from "./20261124160000_webhook_log.ts";
import { AdministrationEvents } from "./20261126120000_administration_event.ts";
import { FeedStarts } from "./20261126204500_feed_starts.ts";
import { Backup } from "./20261126210000_backup.ts";
import { ApiKeysTogether } from "./20261127100000_api_keys_together.ts";
import { SealedEvents } from "./20261127120000_sealed_events.ts";
import { AuditCheckpoint } from "./20261127140000_audit_checkpoint.ts";
import { ExternalIdPast } from "./20261128120000_external_id_past.ts";
import { Merges } from "./20261129120000_merges.ts";
import { Names } from "./20261129130000_names.ts";
import { Risk } from "./20261130100000_risk.ts";
import { TaxIds } from "./20261130120000_tax_ids.ts";

export const MIGRATIONS = [
  { name: "20261120120000_init", class: Init },
  { name: "20261124032000_event_feed", class: EventFeed },
  { name: "20261124060000_feed_sink", class: FeedSink },
  { name: "20261124070000_webhooks", class: Webhooks },
  { name: "20261124150000_retention", class: Retention },
  { name: "20261124160000_webhook_log", class: WebhookLog },
  { name: "20261126120000_administration_event", class: AdministrationEvents },
  { name: "20261126204500_feed_starts", class: FeedStarts },
  { name: "20261126210000_backup", class: Backup },
  { name: "20261127100000_api_keys_together", class: ApiKeysTogether },
  { name: "20261127120000_sealed_events", class: SealedEvents },
  { name: "20261127140000_audit_checkpoint", class: AuditCheckpoint },
  { name: "20261128120000_external_id_past", class: ExternalIdPast },
  { name: "20261129120000_merges", class: Merges },
  { name: "20261129130000_names", class: Names },
  { name: "20261130100000_risk", class: Risk },
  { name: "20261130120000_tax_ids", class: TaxIds },
];
