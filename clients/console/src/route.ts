// Which page is shown: behind the #, so that it never reaches the server, and of ids of the service alone. What somebody
// searches for is not part of it: names and tax ids have no place in a history.
import { useEffect, useState } from "preact/hooks";

export type Route =
  | { page: "search" }
  | { page: "entity"; id: string; tab: EntityTab; at: string | undefined }
  | { page: "merge"; primary: string; secondary: string }
  | { page: "duplicates" }
  | { page: "live" }
  | { page: "webhooks" }
  | { page: "webhook"; id: string }
  | { page: "organization" }
  | { page: "nothing" };

export const ENTITY_TABS = ["overview", "timeline", "identity"] as const;
export type EntityTab = (typeof ENTITY_TABS)[number];

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const TIME = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?Z$/;

export const isUuid = (text: string): boolean => UUID.test(text);

export function routeOf(hash: string): Route {
  const [page = "", first = "", second = "", third = ""] = hash.replace(/^#?\/?/, "").split("/");
  switch (page) {
    case "":
      return { page: "search" };
    case "entities": {
      const tab = ENTITY_TABS.find((one) => one === second) ?? "overview";
      return isUuid(first)
        ? { page: "entity", id: first, tab, at: TIME.test(third) ? third : undefined }
        : { page: "nothing" };
    }
    case "merge":
      return isUuid(first) && isUuid(second)
        ? { page: "merge", primary: first, secondary: second }
        : { page: "nothing" };
    case "webhooks":
      return isUuid(first) ? { page: "webhook", id: first } : { page: "webhooks" };
    case "duplicates":
    case "live":
    case "organization":
      return { page };
    default:
      return { page: "nothing" };
  }
}

export function pathOf(route: Route): string {
  switch (route.page) {
    case "search":
    case "nothing":
      return "#/";
    case "entity":
      return `#/entities/${route.id}/${route.tab}${route.at === undefined ? "" : `/${route.at}`}`;
    case "merge":
      return `#/merge/${route.primary}/${route.secondary}`;
    case "webhook":
      return `#/webhooks/${route.id}`;
    default:
      return `#/${route.page}`;
  }
}

export const entityPath = (id: string, tab: EntityTab = "overview", at?: string): string =>
  pathOf({ page: "entity", id, tab, at });

export function goTo(route: Route): void {
  location.hash = pathOf(route);
}

export function useRoute(): Route {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const changed = () => setHash(location.hash);
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return routeOf(hash);
}
