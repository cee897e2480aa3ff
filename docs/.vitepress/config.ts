// The site of the documents: `npm run docs` makes it in docs/.vitepress/dist. The pages are plain Markdown that any forge
// shows; what only the site needs is here. A link to a page that there is not fails the build; anchors are tried by
// test/tooling/documents.test.ts.
import { copyFileSync, mkdirSync, statSync } from "node:fs";
import { dirname, join, posix } from "node:path";
import { fileURLToPath } from "node:url";
import { type DefaultTheme, defineConfig, type MarkdownRenderer } from "vitepress";

const root = fileURLToPath(new URL("../..", import.meta.url));
const base = process.env.DOCS_BASE ?? "/";
/** Where files of the repository that pages link to are on the site: as text, which browsers show. */
const FILES = "/files/";
const linkedFiles = new Set<string>();

/** As forges make the anchor of a heading. */
const slugify = (heading: string) =>
  heading
    .trim()
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
    .replaceAll(" ", "-");

/** Links that leave docs/ lead to a copy of the file; those to folders are text. */
function withFiles(md: MarkdownRenderer): void {
  md.core.ruler.push("files", (state) => {
    const page = (state.env as { relativePath: string }).relativePath;
    for (const { children } of state.tokens) {
      if (children === null) continue;
      let isText = false;
      for (const token of children) {
        if (token.type === "link_close" && isText) {
          [token.type, token.tag, isText] = ["text", "", false];
        }
        if (token.type !== "link_open") continue;
        const href = token.attrGet("href") ?? "";
        const path = posix.join("docs", dirname(page), href.split("#")[0] ?? "");
        if (/^(?:\w+:|#|\/)/.test(href) || path.startsWith("docs/")) continue;
        if (statSync(join(root, path)).isDirectory()) {
          [token.type, token.tag, isText] = ["text", "", true];
        } else {
          linkedFiles.add(path);
          token.attrSet("href", `${base.replace(/\/$/, "")}${FILES}${path}.txt`);
          token.attrSet("target", "_blank");
        }
      }
    }
  });
}

const link = (text: string, path: string): DefaultTheme.SidebarItem => ({ text, link: path });

const SIDEBAR: DefaultTheme.SidebarItem[] = [
  {
    text: "Guide",
    items: [
      link("First calls", "/guide/start"),
      link("Look up", "/guide/look-up"),
      link("Create and update", "/guide/update"),
      link("Change an id", "/guide/external-ids"),
      link("Migrate a CRM's ids", "/guide/crm-migration"),
      link("Duplicates and merges", "/guide/merge"),
      link("Keep a copy", "/guide/watch"),
      link("Webhooks", "/guide/webhooks"),
      link("Retry", "/guide/retry"),
      link("Import and export", "/guide/import-export"),
      link("Risk", "/guide/risk"),
      link("What was known, and when", "/guide/history"),
      link("Keys and organizations", "/guide/keys"),
      link("Clients", "/guide/clients"),
      link("From the REST API", "/migrate-from-rest"),
    ],
  },
  {
    text: "Operate",
    items: [
      link("Configuration", "/operate/configuration"),
      link("Your own PostgreSQL", "/operate/postgresql"),
      link("Back up and restore", "/operate/backup"),
      link("Behind a proxy", "/operate/proxy"),
      link("Upgrade", "/operate/upgrade"),
      link("Limits and fair shares", "/operate/limits"),
      link("NATS JetStream", "/operate/nats"),
    ],
  },
  {
    text: "Reference",
    items: [
      link("All RPCs", "/reference/"),
      link("EntityService", "/reference/entity-service"),
      link("ActivityService", "/reference/activity-service"),
      link("OrganizationService", "/reference/organization-service"),
      link("RiskMatrixService", "/reference/risk-matrix-service"),
      link("WebhookService", "/reference/webhook-service"),
      link("Messages", "/reference/messages"),
      link("Errors", "/reference/errors"),
    ],
  },
  {
    text: "In depth",
    items: [
      link("Merging and parting", "/merging"),
      link("Risk matrices", "/risk"),
      link("Keeping the log provable", "/audit"),
      link("What a position rests on", "/positions"),
      link("The rules", "/rules"),
      link("Design", "/design"),
    ],
  },
];

/** The page that shows two bodies side by side has the room of the outline too. */
const WIDE = "migrate-from-rest.md";
const STYLE = `.vp-doc td { vertical-align: top }
.wide .VPDoc .container .content, .wide .VPDoc .content-container { max-width: 1200px !important }
.wide .vp-doc div[class*="language-"] { margin: 8px 0 }`;

export default defineConfig({
  title: "EntityService",
  description: "The system of record for persons and companies: guide, reference and operation",
  lang: "en-GB",
  base,
  outDir: ".vitepress/dist",
  cacheDir: ".vitepress/cache",
  head: [["style", {}, STYLE]],
  transformPageData(page) {
    if (page.relativePath === WIDE) Object.assign(page.frontmatter, { aside: false, pageClass: "wide" });
  },
  markdown: { anchor: { slugify }, config: withFiles },
  themeConfig: {
    search: { provider: "local" },
    nav: [
      { text: "Guide", link: "/guide/start", activeMatch: "/guide/" },
      { text: "Operate", link: "/operate/configuration", activeMatch: "/operate/" },
      { text: "Reference", link: "/reference/", activeMatch: "/reference/" },
    ],
    sidebar: SIDEBAR,
    outline: [2, 3],
    docFooter: { prev: "Previous", next: "Next" },
  },
  buildEnd(site) {
    for (const path of linkedFiles) {
      const target = join(site.outDir, FILES, `${path}.txt`);
      mkdirSync(dirname(target), { recursive: true });
      copyFileSync(join(root, path), target);
    }
  },
});
