// Requests in JSON: decoded once more before the library decodes them, so that a refusal names the field by its path
// from the request and what to do. The library's own errors name a type, and echo values of the request
// (`expected bigint: Juan Perez ...`); it also shifts days that no calendar has, 30 February becomes 1 March.
import { type DescMessage, fromJsonString } from "@bufbuild/protobuf";
import type { DomainError } from "../domain/errors.ts";
import type { JsonValue } from "../domain/json.ts";
import { toConnectError } from "../errors.ts";
import { duplicateKey, jsonProblem, wholeRequest } from "./json-problem.ts";
import { syntaxProblem } from "./json-syntax.ts";
import { namesImpossibleTime } from "./json-times.ts";

/**
 * For the library, which takes its decoder of UTF-8 from its options: throws the refusal of a request that is not valid
 * JSON of `request`, or what `look` throws at the bytes before that.
 */
export function jsonDecoder(
  request: DescMessage,
  look: (bytes: Uint8Array) => void,
): { decode(bytes?: Uint8Array): string } {
  const utf8 = new TextDecoder("utf-8", { fatal: true });
  return {
    decode(bytes = new Uint8Array()) {
      look(bytes);
      let text: string;
      try {
        text = utf8.decode(bytes);
      } catch {
        throw toConnectError(wholeRequest("The request is not valid UTF-8"));
      }
      const problem =
        bytes.length > EXPLAINED_BYTES ? timeProblem(request, bytes, text) : textProblem(request, bytes, text);
      if (problem !== undefined) throw toConnectError(problem);
      return text;
    },
  };
}

/** A longer request is checked by the library alone: decoding it twice would delay other calls. */
const EXPLAINED_BYTES = 128 * 1024;

/** A time that no calendar has, which the library would take for another. */
function timeProblem(request: DescMessage, bytes: Uint8Array, text: string): DomainError | undefined {
  if (!namesImpossibleTime(bytes)) return undefined;
  try {
    return jsonProblem(request, JSON.parse(text) as JsonValue);
  } catch {
    return wholeRequest("The request is not JSON");
  }
}

/** What is wrong with a text as JSON of `request`; undefined where it decodes. */
function textProblem(request: DescMessage, bytes: Uint8Array, text: string): DomainError | undefined {
  try {
    fromJsonString(request, text);
    if (!namesImpossibleTime(bytes)) return undefined;
  } catch (error) {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      return wholeRequest(`The request is not JSON: ${syntaxProblem(text)}`);
    }
    const problem = jsonProblem(request, value as JsonValue);
    return problem ?? duplicateKey(error, request) ?? wholeRequest(`The request is not a valid ${request.typeName}`);
  }
  return jsonProblem(request, JSON.parse(text) as JsonValue);
}
