// Events are sealed: each names the one before of its entity by its hash. domain/seal.ts says what is hashed.
import { Migration } from "@mikro-orm/migrations";

export class SealedEvents extends Migration {
  override name = "20261127120000_sealed_events";

  override up(): void {
    // Without a value for what is there, so that no row is written or read. Events from before stay unsealed: whoever
    // sealed them now would vouch for what anybody may have done to them.
    this.addSql(`
      alter table entity_event
        add column salt bytea,
        add column personal_hash bytea,
        add column previous_hash bytea,
        add column hash bytea`);
    // The hash of the entity's last event.
    this.addSql(`alter table entity add column audit_head bytea`);
  }
}
