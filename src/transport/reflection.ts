// grpc.reflection: tools such as grpcurl and buf curl call the service without its proto files. Serves what is
// public anyway, the contract; needs no key.
import { createRegistry, type DescFile, type DescService, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import { file_entity_v1_error } from "../../clients/typescript/gen/entity/v1/error_pb.ts";
import { file_google_rpc_error_details } from "../../clients/typescript/gen/google/rpc/error_details_pb.ts";
import type {
  ServerReflection,
  ServerReflectionRequest,
  ServerReflectionResponse,
} from "../../clients/typescript/gen/grpc/reflection/v1/reflection_pb.ts";
import type { ServerReflection as ServerReflectionAlpha } from "../../clients/typescript/gen/grpc/reflection/v1alpha/reflection_pb.ts";
import { invalidField } from "../domain/errors.ts";
import { CODE } from "../errors.ts";

type Answer = ServerReflectionResponse["messageResponse"];
type FileDescriptors = Extract<Answer, { case: "fileDescriptorResponse" }>;

/** Per stream. An answer may be a thousand times as large as its question; tools ask once for each symbol or file. */
const MAX_QUESTIONS = 200;

const NOT_FOUND = {
  case: "errorResponse",
  value: { errorCode: CODE.NOT_FOUND, errorMessage: "not found" },
} as const;

/** The files of errors' details, which no service imports: tools that find them here print details instead of bytes. */
export const DETAILS = [file_google_rpc_error_details, file_entity_v1_error];

/** Answers for the services, the files that define them and all that those import. v1 and v1alpha differ in their package alone. */
export function reflection(services: readonly DescService[]): {
  v1: ServiceImpl<typeof ServerReflection>;
  v1alpha: ServiceImpl<typeof ServerReflectionAlpha>;
} {
  const answer = answers(services);
  async function* serverReflectionInfo(requests: AsyncIterable<ServerReflectionRequest>) {
    let questions = 0;
    for await (const request of requests) {
      questions += 1;
      if (questions > MAX_QUESTIONS)
        throw invalidField("message_request", `a stream answers at most ${MAX_QUESTIONS} questions: open another`, {
          limit: String(MAX_QUESTIONS),
        });
      yield { validHost: request.host, originalRequest: request, messageResponse: answer(request.messageRequest) };
    }
  }
  return {
    v1: { serverReflectionInfo },
    v1alpha: { serverReflectionInfo: serverReflectionInfo as never },
  };
}

function answers(services: readonly DescService[]) {
  const files = new Map<string, DescFile>();
  for (const root of [...services.map((service) => service.file), ...DETAILS]) {
    for (const file of withImports(root)) files.set(file.proto.name, file);
  }
  const registry = createRegistry(...files.values());

  /** A method, field or enum value is found by its parent. */
  const fileOf = (symbol: string) =>
    (registry.get(symbol) ?? registry.get(symbol.slice(0, Math.max(0, symbol.lastIndexOf(".")))))?.file;
  /** A file with all that it imports is some 30 kB: it is encoded once, not for everyone who asks. */
  const described = new Map<DescFile | undefined, ReturnType<typeof describe>>();
  const describeOnce = (file: DescFile | undefined) => {
    const answer = described.get(file) ?? describe(file);
    described.set(file, answer);
    return answer;
  };
  const extensionsOf = (typeName: string) =>
    Array.from(registry).filter((type) => type.kind === "extension" && type.extendee.typeName === typeName);

  return (request: ServerReflectionRequest["messageRequest"]) => {
    switch (request.case) {
      case "listServices":
        return {
          case: "listServicesResponse",
          value: { service: services.map((service) => ({ name: service.typeName })) },
        } as const;
      case "fileByFilename":
        return describeOnce(files.get(request.value));
      case "fileContainingSymbol":
        return describeOnce(fileOf(request.value));
      case "fileContainingExtension": {
        const { containingType, extensionNumber } = request.value;
        const found = extensionsOf(containingType).find(
          (type) => type.kind === "extension" && type.number === extensionNumber,
        );
        return describeOnce(found?.file);
      }
      case "allExtensionNumbersOfType": {
        const baseTypeName = request.value;
        if (registry.getMessage(baseTypeName) === undefined) return NOT_FOUND;
        const extensionNumber = extensionsOf(baseTypeName).map((type) => (type.kind === "extension" ? type.number : 0));
        return { case: "allExtensionNumbersResponse", value: { baseTypeName, extensionNumber } } as const;
      }
      default:
        return NOT_FOUND;
    }
  };
}

function describe(
  file: DescFile | undefined,
): (Pick<FileDescriptors, "case"> & { value: { fileDescriptorProto: Uint8Array[] } }) | typeof NOT_FOUND {
  if (file === undefined) return NOT_FOUND;
  const fileDescriptorProto = withImports(file).map(({ proto }) => toBinary(FileDescriptorProtoSchema, proto));
  return { case: "fileDescriptorResponse", value: { fileDescriptorProto } };
}

/** The file first, then everything that it imports, each once. */
function withImports(file: DescFile): DescFile[] {
  const found = new Set([file]);
  for (const each of found) for (const dependency of each.dependencies) found.add(dependency);
  return [...found];
}
