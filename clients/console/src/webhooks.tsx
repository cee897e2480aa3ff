// Where events are sent to, what was sent, what came back, and sending it again.
import { useState } from "preact/hooks";
import {
  type WebhookDelivery,
  WebhookDeliveryState,
  WebhookDeliveryStateSchema,
  WebhookDisabledReasonSchema,
  type WebhookEndpoint,
  WebhookEndpointState,
} from "../../typescript/gen/entity/v1/webhook_pb.ts";
import { Ask, type Question } from "./ask.tsx";
import { useList, useLoad } from "./load.ts";
import { ListEnd } from "./parts.tsx";
import { Problem } from "./problem.tsx";
import { entityPath, pathOf } from "./route.ts";
import { useSession } from "./session.ts";
import { timeText, wordOf } from "./words.ts";

export function WebhooksPage() {
  const { webhooks } = useSession();
  const list = useList(async (pageToken, signal) => {
    const { endpoints, nextPageToken } = await webhooks.listWebhookEndpoints({ pageSize: 50, pageToken }, { signal });
    return { items: endpoints, nextPageToken };
  }, []);
  return (
    <section>
      <h1>Webhooks</h1>
      <ul class="plain">
        {list.items.map((endpoint) => (
          <li key={endpoint.id} class="row">
            <div>
              <p>
                <a href={pathOf({ page: "webhook", id: endpoint.id })}>{endpoint.displayName}</a>{" "}
                <EndpointState endpoint={endpoint} />
              </p>
              <p class="hint">
                <code>{endpoint.url}</code>
              </p>
              <p class="hint">{endpoint.eventTypes.join(", ") || "every event of entities"}</p>
            </div>
          </li>
        ))}
      </ul>
      <ListEnd list={list} what="read webhooks" empty="There is no endpoint." />
    </section>
  );
}

function EndpointState({ endpoint }: { endpoint: WebhookEndpoint }) {
  if (endpoint.state === WebhookEndpointState.ENABLED) return <span class="status good">enabled</span>;
  return <span class="status bad">disabled: {wordOf(WebhookDisabledReasonSchema, endpoint.disabledReason)}</span>;
}

const DELIVERY_TONES: Partial<Record<WebhookDeliveryState, string>> = {
  [WebhookDeliveryState.DELIVERED]: "good",
  [WebhookDeliveryState.PENDING]: "waiting",
  [WebhookDeliveryState.FAILED]: "bad",
};
const DELIVERY_STATES = [WebhookDeliveryState.PENDING, WebhookDeliveryState.DELIVERED, WebhookDeliveryState.FAILED];

export function WebhookPage({ id }: { id: string }) {
  const { webhooks } = useSession();
  const [state, setState] = useState<WebhookDeliveryState>(WebhookDeliveryState.UNSPECIFIED);
  const [question, setQuestion] = useState<Question | undefined>(undefined);
  const loaded = useLoad((signal) => webhooks.getWebhookEndpoint({ endpointId: id }, { signal }), [id]);
  const list = useList(
    async (pageToken, signal) => {
      const states = state === WebhookDeliveryState.UNSPECIFIED ? [] : [state];
      const { deliveries, nextPageToken } = await webhooks.listWebhookDeliveries(
        { endpointId: id, states, pageSize: 50, pageToken },
        { signal },
      );
      return { items: deliveries, nextPageToken };
    },
    [id, state],
  );
  const endpoint = loaded.value?.endpoint;
  const replay = (deliveries: WebhookDelivery[]) =>
    setQuestion({
      title: deliveries.length === 1 ? "Send it again?" : `Send ${deliveries.length} again?`,
      button: "Send again",
      what: "replay deliveries",
      needsReason: false,
      children: (
        <p>
          The receiver gets the same <code>webhook-id</code> again, by which it can tell that it is a repetition.
        </p>
      ),
      async write({ requestId }) {
        await webhooks.replayWebhookDeliveries({
          endpointId: id,
          deliveryIds: deliveries.map((one) => one.id),
          requestId,
        });
        list.again();
      },
    });
  const failed = list.items.filter((one) => one.state === WebhookDeliveryState.FAILED);
  return (
    <section>
      <Problem error={loaded.error} what="read webhooks" again={loaded.again} />
      {endpoint === undefined ? null : (
        <header class="head">
          <h1>
            {endpoint.displayName} <EndpointState endpoint={endpoint} />
          </h1>
          <p>
            <code>{endpoint.url}</code>
          </p>
          <p class="hint">{endpoint.description}</p>
        </header>
      )}
      <form class="filters" onSubmit={(event) => event.preventDefault()}>
        <label>
          State
          <select
            value={state}
            onChange={(event) => setState(Number(event.currentTarget.value) as WebhookDeliveryState)}
          >
            <option value={WebhookDeliveryState.UNSPECIFIED}>any</option>
            {DELIVERY_STATES.map((one) => (
              <option key={one} value={one}>
                {wordOf(WebhookDeliveryStateSchema, one)}
              </option>
            ))}
          </select>
        </label>
        <button type="button" onClick={list.again}>
          Reload
        </button>
        {failed.length < 2 ? null : (
          <button type="button" onClick={() => replay(failed)}>
            Send {failed.length} failed again
          </button>
        )}
      </form>
      <ul class="plain">
        {list.items.map((delivery) => (
          <Delivery key={delivery.id} delivery={delivery} onReplay={() => replay([delivery])} />
        ))}
      </ul>
      <ListEnd list={list} what="read deliveries" empty="Nothing was sent that fits." />
      <Ask question={question} onEnd={() => setQuestion(undefined)} />
    </section>
  );
}

function Delivery({ delivery, onReplay }: { delivery: WebhookDelivery; onReplay: () => void }) {
  const { attempts, entityId, nextAttemptAt } = delivery;
  return (
    <li class="row">
      <div>
        <p>
          <strong>{delivery.eventType}</strong>{" "}
          <span class={`status ${DELIVERY_TONES[delivery.state] ?? ""}`}>
            {wordOf(WebhookDeliveryStateSchema, delivery.state)}
          </span>{" "}
          {entityId === "" ? null : (
            <a href={entityPath(entityId, "timeline")}>version {String(delivery.entityVersion)}</a>
          )}
        </p>
        <p class="hint">
          <time>{timeText(delivery.eventRecordedAt)}</time> <code>{delivery.id}</code>
          {nextAttemptAt === undefined ? null : <> next attempt {timeText(nextAttemptAt)}</>}
        </p>
        {attempts.length === 0 ? null : (
          <details>
            <summary>{attempts.length === 1 ? "1 attempt" : `${attempts.length} attempts`}</summary>
            <ol class="attempts">
              {attempts.map((attempt, index) => (
                <li key={index}>
                  <time>{timeText(attempt.attemptedAt)}</time>{" "}
                  {attempt.status === 0 ? attempt.error : `answered ${attempt.status}`}{" "}
                  <span class="hint">after {attempt.latencyMs} ms</span>
                </li>
              ))}
            </ol>
          </details>
        )}
      </div>
      <button type="button" onClick={onReplay}>
        Send again
      </button>
    </li>
  );
}
