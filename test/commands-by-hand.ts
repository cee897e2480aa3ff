// Commands of one entity, written by hand: for tests of groups, without an RPC around them.
import { newEntity } from "../src/domain/entity.ts";
import type { OneEntityCommand } from "../src/entities/command.ts";

export const author = { principal: "00000000-0000-7000-8000-00000000aaaa", actor: "test", source: "test" };

export const creation = (name: string, externalId?: string, taxId?: string): OneEntityCommand => ({
  author,
  claims: externalId === undefined ? [] : [externalId],
  decide: (_, { now }) =>
    newEntity(
      { type: "person", countryCode: "AR", name, ...(externalId && { externalId }), ...(taxId && { taxId }) },
      "",
      now,
    ),
});

export const requestOf = (requestId: string): NonNullable<OneEntityCommand["request"]> => ({
  method: "Test",
  requestId,
  hash: Buffer.from("same"),
  answer: ({ after }) => Buffer.from(after.id),
});
