import type { MessageInitShape } from "@bufbuild/protobuf";
import type { EntityLookupSchema } from "./gen/entity/v1/entity_pb.ts";

type Lookup = MessageInitShape<typeof EntityLookupSchema>;

/** Which entity: `lookup.externalId("crm-1")`. */
export const lookup = {
  /** By the service's own id, a UUID. */
  id: (value: string): Lookup => ({ by: { case: "entityId", value } }),
  /** By any of its external ids, as it is written. */
  externalId: (value: string): Lookup => ({ by: { case: "externalId", value } }),
  /** By its tax id, whatever the punctuation. Several entities may have it: AMBIGUOUS_TAX_ID_LOOKUP. */
  taxId: (value: string): Lookup => ({ by: { case: "taxId", value } }),
};
