// Who is signed in: the key, which is nowhere but in this closure, and the clients that send it. Reloading the page, or
// signing out, forgets it.
import { type Client, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { createContext } from "preact";
import { useContext } from "preact/hooks";
import { errorInfo } from "../../typescript/errors.ts";
import { EntityService } from "../../typescript/gen/entity/v1/entity_service_pb.ts";
import { OrganizationService } from "../../typescript/gen/entity/v1/organization_service_pb.ts";
import { WebhookService } from "../../typescript/gen/entity/v1/webhook_service_pb.ts";

export interface Session {
  entities: Client<typeof EntityService>;
  organizations: Client<typeof OrganizationService>;
  webhooks: Client<typeof WebhookService>;
  /** Ends every call that is on its way. */
  end(): void;
}

/** Why nobody is signed in any more. */
export type SessionEnd = "signed out" | "refused";

const TIMEOUT_MS = 15_000;

/** `onRefused` is called where the key is no longer accepted: it was revoked, or has expired. */
export function createSession(key: string, actor: string, onRefused: () => void): Session {
  const ended = new AbortController();
  const withKey: Interceptor = (next) => async (request) => {
    request.header.set("authorization", `Bearer ${key}`);
    request.header.set("x-source", "console");
    if (actor !== "") request.header.set("x-actor-id", actor);
    try {
      const answer = await next(request);
      return answer.stream ? { ...answer, message: noticing(answer.message, refused) } : answer;
    } catch (error) {
      throw refused(error);
    }
  };
  const refused = (error: unknown) => {
    if (!ended.signal.aborted && errorInfo(error)?.reason === "UNAUTHENTICATED") onRefused();
    return error;
  };
  const transport = createConnectTransport({
    baseUrl: location.origin,
    useBinaryFormat: true,
    defaultTimeoutMs: TIMEOUT_MS,
    interceptors: [withKey],
    fetch: (input, init) => {
      const signals = [ended.signal, ...(init?.signal ? [init.signal] : [])];
      return fetch(input, { ...init, signal: AbortSignal.any(signals), credentials: "omit", cache: "no-store" });
    },
  });
  return {
    entities: createClient(EntityService, transport),
    organizations: createClient(OrganizationService, transport),
    webhooks: createClient(WebhookService, transport),
    end: () => ended.abort(),
  };
}

/** The messages of a stream; what ends it is seen too. */
async function* noticing<T>(messages: AsyncIterable<T>, refused: (error: unknown) => unknown): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (error) {
    throw refused(error);
  }
}

/** Whether the service accepts the key: it may lack every scope that reads. Throws what the service says otherwise. */
export async function checkKey(session: Session): Promise<void> {
  try {
    await session.entities.listEntities({ pageSize: 1, readMask: { paths: ["id"] } });
  } catch (error) {
    if (errorInfo(ConnectError.from(error))?.reason !== "PERMISSION_DENIED") throw error;
  }
}

export const SessionContext = createContext<Session | undefined>(undefined);

/** Of whoever is signed in; pages are shown to nobody else. */
export function useSession(): Session {
  const session = useContext(SessionContext);
  if (session === undefined) throw new Error("nobody is signed in");
  return session;
}
