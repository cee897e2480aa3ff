// Copies the .proto files that the contract and the server import out of the npm packages that ship
// them into third_party/, which git ignores: they are nobody's to edit here. Writes only what differs, so
// that it may run at any time, beside anything that reads them.
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";

const modules = new URL("../node_modules/", import.meta.url);
const target = new URL("../third_party/", import.meta.url);

const protos: Record<string, string> = {
  "google/rpc/error_details.proto": "google-gax/build/protos/google/rpc/error_details.proto",
  "grpc/health/v1/health.proto": "grpc-health-check/proto/health/v1/health.proto",
  "grpc/reflection/v1/reflection.proto": "@grpc/reflection/build/proto/grpc/reflection/v1/reflection.proto",
  "grpc/reflection/v1alpha/reflection.proto": "@grpc/reflection/build/proto/grpc/reflection/v1alpha/reflection.proto",
};

await mkdir(target, { recursive: true });
for (const entry of await readdir(target, { recursive: true, withFileTypes: true })) {
  const path = `${entry.parentPath}/${entry.name}`.slice(target.pathname.length).replace(/^\/+/, "");
  if (entry.isFile() && protos[path] === undefined) await rm(new URL(path, target));
}
for (const [path, source] of Object.entries(protos)) {
  const file = new URL(path, target);
  const text = await readFile(new URL(source, modules), "utf8");
  if ((await readFile(file, "utf8").catch(() => undefined)) === text) continue;
  await mkdir(dirname(file.pathname), { recursive: true });
  const half = new URL(`${path}.${process.pid}`, target);
  await writeFile(half, text);
  await rename(half, file);
}
