// The organization of the key, its keys, and who administered it.
import { useState } from "preact/hooks";
import { AdministrationEventTypeSchema } from "../../typescript/gen/entity/v1/administration_event_pb.ts";
import { type ApiKey, ExternalIdPolicySchema } from "../../typescript/gen/entity/v1/organization_pb.ts";
import { Ask, type Question } from "./ask.tsx";
import { useAct, useList, useLoad } from "./load.ts";
import { Copyable, ListEnd } from "./parts.tsx";
import { Problem, reasonIs } from "./problem.tsx";
import { useSession } from "./session.ts";
import { Facts } from "./values.tsx";
import { dayText, timestampOf, timeText, today, wordOf } from "./words.ts";

export function OrganizationPage() {
  return (
    <section>
      <h1>Organization</h1>
      <Policy />
      <h2>API keys</h2>
      <Keys />
      <h2>Who administered it</h2>
      <Administration />
    </section>
  );
}

function Policy() {
  const { organizations } = useSession();
  const { value, error, again } = useLoad((signal) => organizations.getOrganization({}, { signal }), []);
  const organization = value?.organization;
  if (organization === undefined) return <Problem error={error} what="read the organization" again={again} />;
  const { eventRetentionDays } = organization;
  return (
    <Facts
      leaves={
        new Map([
          ["name", organization.displayName],
          ["id", organization.id],
          ["externalIds", wordOf(ExternalIdPolicySchema, organization.externalIdPolicy)],
          ["events", eventRetentionDays === undefined ? "kept for ever" : `kept for ${eventRetentionDays} days`],
          ["created", timeText(organization.createdAt)],
        ])
      }
    />
  );
}

/** What a key can be given here; `operator` is given on the command line alone. */
const SCOPES = [
  "entities:read",
  "entities:write",
  "external_ids:change",
  "entities:merge",
  "activity:read",
  "activity:write",
  "audit:read",
  "risk:admin",
  "webhooks:admin",
  "admin",
];

function Keys() {
  const { organizations } = useSession();
  const [question, setQuestion] = useState<Question | undefined>(undefined);
  const list = useList(async (pageToken, signal) => {
    const { apiKeys, nextPageToken } = await organizations.listApiKeys({ pageSize: 100, pageToken }, { signal });
    return { items: apiKeys, nextPageToken };
  }, []);
  const revoke = (key: ApiKey) =>
    setQuestion({
      title: `Revoke ${key.displayName}?`,
      button: "Revoke the key",
      what: "revoke keys",
      needsReason: false,
      children: <p>Whoever uses it is refused within 5 seconds, you too if it is yours. It cannot be brought back.</p>,
      async write({ requestId }) {
        await organizations.revokeApiKey({ apiKeyId: key.id, requestId });
        list.again();
      },
    });
  return (
    <>
      <ul class="plain">
        {list.items.map((key) => (
          <li key={key.id} class="row">
            <div>
              <p>
                <strong>{key.displayName}</strong> <KeyState apiKey={key} />
              </p>
              <p class="hint">
                <code>{key.id}</code> made {dayText(key.createdAt)}
                {key.expiresAt === undefined ? "" : `, ends ${timeText(key.expiresAt)}`}
              </p>
              <p class="hint">{key.scopes.join(", ")}</p>
            </div>
            {key.revokedAt === undefined ? (
              <button type="button" class="danger" onClick={() => revoke(key)} aria-label={`Revoke ${key.displayName}`}>
                Revoke
              </button>
            ) : null}
          </li>
        ))}
      </ul>
      <ListEnd list={list} what="read API keys" empty="There is no key." />
      {reasonIs(list.error, "PERMISSION_DENIED") ? null : <NewKey onMade={list.again} />}
      <Ask question={question} onEnd={() => setQuestion(undefined)} />
    </>
  );
}

function KeyState({ apiKey: { revokedAt, expiresAt } }: { apiKey: ApiKey }) {
  if (revokedAt !== undefined) return <span class="status gone">revoked {dayText(revokedAt)}</span>;
  if (expiresAt !== undefined && Number(expiresAt.seconds) * 1_000 < Date.now())
    return <span class="status">expired</span>;
  return <span class="status good">in use</span>;
}

/** Makes a key, and shows its secret until the page is left. */
function NewKey({ onMade }: { onMade: () => void }) {
  const { organizations } = useSession();
  const { isBusy, error, act } = useAct();
  const [secret, setSecret] = useState("");
  const [name, setName] = useState("");
  const [scopes, setScopes] = useState<string[]>(["entities:read"]);
  const [end, setEnd] = useState("");
  const make = () =>
    act(async () => {
      const made = await organizations.createApiKey({
        displayName: name.trim(),
        scopes,
        ...(end !== "" && { expiresAt: timestampOf(`${end}T23:59:59Z`) }),
      });
      setSecret(made.secret);
      setName("");
      onMade();
    });
  const choose = (scope: string, isChosen: boolean) =>
    setScopes((before) => (isChosen ? [...before, scope] : before.filter((one) => one !== scope)));
  return (
    <details class="new-key">
      <summary>Make a key</summary>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          make();
        }}
      >
        <label>
          What it is for
          <input
            type="text"
            required
            maxLength={512}
            autocomplete="off"
            value={name}
            onInput={(event) => setName(event.currentTarget.value)}
          />
        </label>
        <fieldset>
          <legend>What it may do</legend>
          {SCOPES.map((scope) => (
            <label key={scope} class="choice">
              <input
                type="checkbox"
                checked={scopes.includes(scope)}
                onChange={(event) => choose(scope, event.currentTarget.checked)}
              />
              <code>{scope}</code>
            </label>
          ))}
        </fieldset>
        <label>
          Until the end of <span class="hint">empty: it does not end</span>
          <input type="date" min={today()} value={end} onChange={(event) => setEnd(event.currentTarget.value)} />
        </label>
        <Problem error={error} what="make keys" />
        <button type="submit" class="primary" disabled={isBusy || scopes.length === 0}>
          Make the key
        </button>
      </form>
      {secret === "" ? null : (
        <div class="notice" role="status">
          <p>The secret, shown this once:</p>
          <Copyable text={secret} label="the secret" />
        </div>
      )}
    </details>
  );
}

function Administration() {
  const { organizations } = useSession();
  const list = useList(async (pageToken, signal) => {
    const { events, nextPageToken } = await organizations.listAdministrationEvents(
      { pageSize: 30, pageToken },
      { signal },
    );
    return { items: events, nextPageToken };
  }, []);
  return (
    <>
      <ul class="plain">
        {list.items.map((event) => (
          <li key={event.id} class="row">
            <div>
              <p>
                <time>{timeText(event.recordedAt)}</time>{" "}
                <strong>{wordOf(AdministrationEventTypeSchema, event.type)}</strong>{" "}
                <span class="hint">
                  by {event.actor} from {event.source}
                  {event.peer === "" ? "" : `, ${event.peer}`}
                </span>
              </p>
              <p class="hint">
                <code>{event.subjectId}</code>
              </p>
            </div>
          </li>
        ))}
      </ul>
      <ListEnd list={list} what="read who administered" empty="Nothing was administered." />
    </>
  );
}
