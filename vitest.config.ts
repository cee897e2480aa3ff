import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: ["test/database-server.ts"],
    testTimeout: 60_000,
    // Twice: a suite that writes much ends while the disk is still at it.
    hookTimeout: 120_000,
    // For what is waited for, not measured: vitest's own second is too short where other work shares the machine.
    expect: { poll: { timeout: 20_000 } },
    // Two cores share the tests, the service and PostgreSQL.
    maxWorkers: 2,
    // Races and time limits are tested for real. Where other work shares the machine, one may be late once.
    retry: process.env.CI ? 1 : 0,
    setupFiles: ["test/rejections.ts"],
    reporters: process.env.CI ? ["default", "./.ci/results.ts"] : ["default"],
  },
});
