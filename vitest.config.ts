import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: ["test/database-server.ts"],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // Two cores share the tests, the service and PostgreSQL.
    maxWorkers: 2,
    reporters: process.env.CI ? ["default", "json"] : ["default"],
    outputFile: { json: process.env.TEST_RESULTS ?? "test-results.json" },
  },
});
