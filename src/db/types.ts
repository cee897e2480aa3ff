// How columns become values where a Date or the driver's own form would lose something: the types of schema.ts. MikroORM
// uses them where it hydrates, and columns.ts for the statements that are written by hand.
import { type Platform, Type } from "@mikro-orm/core";
import type { ExternalIdState } from "../domain/entity-state.ts";
import type { JsonValue } from "../domain/json.ts";
import { type Instant, instantToText, parseInstant } from "../domain/time.ts";

/** A column whose value is another one here than in the driver. Neither function sees null. */
export abstract class ColumnType<Value, Stored> extends Type<Value, Stored> {
  abstract toStored(value: Value): Stored;
  abstract fromStored(stored: Stored): Value;

  override convertToDatabaseValue(value: Value, _platform: Platform): Stored {
    return value === null || value === undefined ? (value as unknown as Stored) : this.toStored(value);
  }

  override convertToJSValue(stored: Stored, _platform: Platform): Value {
    return stored === null || stored === undefined ? (stored as unknown as Value) : this.fromStored(stored);
  }
}

/** timestamptz with its microseconds. */
export class InstantType extends ColumnType<Instant, string> {
  toStored = instantToText;
  fromStored = parseInstant;

  override getColumnType(): string {
    return "timestamptz";
  }

  // Not the column's: for that MikroORM would make a Date of it first.
  override compareAsType(): string {
    return "bigint";
  }
}

/** A bigint that counts, far below 2^53. */
export class CountType extends ColumnType<number, string> {
  toStored = String;
  fromStored = Number;

  override getColumnType(): string {
    return "bigint";
  }
}

type StoredExternalId = [
  externalId: string,
  type: string,
  primary: boolean,
  attachedAt: string,
  trackedSince?: string | null,
  lastResolvedOn?: string | null,
  homeId?: string | null,
];

/** The copy of an entity's external ids that its row has, in their order. */
export class ExternalIdsType extends ColumnType<readonly ExternalIdState[], StoredExternalId[]> {
  toStored(ids: readonly ExternalIdState[]): StoredExternalId[] {
    return ids.map((id) => {
      const stored: StoredExternalId = [id.externalId, id.type, id.primary, instantToText(id.attachedAt)];
      // A primary, and many entities have no other, takes no more than these.
      const { trackedSince, lastResolvedOn, homeId } = id;
      if (trackedSince !== null || homeId !== null) {
        stored.push(trackedSince === null ? null : instantToText(trackedSince), lastResolvedOn);
      }
      if (homeId !== null) stored.push(homeId);
      return stored;
    });
  }

  fromStored(stored: StoredExternalId[]): ExternalIdState[] {
    // By index: every read of an entity comes here, and to destructure an array goes by its iterator.
    return stored.map((id) => ({
      externalId: id[0],
      type: id[1],
      primary: id[2],
      attachedAt: parseInstant(id[3]),
      trackedSince: id[4] == null ? null : parseInstant(id[4]),
      lastResolvedOn: id[5] ?? null,
      homeId: id[6] ?? null,
    }));
  }

  override convertToDatabaseValue(ids: readonly ExternalIdState[]): StoredExternalId[] {
    return JSON.stringify(this.toStored(ids)) as JsonValue as StoredExternalId[];
  }

  override getColumnType(): string {
    return "jsonb";
  }
}
