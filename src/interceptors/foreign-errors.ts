// The library's own failures as refusals of the contract. Its texts echo values of the request
// (`expected bigint: Juan Perez ...`), so nothing of them goes on but type and field names, which are ours.
import { type DescEnum, type DescField, type DescMessage, type DescMethod, ScalarType } from "@bufbuild/protobuf";
import { Code, type ConnectError } from "@connectrpc/connect";
import { callerLeft, DomainError, invalidField } from "../domain/errors.ts";
import { isFieldIn, pathIn, typeIn } from "./field-paths.ts";

/** A name of a field that the contract does not have is repeated only where it looks like one. */
const IDENTIFIER = /^[A-Za-z0-9_.-]{1,64}$/;
const LOOKUP = "entity.v1.EntityLookup";

/** What a failure of the library means. Undefined: a defect, for the log and INTERNAL. */
export function foreignError(error: ConnectError, method: DescMethod): DomainError | undefined {
  const text = error.rawMessage;
  switch (error.code) {
    case Code.InvalidArgument:
      return timeoutRefusal(text) ?? jsonRefusal(text, method.input) ?? malformed(text, method.input);
    case Code.ResourceExhausted:
      return tooLarge(text);
    case Code.Unimplemented:
      return unimplemented(text);
    case Code.DeadlineExceeded:
      return new DomainError("DEADLINE_EXCEEDED", "The call took longer than its deadline");
    case Code.Canceled:
    case Code.Aborted:
      return callerLeft();
    case Code.Internal:
      if (text.startsWith("received compressed envelope, ")) {
        // The gRPC compression specification asks for INTERNAL, though the caller is at fault.
        return new DomainError("INTERNAL", "The message is flagged as compressed, but the call names no encoding");
      }
      return text.startsWith("parse binary: ") || text === "decompression failed"
        ? malformed(text, method.input)
        : undefined;
    default:
      return undefined;
  }
}

function timeoutRefusal(text: string): DomainError | undefined {
  const max = /^timeout [\d.e+]+ms must be <= (\d+)$/.exec(text)?.[1];
  if (max !== undefined) return invalidField("timeout", `must be at most ${max} ms`, { limit: max });
  if (text.startsWith("protocol error: invalid grpc timeout value: ")) {
    return invalidField("grpc-timeout", "must be up to 8 digits and one of the units H, M, S, m, u, n");
  }
  if (text.startsWith("protocol error: invalid connect timeout value: ")) {
    return invalidField("connect-timeout-ms", "must be up to 10 digits");
  }
  return undefined;
}

function tooLarge(text: string): DomainError {
  const [, which, limit = ""] = /configured (read|write)MaxBytes (\d+)/.exec(text) ?? [];
  const message = which === "write" ? "The response is" : "The request message is";
  return new DomainError("MESSAGE_TOO_LARGE", `${message} larger than ${limit} bytes`, { limit_bytes: limit });
}

function unimplemented(text: string): DomainError {
  if (text.startsWith("unknown compression ")) {
    return new DomainError("UNIMPLEMENTED", "The compression is not served: use gzip or identity");
  }
  if (text.startsWith("protocol error: missing input message")) {
    return new DomainError("UNIMPLEMENTED", "The call has no request message: it takes one");
  }
  if (text.startsWith("protocol error: received extra input message")) {
    return new DomainError("UNIMPLEMENTED", "The call has more than one request message: it takes one");
  }
  return new DomainError("UNIMPLEMENTED", "The RPC is not served");
}

function malformed(text: string, request: DescMessage): DomainError {
  if (text === "decompression failed") return refusal("The request cannot be decompressed");
  if (text.startsWith("protocol error: incomplete envelope")) return refusal("The request ends within a message");
  if (text.startsWith("protocol error: promised "))
    return refusal("The request has not the length of its content-length");
  return refusal(`The request is not a valid ${request.typeName}`);
}

/** A refusal of the whole request: no field is at fault. */
function refusal(message: string): DomainError {
  return new DomainError("VALIDATION_ERROR", message);
}

/** What the library's failure to read JSON as `request` means, for JSON that is read outside of a call. */
export function undecodableJson(error: unknown, request: DescMessage): DomainError {
  const text = error instanceof Error ? error.message : "";
  return jsonRefusal(text, request) ?? malformed(text, request);
}

// The texts of @bufbuild/protobuf 2.17.0, src/from-json.ts:
//   cannot decode field entity.v1.Entity.name from JSON: expected string, got 5
//   cannot decode oneof entity.v1.EntityLookup.by from JSON: oneof set multiple times by a and b
//   cannot decode message entity.v1.Entity from JSON: key "nam" is unknown
//   cannot decode enum entity.v1.EntityType from JSON: "person"
// What stands before "from JSON" is a name of the contract, what stands behind it may hold anything.
function jsonRefusal(text: string, request: DescMessage): DomainError | undefined {
  if (/^cannot decode (message )?[\w.]+ from JSON: maximum recursion depth of \d+ reached$/.test(text)) {
    return refusal("The request is nested too deeply");
  }
  const [, kind, name = "", detail = ""] =
    /^cannot decode (field|oneof|message|enum) ([\w.]+) from JSON:? (.*)$/s.exec(text) ?? [];
  switch (kind) {
    case "field":
      return fieldRefusal(request, name, detail);
    case "oneof":
      return oneofRefusal(request, name);
    case "message":
      return messageRefusal(request, name, detail);
    case "enum":
      return enumRefusal(request, name);
    default:
      return undefined;
  }
}

