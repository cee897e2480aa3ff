// Copies the .proto files that the contract and the server import out of the npm packages that ship
// them into third_party/, which git ignores: they are nobody's to edit here.
import { copyFile, mkdir, rm } from "node:fs/promises";
import { dirname } from "node:path";

const modules = new URL("../node_modules/", import.meta.url);
const target = new URL("../third_party/", import.meta.url);

const protos = {
  "google/rpc/status.proto": "google-gax/build/protos/google/rpc/status.proto",
  "google/rpc/error_details.proto": "google-gax/build/protos/google/rpc/error_details.proto",
  "grpc/health/v1/health.proto": "grpc-health-check/proto/health/v1/health.proto",
  "grpc/reflection/v1/reflection.proto": "@grpc/reflection/build/proto/grpc/reflection/v1/reflection.proto",
  "grpc/reflection/v1alpha/reflection.proto": "@grpc/reflection/build/proto/grpc/reflection/v1alpha/reflection.proto",
};

await rm(target, { recursive: true, force: true });
for (const [path, source] of Object.entries(protos)) {
  const file = new URL(path, target);
  await mkdir(dirname(file.pathname), { recursive: true });
  await copyFile(new URL(source, modules), file);
}
