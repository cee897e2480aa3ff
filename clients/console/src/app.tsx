// The console as a whole: who is signed in, and which page is shown.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { DuplicatesPage } from "./duplicates.tsx";
import { EntityPage } from "./entity.tsx";
import { LivePage } from "./live.tsx";
import { MergePage } from "./merge.tsx";
import { OrganizationPage } from "./organization.tsx";
import { pathOf, type Route, useRoute } from "./route.ts";
import { SearchPage } from "./search.tsx";
import { type Session, SessionContext, type SessionEnd } from "./session.ts";
import { SignIn } from "./sign-in.tsx";
import { WebhookPage, WebhooksPage } from "./webhooks.tsx";

export function App() {
  const [session, setSession] = useState<Session | undefined>(undefined);
  const [end, setEnd] = useState<SessionEnd | undefined>(undefined);
  const close = (why: SessionEnd) => {
    setSession((one) => {
      one?.end();
      return undefined;
    });
    setEnd(why);
  };
  if (session === undefined) {
    const signedIn = (one: Session) => {
      setEnd(undefined);
      setSession(one);
    };
    return <SignIn end={end} onSignedIn={signedIn} onRefused={() => close("refused")} />;
  }
  return (
    <SessionContext.Provider value={session}>
      <Shell onSignOut={() => close("signed out")} />
    </SessionContext.Provider>
  );
}

const PLACES: { route: Route; title: string }[] = [
  { route: { page: "search" }, title: "Entities" },
  { route: { page: "live" }, title: "Events" },
  { route: { page: "duplicates" }, title: "Duplicates" },
  { route: { page: "webhooks" }, title: "Webhooks" },
  { route: { page: "organization" }, title: "Organization" },
];

function Shell({ onSignOut }: { onSignOut: () => void }) {
  const route = useRoute();
  const main = useRef<HTMLElement>(null);
  const path = pathOf(route);
  const isFirst = useRef(true);
  // Whoever reads by ear is told that the page is another one.
  useEffect(() => {
    if (!isFirst.current) main.current?.focus();
    isFirst.current = false;
  }, [route.page, "id" in route ? route.id : ""]);
  return (
    <>
      <header class="bar">
        <a
          class="skip"
          href={path}
          onClick={(event) => {
            event.preventDefault();
            main.current?.focus();
          }}
        >
          Skip to the page
        </a>
        <a class="brand" href="#/">
          EntityService
        </a>
        <nav aria-label="Pages">
          {PLACES.map(({ route: place, title }) => (
            <a key={title} href={pathOf(place)} aria-current={isWithin(route, place) ? "page" : undefined}>
              {title}
            </a>
          ))}
        </nav>
        <button type="button" class="quiet" onClick={onSignOut}>
          Sign out
        </button>
      </header>
      <main ref={main} tabIndex={-1}>
        {pageOf(route)}
      </main>
    </>
  );
}

function isWithin(route: Route, place: Route): boolean {
  const home: Partial<Record<Route["page"], Route["page"]>> = {
    entity: "search",
    merge: "duplicates",
    webhook: "webhooks",
  };
  return (home[route.page] ?? route.page) === place.page;
}

function pageOf(route: Route): ComponentChildren {
  switch (route.page) {
    case "search":
      return <SearchPage />;
    case "entity":
      return <EntityPage key={route.id} route={route} />;
    case "live":
      return <LivePage />;
    case "duplicates":
      return <DuplicatesPage />;
    case "merge":
      return <MergePage key={pathOf(route)} primary={route.primary} secondary={route.secondary} />;
    case "webhooks":
      return <WebhooksPage />;
    case "webhook":
      return <WebhookPage key={route.id} id={route.id} />;
    case "organization":
      return <OrganizationPage />;
    default:
      return (
        <section class="empty">
          <h1>There is no such page</h1>
          <p>
            <a href="#/">Look for an entity</a>
          </p>
        </section>
      );
  }
}
