// The console in a real browser, on the real service: everything that is seen here was answered by the public API.
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Entity, EntityStatus, EntityType } from "../clients/typescript/index.ts";
import { accessibilityProblems, hasBrowser, launchBrowser, openPage, picture } from "./browser.ts";
import { byId, newPerson, unique } from "./given.ts";
import { forget, startService, type TestService } from "./harness.ts";
import { httpReceiver } from "./webhook-receivers.ts";

// What the browser has: functions that are given to `evaluate` run there.
declare const document: any, location: any, history: any, localStorage: any, sessionStorage: any;
declare const indexedDB: any, caches: any, getComputedStyle: any;

/** Gzipped, of everything that the first page loads. */
const MAX_BYTES = 150_000;

const dataDir = mkdtempSync(join(tmpdir(), "console-"));
/** What the service writes to its log. */
const logged: string[] = [];

describe.skipIf(!hasBrowser)("the console in Chromium", () => {
  let service: TestService;
  let browser: Browser;
  let url: string;

  beforeAll(async () => {
    const log = pino({ level: "trace" }, { write: (line: string) => void logged.push(line) });
    service = await startService({ config: { console: true, dataDir }, log });
    url = `${service.baseUrl}/console`;
    browser = await launchBrowser();
  });
  afterAll(async () => {
    await browser?.close();
    await service?.[Symbol.asyncDispose]();
    await rm(dataDir, { recursive: true, force: true });
  });

  /** A page where somebody has signed in; complaints of the page fail the test when it ends. */
  async function signedIn(
    { key = service.organization.apiKey, actor = "", hash = "" } = {},
    options: BrowserContextOptions = {},
  ) {
    const opened = await openPage(browser, options);
    const { page } = opened;
    await page.goto(`${url}${hash}`);
    await page.getByLabel("API key").fill(key);
    await page.getByLabel("Your user id").fill(actor);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("button", { name: "Sign out" }).waitFor();
    return opened;
  }

  const heading = (page: Page, name: string | RegExp) => page.getByRole("heading", { name, level: 1 }).waitFor();
  const entityHash = ({ id }: Entity, tab = "overview") => `#/entities/${id}/${tab}`;

  /** Every page is looked at in the same three ways. */
  async function inspect(page: Page, name: string): Promise<void> {
    for (const colorScheme of ["light", "dark"] as const) {
      await page.emulateMedia({ colorScheme });
      expect(await accessibilityProblems(page), `${name}, ${colorScheme}`).toEqual([]);
      await picture(page, `${name}-${colorScheme}`);
    }
    await page.emulateMedia({ colorScheme: "light" });
    const before = page.viewportSize();
    await page.setViewportSize({ width: 360, height: 740 });
    expect(await accessibilityProblems(page), `${name}, narrow`).toEqual([]);
    const { width, most } = await page.evaluate(() => ({
      width: document.documentElement.clientWidth,
      most: document.documentElement.scrollWidth,
    }));
    expect(most, `${name} is not wider than 360 px`).toBeLessThanOrEqual(width);
    await picture(page, `${name}-narrow`);
    if (before !== null) await page.setViewportSize(before);
  }

  test("is built when it is first asked for, and comes by itself; search by every key and by name", async () => {
    const person = await newPerson(service.client, {
      name: "Lucía Ferreyra",
      countryCode: "AR",
      externalId: "customer-1001",
      taxId: "20-28471953-1",
      entityData: {
        kind: {
          case: "person",
          value: {
            firstName: "Lucía",
            dateOfBirth: "1981-03-09",
            address: { street: "Calle Inventada 742", city: "Buenos Aires" },
            additional: { occupation: "architect" },
          },
        },
      },
      attributes: { segment: "retail", channels: ["app", "branch"] },
    });
    await using opened = await openPage(browser);
    const { page, complaints } = opened;
    await page.goto(url);
    await heading(page, "EntityService");
    await inspect(page, "sign-in");
    await page.getByLabel("API key").fill("not-a-key");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByText("does not know this key").waitFor();
    await page.getByLabel("API key").fill(service.organization.apiKey);
    await page.keyboard.press("Enter");
    await heading(page, "Entities");

    const search = async (text: string, by: string, foundBy: string) => {
      await page.getByLabel("Search by").selectOption({ label: by });
      await page.getByLabel("Search for").fill(text);
      await page.getByRole("button", { name: "Search" }).click();
      const row = page.getByRole("row", { name: /Lucía Ferreyra/ });
      await row.getByRole("cell", { name: foundBy, exact: true }).waitFor();
    };
    await search("customer-1001", "Anything", "external id");
    await search(person.id.toUpperCase(), "Anything", "id");
    await search("20 28471953 1", "Anything", "tax id");
    await search("ferr luc", "Anything", "name");
    // No tax id, and too long for any id.
    await search("Lucía", "Anything", "name");
    await search(`ferreyra${" ".repeat(80)}lucía`, "Anything", "name");
    await search("ferreyra", "Name", "name");
    await search("customer-1001", "External id", "external id");
    await search("20284719531", "Tax id", "tax id");
    await inspect(page, "search");
    expect(new URL(page.url()).hash).not.toContain("Ferr");
    await page.getByLabel("Search for").fill("nobody at all");
    await page.getByRole("button", { name: "Search" }).click();
    await page.getByText("Nothing was found").waitFor();
    await search("20284719531", "Tax id", "tax id");

    await page.getByRole("link", { name: "Lucía Ferreyra" }).click();
    await heading(page, /Lucía Ferreyra/);
    for (const text of ["customer-1001", "Calle Inventada 742", "architect", "retail", "1981-03-09"])
      await page.getByText(text).first().waitFor();
    await inspect(page, "entity");
    expect(complaints.filter((one) => !/50[03]|401/.test(one))).toEqual([]);
  });

  test("a tax id that several have finds them all; the id of a merged entity its survivor", async () => {
    const [first, second] = [unique("first"), unique("second")];
    const one = await newPerson(service.client, { name: first, taxId: "999-ambiguous-1" });
    const other = await newPerson(service.client, { name: second, taxId: "999 AMBIGUOUS 1" });
    await using opened = await signedIn();
    const { page } = opened;
    const search = async (text: string) => {
      await page.getByLabel("Search for").fill(text);
      await page.getByRole("button", { name: "Search" }).click();
    };
    await search("999ambiguous1");
    await page.getByRole("link", { name: first }).waitFor();
    await page.getByRole("link", { name: second }).waitFor();
    const { mergeEntities } = service.client.entities;
    await mergeEntities({ primary: byId(one), secondary: byId(other), reason: "the same person" });
    await search(other.id);
    await page.getByRole("cell", { name: "id, merged" }).waitFor();
    await page.getByRole("link", { name: first }).waitFor();
  });

  test("the timeline: who, why and when, before beside after, filters, and what happens meanwhile", async () => {
    const client = await service.organization.clientWith(["entities:read", "entities:write", "external_ids:change"], {
      actorId: "maria@example.com",
    });
    const person = await newPerson(client, {
      name: "Ana Souza",
      externalId: unique("crm"),
      attributes: { segment: "retail" },
    });
    const lookup = byId(person);
    await client.entities.updateEntity({
      lookup,
      entity: { status: EntityStatus.BLOCKED, attributes: { segment: "review" } },
      reason: "A sanctions list names this person",
    });
    await using opened = await signedIn({ hash: entityHash(person, "timeline") });
    const { page } = opened;
    await page.getByText("live", { exact: true }).waitFor();
    const entry = page.getByRole("listitem").filter({ hasText: "A sanctions list names this person" });
    await entry.getByText("maria@example.com").waitFor();
    const row = entry.getByRole("row", { name: /status/ });
    expect(await row.getByRole("cell").allTextContents()).toEqual(["pending", "blocked"]);
    expect(
      await entry
        .getByRole("row", { name: /segment/ })
        .getByRole("cell")
        .allTextContents(),
    ).toEqual(["retail", "review"]);

    const newExternalId = unique("crm");
    await client.entities.changeExternalId({ lookup, newExternalId, reason: "Moved to the new CRM" });
    await page.getByText("Moved to the new CRM").waitFor();
    await inspect(page, "timeline");

    await page.getByRole("combobox", { name: "What" }).selectOption({ label: "Created" });
    await page.getByText("Moved to the new CRM").waitFor({ state: "detached" });
    await page.getByText("Created", { exact: true }).last().waitFor();
    await page.getByRole("combobox", { name: "What" }).selectOption({ label: "everything" });
    await page.getByLabel("Who", { exact: true }).fill("somebody else");
    await page.keyboard.press("Enter");
    await page.getByText("Nothing happened that fits.").waitFor();
    await page.getByLabel("Who", { exact: true }).fill("maria@example.com");
    await page.keyboard.press("Enter");
    await page.getByText("Moved to the new CRM").waitFor();
    await page.getByLabel("To", { exact: true }).fill("2020-01-01");
    await page.getByText("Nothing happened that fits.").waitFor();

    await page.getByLabel("To", { exact: true }).fill("");
    const changed = page.getByRole("listitem").filter({ hasText: "A sanctions list names this person" });
    await changed.getByRole("link", { name: "as it was then" }).click();
    await page.getByText("As it was at").last().waitFor();
    await page.getByText("review").waitFor();
    expect(await page.getByText(newExternalId).count()).toBe(0);
    await page.getByRole("link", { name: "Show it as it is now" }).click();
    await page.getByText(newExternalId).waitFor();
  });

  test("an entity as it was on a day", async () => {
    const person = await newPerson(service.client, { name: "Before Marriage" });
    const lookup = byId(person);
    await service.sql("update entity_event set recorded_at = recorded_at - interval '3 days' where entity_id = $1", [
      person.id,
    ]);
    const times = ["created_at", "updated_at"].map((name) => `${name} = ${name} - interval '3 days'`).join(", ");
    await service.sql(`update entity set ${times} where id = $1`, [person.id]);
    try {
      await service.client.entities.updateEntity({ lookup, entity: { name: "After Marriage" }, reason: "Marriage" });
      const day = (daysAgo: number) => new Date(Date.now() - daysAgo * 86_400_000).toISOString().slice(0, 10);
      await using opened = await signedIn({ hash: entityHash(person) });
      const { page } = opened;
      await heading(page, /After Marriage/);
      await page.getByLabel("As it was at the end of").fill(day(2));
      await heading(page, /Before Marriage/);
      await page.getByText(`As it was at ${day(2)} 23:59:59 UTC`).waitFor();
      await inspect(page, "as-it-was");
      await page.getByLabel("As it was at the end of").fill(day(9));
      await page.getByText("There was no such entity then").waitFor();
      await page.getByLabel("As it was at the end of").fill(day(0));
      await heading(page, /After Marriage/);
    } finally {
      await forget(service, [person.id]);
    }
  });

  test("suggested duplicates: compare, merge with a reason, undo", async () => {
    const taxId = `30-${Date.now()}`;
    const company = (name: string, segment: string) =>
      newPerson(service.client, {
        type: EntityType.COMPANY,
        name,
        taxId,
        externalId: unique("x"),
        attributes: { segment },
      });
    const first = await company("Molinos del Delta S.A.", "wholesale");
    const second = await company("MOLINOS DEL DELTA", "retail");
    await using opened = await signedIn({ actor: "ana@example.com" });
    const { page } = opened;
    await page.getByRole("link", { name: "Duplicates" }).click();
    await page.getByRole("listitem").filter({ hasText: "MOLINOS DEL DELTA" }).getByText("same tax id").waitFor();
    await inspect(page, "duplicates");
    await page
      .getByRole("listitem")
      .filter({ hasText: "MOLINOS DEL DELTA" })
      .getByRole("link", { name: "Compare and merge" })
      .click();
    const conflict = page.getByRole("row", { name: /segment/ });
    await conflict.waitFor();
    expect(await conflict.getByRole("cell").allTextContents()).toEqual(["wholesale kept", "retail "]);
    await inspect(page, "merge");
    await page.getByRole("button", { name: "Merge", exact: true }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Why").fill("The same company, twice in the CRM");
    await inspect(page, "merge-question");
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "detached" });
    await page.getByRole("button", { name: "Merge", exact: true }).click();
    await dialog.getByLabel("Why").fill("The same company, twice in the CRM");
    await dialog.getByRole("button", { name: "Merge" }).click();
    await page.getByText("ana@example.com: The same company, twice in the CRM").waitFor();
    expect((await service.client.entities.getEntity({ lookup: byId(second) })).redirectedFrom).toBe(second.id);
    await inspect(page, "identity");

    await page.getByRole("button", { name: "Undo" }).click();
    await dialog.getByText("is an entity of its own again").waitFor();
    await service.client.entities.updateEntity({ lookup: byId(first), entity: { name: "Molinos del Norte" } });
    await dialog.getByLabel("Why").fill("They are two after all");
    await dialog.getByRole("button", { name: "Undo the merge" }).click();
    await dialog.getByText("ETAG_MISMATCH").waitFor();
    await page.keyboard.press("Escape");

    await page.getByRole("button", { name: "Undo" }).click();
    await dialog.getByText("is an entity of its own again").waitFor();
    await dialog.getByLabel("Why").fill("They are two after all");
    await dialog.getByRole("button", { name: "Undo the merge" }).click();
    await page.getByText("ana@example.com: They are two after all").waitFor();
    expect((await service.client.entities.getEntity({ lookup: byId(second) })).redirectedFrom).toBe("");

    const again = page.getByRole("listitem").filter({ hasText: "MOLINOS DEL DELTA" });
    await page.reload();
    await page.getByLabel("API key").fill(service.organization.apiKey);
    await page.keyboard.press("Enter");
    await again.getByRole("button", { name: "Not the same" }).click();
    await dialog.getByLabel("Why").fill("Two plants of one group");
    await dialog.getByRole("button", { name: "Mark as distinct" }).click();
    await page.getByText("Nothing looks like a duplicate.").waitFor();
    const { pairs } = await service.client.entities.listDistinct({ lookup: byId(first) });
    expect(pairs).toHaveLength(1);
  });

  test("events of all entities come live", async () => {
    await using opened = await signedIn();
    const { page } = opened;
    await page.getByRole("link", { name: "Events" }).click();
    await page.getByText("live", { exact: true }).waitFor();
    const externalId = unique("live");
    await newPerson(service.client, { externalId });
    await page.getByRole("link", { name: externalId }).waitFor();
    await inspect(page, "events");
  });

  test("webhooks: endpoints, deliveries with their attempts, and sending one again", async () => {
    let status = 500;
    // The next attempt would come by itself while the first is looked at.
    const later = { "retry-after": "3600" };
    await using receiver = await httpReceiver((_, response) => response.writeHead(status, later).end());
    const person = await newPerson(service.client);
    const { endpoint } = await service.client.webhooks.createWebhookEndpoint({
      endpoint: { url: `http://127.0.0.1:${receiver.port}/hook`, displayName: "The ledger" },
    });
    await service.client.entities.updateEntity({
      lookup: byId(person),
      entity: { name: "Changed" },
      reason: "for test",
    });
    await using opened = await signedIn();
    const { page } = opened;
    await page.getByRole("link", { name: "Webhooks" }).click();
    await page.getByText(`http://127.0.0.1:${receiver.port}/hook`).waitFor();
    await inspect(page, "webhooks");
    await page.getByRole("link", { name: "The ledger" }).click();
    await heading(page, /The ledger/);
    const first = page.getByRole("listitem").filter({ hasText: "entity.updated" });
    for (let i = 0; i < 50 && (await first.getByText(/attempt/).count()) === 0; i++) {
      await page.getByRole("button", { name: "Reload" }).click();
      await page.waitForTimeout(100);
    }
    await first.getByText("1 attempt").click();
    await first.getByText("answered 500").waitFor();
    await inspect(page, "webhook");
    status = 204;
    await first.getByRole("button", { name: "Send again" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Send again" }).click();
    for (let i = 0; i < 50 && (await first.getByText("delivered").count()) === 0; i++) {
      await page.getByRole("button", { name: "Reload" }).click();
      await page.waitForTimeout(100);
    }
    await first.getByText("delivered").waitFor();
    await service.client.webhooks.deleteWebhookEndpoint({ endpointId: endpoint?.id ?? "" });
  });

  test("the organization: a key is made, shown once, and revoked; a session with it then ends kindly", async () => {
    await using opened = await signedIn();
    const { page } = opened;
    await page.getByRole("link", { name: "Organization" }).click();
    await page.getByText("Make a key").click();
    await page.getByLabel("What it is for").fill("The console's test");
    await page.getByRole("button", { name: "Make the key" }).click();
    const secret = await page.locator("code", { hasText: /^es_/ }).textContent();
    await inspect(page, "organization");

    await using other = await signedIn({ key: secret ?? "" });
    await other.page.getByRole("link", { name: "Events" }).click();
    await other.page.getByText("live", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Revoke The console's test" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Revoke the key" }).click();
    await other.page.getByText("no longer accepts the key").waitFor({ timeout: 20_000 });
    await other.page.getByLabel("API key").waitFor();
    await picture(other.page, "revoked");
  });

  test("a scope that the key lacks is said in place, and the rest works", async () => {
    const { secret } = await service.client.organizations.createApiKey({ displayName: "r", scopes: ["entities:read"] });
    const person = await newPerson(service.client, { name: "Readable" });
    await using opened = await signedIn({ key: secret, hash: "#/webhooks" });
    const { page } = opened;
    await page.getByText("lacks the scope webhooks:admin").waitFor();
    await inspect(page, "missing-scope");
    await page.getByRole("link", { name: "Organization" }).click();
    await page.getByText("lacks the scope admin").first().waitFor();
    await page.goto(`${url}${entityHash(person)}`);
    await heading(page, /Readable/);

    const admin = await service.client.organizations.createApiKey({ displayName: "a", scopes: ["admin"] });
    await using second = await signedIn({ key: admin.secret });
    await second.page.getByText("lacks the scope entities:read").waitFor();
  });

  test("data never becomes HTML, a script or a link", async () => {
    const attack = `<img src=x onerror="document.title='attacked'"><script>document.title='attacked'</script>`;
    const person = await newPerson(service.client, {
      name: attack,
      externalId: `javascript:document.title='attacked'//${unique("<b>")}`,
      attributes: { [`<i>${attack.replaceAll('"', "'").replaceAll(".", "")}`]: attack, link: "javascript:alert(1)" },
      entityData: { kind: { case: "person", value: { firstName: attack } } },
    });
    await service.client.entities.updateEntity({
      lookup: byId(person),
      entity: { status: EntityStatus.BLOCKED },
      reason: attack,
    });
    await service.client.webhooks.createWebhookEndpoint({
      endpoint: {
        url: "http://127.0.0.1:9/javascript:alert(1)//%3Cscript%3E",
        displayName: attack,
        description: attack,
      },
    });
    await service.client.organizations.createApiKey({ displayName: attack, scopes: ["entities:read"] });
    await using opened = await signedIn({ actor: attack });
    const { page, complaints } = opened;
    const places = ["#/", "#/live", "#/webhooks", "#/organization", "#/duplicates", entityHash(person)];
    for (const hash of [...places, entityHash(person, "timeline"), entityHash(person, "identity")]) {
      await page.evaluate((one) => {
        location.hash = one;
      }, hash);
      await page.waitForTimeout(400);
      expect(await page.title(), hash).toBe("EntityService console");
      const found = await page.evaluate(() => ({
        elements: document.querySelectorAll("main img, main script, main b:has(*), main i, iframe, object").length,
        links: [...document.querySelectorAll("a")].filter((one) => one.protocol !== location.protocol).length,
      }));
      expect(found, hash).toEqual({ elements: 0, links: 0 });
    }
    await page.getByRole("heading", { level: 1, name: attack }).waitFor();
    expect(complaints).toEqual([]);
  });

  test("the policy refuses what the page would never do: inline scripts, strings as HTML, requests elsewhere", async () => {
    await using opened = await openPage(browser);
    const { page } = opened;
    await page.goto(url);
    await page.getByLabel("API key").waitFor();
    const outcomes = await page.evaluate(async () => {
      const tries: Record<string, () => unknown> = {
        html: () => {
          document.body.innerHTML = "<b>x</b>";
        },
        elsewhere: () => fetch("http://127.0.0.2:9/"),
      };
      const refused: string[] = [];
      for (const [name, attempt] of Object.entries(tries))
        await Promise.resolve()
          .then(attempt)
          .catch(() => refused.push(name));
      const script = document.createElement("script");
      script.append("document.title='attacked'");
      try {
        document.head.append(script);
      } catch {}
      return { refused, title: document.title };
    });
    expect(outcomes).toEqual({ refused: ["html", "elsewhere"], title: "EntityService console" });
  });

  test("the key is nowhere but in the header of calls: no URL, storage, history, log; signing out forgets it", async () => {
    const { secret } = await service.client.organizations.createApiKey({
      displayName: "k",
      scopes: ["entities:read", "admin", "webhooks:admin"],
    });
    const person = await newPerson(service.client, { name: "Somebody Private", taxId: "PRIVATE-77" });
    await using opened = await signedIn({ key: secret });
    const { page, requests } = opened;
    const bodies: string[] = [];
    page.on("request", (request) => bodies.push(request.postDataBuffer()?.toString("latin1") ?? ""));
    for (const link of ["Events", "Duplicates", "Webhooks", "Organization", "Entities"])
      await page.getByRole("link", { name: link, exact: true }).click();
    await page.getByLabel("Search for").fill("PRIVATE-77");
    await page.getByRole("button", { name: "Search" }).click();
    await page.getByRole("link", { name: "Somebody Private" }).click();
    await heading(page, /Somebody Private/);

    const own = new URL(service.baseUrl).origin;
    expect(requests.filter((one) => !one.split(" ")[1]?.startsWith(own))).toEqual([]);
    for (const text of [...requests, ...bodies, ...logged]) expect(text.includes(secret)).toBe(false);
    for (const text of [...requests, ...logged]) expect(text).not.toMatch(/Somebody|PRIVATE/);
    const kept = await page.evaluate(async () =>
      JSON.stringify([
        { ...localStorage },
        { ...sessionStorage },
        document.cookie,
        location.href,
        history.state,
        await indexedDB.databases(),
        await caches.keys(),
        document.documentElement.outerHTML,
        [...document.querySelectorAll("input")].map(({ value }) => value),
      ]),
    );
    expect(kept).not.toContain(secret);
    expect(kept.startsWith('[{},{},""')).toBe(true);

    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByText("You are signed out").waitFor();
    expect(await page.getByLabel("API key").inputValue()).toBe("");
    await page.goBack();
    await page.getByLabel("API key").waitFor();
    expect(await page.getByText("Somebody Private").count()).toBe(0);
    expect(person.id).not.toBe("");
  });

  test("a page of an entity can be linked to: after signing in it is shown, and the keyboard reaches all of it", async () => {
    const person = await newPerson(service.client, { name: "Linked To" });
    await using opened = await signedIn({ hash: entityHash(person) });
    const { page } = opened;
    await heading(page, /Linked To/);
    await page.locator("body").press("Tab");
    expect(await page.evaluate(() => document.activeElement?.textContent)).toBe("Skip to the page");
    await page.getByRole("tab", { name: "Overview" }).focus();
    await page.keyboard.press("ArrowRight");
    await page.getByText("live", { exact: true }).waitFor();
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    expect(outline).toBe("solid");
  });

  test("everything that the first page loads is under 150 kB gzipped", async () => {
    await using opened = await openPage(browser);
    const { page } = opened;
    let bytes = 0;
    page.on("response", async (response) => {
      bytes += Number((await response.allHeaders())["content-length"] ?? 0);
    });
    await page.goto(url);
    await page.getByLabel("API key").waitFor();
    await page.waitForLoadState("networkidle");
    console.info(`the console loads ${bytes} bytes`);
    expect(bytes).toBeGreaterThan(50_000);
    expect(bytes).toBeLessThan(MAX_BYTES);
  });
});
