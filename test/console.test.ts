// The console in a real browser, on the real service.
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { accessibilityProblems, hasBrowser, launchBrowser, openPage, picture } from "./browser.ts";
import { startService, type TestService } from "./harness.ts";

const dataDir = mkdtempSync(join(tmpdir(), "console-"));

describe.skipIf(!hasBrowser)("the console in Chromium", () => {
  let service: TestService;
  let browser: Browser;
  let url: string;

  beforeAll(async () => {
    service = await startService({ config: { console: true, dataDir } });
    url = `${service.baseUrl}/console`;
    browser = await launchBrowser();
  });
  afterAll(async () => {
    await browser?.close();
    await service?.[Symbol.asyncDispose]();
    await rm(dataDir, { recursive: true, force: true });
  });

  async function signIn(page: Page, key = service.organization.apiKey): Promise<void> {
    await page.goto(url);
    await page.getByLabel("API key").fill(key);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("button", { name: "Sign out" }).waitFor();
  }

  test("is built when it is first asked for, and comes by itself; then sign in, search, an entity's page", async () => {
    const { entity } = await service.client.entities.createEntity({
      entity: {
        type: 1,
        countryCode: "AR",
        name: "Lucía Ferreyra",
        externalId: "customer-1001",
        taxId: "20-28471953-1",
      },
    });
    await using opened = await openPage(browser);
    const { page, complaints } = opened;
    await signIn(page);
    await page.getByLabel("Search for").fill("customer-1001");
    await page.getByRole("button", { name: "Search" }).click();
    await page.getByRole("cell", { name: "external id", exact: true }).waitFor();
    expect(await accessibilityProblems(page)).toEqual([]);
    await picture(page, "search");
    await page.getByRole("link", { name: "Lucía Ferreyra" }).click();
    await page.getByRole("heading", { name: /Lucía Ferreyra/ }).waitFor();
    expect(page.url()).toContain(entity?.id);
    expect(await accessibilityProblems(page)).toEqual([]);
    await picture(page, "entity");
    expect(complaints.filter((one) => !one.includes("503"))).toEqual([]);
  });
});
