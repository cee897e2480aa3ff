// How the console is built, and `npx vite clients/console` for those who work on it: calls go to a service on its usual port.
import { fileURLToPath } from "node:url";
import { defineConfig, type UserConfig } from "vite";

const SERVICE = process.env.SERVICE ?? "http://127.0.0.1:50051";

export const settings: UserConfig = {
  root: fileURLToPath(new URL(".", import.meta.url)),
  base: "/console/",
  publicDir: false,
  resolve: {
    // The components are written for React; Preact does the same in a tenth of the bytes.
    alias: [
      { find: /^react-dom\/client$/, replacement: "preact/compat/client" },
      { find: /^react-dom$/, replacement: "preact/compat" },
      { find: /^react$/, replacement: fileURLToPath(new URL("src/react.js", import.meta.url)) },
      { find: /^react\/jsx-runtime$/, replacement: "preact/jsx-runtime" },
    ],
  },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    target: "es2023",
    // Nothing inline: the Content-Security-Policy would refuse it.
    assetsInlineLimit: 0,
    modulePreload: false,
    reportCompressedSize: false,
    emptyOutDir: true,
  },
  server: { proxy: { "^/(entity|grpc)\\.": SERVICE } },
};

export default defineConfig(settings);
