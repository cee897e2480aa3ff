// What an UpdateEntityRequest asks for, alone or in a batch.
import { create } from "@bufbuild/protobuf";
import { EntitySchema } from "../../clients/typescript/gen/entity/v1/entity_pb.ts";
import type { UpdateEntityRequest } from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { newEntity, update } from "../domain/entity.ts";
import type { OneEntityCommand } from "../entities/command.ts";
import { fromProto } from "./entity-message.ts";
import { parseLookup, parseReason } from "./request.ts";
import { Violations } from "./violations.ts";
import { parseWrite } from "./write.ts";

/** The write that an update asks for, and the paths that it ignores. `today` as for fromProto. */
export function updateOf(request: UpdateEntityRequest, today: string) {
  const lookup = parseLookup(request.lookup);
  const violations = new Violations();
  const input = fromProto(request.entity ?? create(EntitySchema), request.updateMask, today, violations);
  const reason = parseReason(request.reason, violations, false);
  const common = parseWrite(request, violations);
  const etag = oneEtag(request.etag, input.etag, violations);
  if (request.allowMissing && lookup.by !== "external_id") {
    violations.add("allow_missing", "needs a lookup by external_id");
  }
  violations.throwIfAny();

  const command: Omit<OneEntityCommand, "author" | "request" | "requestId"> & { requestId: string | undefined } = {
    ...common,
    lookup,
    etag,
    allowMissing: request.allowMissing,
    claims: request.allowMissing ? [lookup.key] : [],
    claimField: () => ({ field: "lookup.external_id" }),
    decide: (current, { now }) =>
      current === null
        ? newEntity({ ...input.patch, externalId: lookup.key }, reason, now)
        : update(current, input.patch, reason),
  };
  return { command, ignored: input.ignored };
}

/** Rule 35: in the request or in the entity; both and different is refused. */
function oneEtag(given: string, inEntity: string | undefined, violations: Violations): string | undefined {
  if (given !== "" && inEntity !== undefined && given !== inEntity) {
    violations.add("etag", "differs from entity.etag: give one of them");
  }
  return given === "" ? inEntity : given;
}