function fieldRefusal(request: DescMessage, name: string, detail: string): DomainError {
  const [typeName, fieldName] = splitLast(name);
  const index = /^list item #(\d+): /.exec(detail)?.[1];
  const path = pathIn(request, typeName, fieldName) + (index === undefined ? "" : `[${Number(index) - 1}]`);
  if (detail === "set multiple times") return invalidField(path, "is given twice");
  if (detail === "list item must not be null") return invalidField(path, "must not hold null");
  if (detail.endsWith(": invalid UTF8")) return invalidField(path, "must be a string of valid Unicode");
  const type = typeIn(request, typeName);
  const field = type?.kind === "message" ? type.fields.find((candidate) => candidate.name === fieldName) : undefined;
  if (detail.startsWith("expected Array, ")) return invalidField(path, "must be a list");
  return invalidField(path, field === undefined ? "cannot be read" : `must be ${expected(field)}`);
}

function oneofRefusal(request: DescMessage, name: string): DomainError {
  const [typeName, oneofName] = splitLast(name);
  const type = typeIn(request, typeName);
  const oneof = type?.kind === "message" ? type.oneofs.find((candidate) => candidate.name === oneofName) : undefined;
  const names = oneof?.fields.map((field) => field.name).join(", ") ?? oneofName;
  if (typeName === LOOKUP) {
    const field = pathIn(request, typeName);
    const description = `give exactly one of ${names}`;
    return new DomainError("INVALID_LOOKUP", `${field}: ${description}`, { field }, [{ field, description }]);
  }
  return invalidField(pathIn(request, typeName, oneofName), `give only one of ${names}`);
}

function messageRefusal(request: DescMessage, typeName: string, detail: string): DomainError {
  const unknown = /^key "(.*)" is unknown$/s.exec(detail)?.[1];
  if (unknown !== undefined && IDENTIFIER.test(unknown)) {
    return invalidField(pathIn(request, typeName, unknown), "there is no such field");
  }
  const duplicate = /^duplicate object key "(.*)"$/s.exec(detail)?.[1];
  if (duplicate !== undefined) {
    // The decoder tells the key alone, and a key of a Struct is the caller's: it is named only where it is a field of ours.
    return isFieldIn(request, duplicate)
      ? invalidField(duplicate, "is given twice")
      : refusal("A key is given twice in one object of the request");
  }
  const path = pathIn(request, typeName);
  if (path === "") {
    return refusal(
      unknown === undefined
        ? `The request is not a valid ${request.typeName}`
        : "The request has a field that the contract does not have",
    );
  }
  if (unknown !== undefined) return invalidField(path, "has a field that the contract does not have");
  return invalidField(path, `must be ${JSON_FORM[typeName] ?? "an object"}`);
}

function enumRefusal(request: DescMessage, typeName: string): DomainError {
  const type = typeIn(request, typeName);
  return invalidField(pathIn(request, typeName), type?.kind === "enum" ? `must be ${oneOf(type)}` : "cannot be read");
}

const JSON_FORM: Record<string, string> = {
  "google.protobuf.Timestamp": "a time as in 2026-01-31T12:00:00Z, from year 1 to 9999",
  "google.protobuf.Duration": 'a duration as in "1.5s"',
  "google.protobuf.FieldMask": "field paths in lowerCamelCase, separated by commas",
  "google.protobuf.ListValue": "a list",
};

function expected(field: DescField): string {
  if (field.fieldKind === "map") return "an object";
  if (field.scalar !== undefined) return SCALAR[field.scalar];
  if (field.enum !== undefined) return oneOf(field.enum);
  return JSON_FORM[field.message?.typeName ?? ""] ?? "an object";
}

function oneOf(type: DescEnum): string {
  return `one of ${type.values
    .filter((value) => value.number !== 0)
    .map((value) => value.name)
    .join(", ")}`;
}

const INT32 = "a whole number of 32 bits";
const UINT32 = "a whole number of 32 bits, not negative";
const INT64 = "a whole number of 64 bits";
const UINT64 = "a whole number of 64 bits, not negative";

const SCALAR: Record<ScalarType, string> = {
  [ScalarType.STRING]: "a string",
  [ScalarType.BOOL]: "true or false",
  [ScalarType.BYTES]: "a string in base64",
  [ScalarType.DOUBLE]: "a number",
  [ScalarType.FLOAT]: "a number of 32 bits",
  [ScalarType.INT32]: INT32,
  [ScalarType.SINT32]: INT32,
  [ScalarType.SFIXED32]: INT32,
  [ScalarType.UINT32]: UINT32,
  [ScalarType.FIXED32]: UINT32,
  [ScalarType.INT64]: INT64,
  [ScalarType.SINT64]: INT64,
  [ScalarType.SFIXED64]: INT64,
  [ScalarType.UINT64]: UINT64,
  [ScalarType.FIXED64]: UINT64,
};

function splitLast(name: string): [string, string] {
  const dot = name.lastIndexOf(".");
  return [name.slice(0, dot), name.slice(dot + 1)];
}
