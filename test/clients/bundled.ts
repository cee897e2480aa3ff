// What an application that uses the client bundles of it.
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { rolldown } from "rolldown";

/** `entry` as it is installed in the folder, with what everybody uses of it, as one minified file. */
export async function bundled(folder: string, entry: string): Promise<{ code: string; gzipped: number }> {
  const input = join(folder, "application.js");
  const bundle = await rolldown({
    input,
    platform: entry.endsWith("/web") ? "browser" : "node",
    plugins: [
      {
        name: "application",
        load: (id) =>
          id === input ? `export { createEntityClient, errorInfo, isReason, lookup } from "${entry}";` : undefined,
        resolveId: (id) => (id === input ? input : undefined),
      },
    ],
  });
  const { output } = await bundle.generate({ minify: true, format: "esm", codeSplitting: false });
  await bundle.close();
  const [{ code }] = output;
  return { code, gzipped: gzipSync(code, { level: 9 }).length };
}
