"""Generated: do not edit."""

from typing import Any

from .. import calls
from . import webhook_service_pb2


class WebhookServiceStub:
    """Webhooks of the caller's organization: where its events are sent, and what
    became of them. An endpoint's secret is answered by CreateWebhookEndpoint and
    RotateWebhookSecret alone. An endpoint is its organization's: it goes on when
    the key that made it is revoked or expires, and ends when it is disabled or
    deleted. ListAdministrationEvents shows which key made it or changed it.

    The body of a delivery is a JSON object. Every one of an entity has
      event          entity.created, entity.updated, entity.status_changed,
                     entity.deleted, entity.undeleted, entity.merged,
                     entity.unmerged, entity.distinct_marked,
                     entity.distinct_lifted or entity.evaluated
      entityId       a UUID
      externalId     the primary external id after the change, or null
      id             that of the event, as ListEntityEvents has it
      entityVersion  the entity's version after the change: from 1, without a gap
      timestamp      of the change, ISO 8601 in UTC, up to microseconds
      changedBy      the actor: x-actor-id of the call, or the id of its API key
      reason         of the change, or null
      source         x-source of the call, "api" where it has none
      hash           that of the event, in base64; null in an event from before
                     events were sealed. EntityEvent says what it is over
      previousHash   that of the entity's event before, or null like hash
    entity.status_changed has, in lower case,
      oldStatus, newStatus
    and the others have, as ListEntityEvents answers them,
      updatedFields  names of the changed fields, such as "entityData"
      previousValues, newValues  their values before and after; an absent one
                     was or is not set
    webhook_endpoint.disabled has event, endpointId, reason ("requested", "gone"
    or "failing") and timestamp. Fields may be added: ignore unknown ones.
    """
    def __init__(self, channel: Any) -> None: ...
    @property
    def CreateWebhookEndpoint(self) -> calls.UnaryUnary[webhook_service_pb2.CreateWebhookEndpointRequest, webhook_service_pb2.CreateWebhookEndpointResponse]:
        """Makes an endpoint and answers its secret, once. It gets the events that are
        recorded from then on. The answer is a secret, which is kept for no replay:
        the call has no request_id, and a repeated one makes another endpoint. At
        most 100 of an organization: VALIDATION_ERROR. Events hold personal data: the
        key needs entities:read too.
        """
        ...
    @property
    def GetWebhookEndpoint(self) -> calls.UnaryUnary[webhook_service_pb2.GetWebhookEndpointRequest, webhook_service_pb2.GetWebhookEndpointResponse]:
        """Reads one endpoint.
        """
        ...
    @property
    def ListWebhookEndpoints(self) -> calls.UnaryUnary[webhook_service_pb2.ListWebhookEndpointsRequest, webhook_service_pb2.ListWebhookEndpointsResponse]:
        """Lists the endpoints by id, which is about the order of their creation.
        """
        ...
    @property
    def UpdateWebhookEndpoint(self) -> calls.UnaryUnary[webhook_service_pb2.UpdateWebhookEndpointRequest, webhook_service_pb2.UpdateWebhookEndpointResponse]:
        """Changes an endpoint. A change of the filters concerns events that it has not
        come to yet, one of the url every request from then on. Enabled again it goes
        on where it stopped. Needs entities:read too, as CreateWebhookEndpoint does.
        Errors: ETAG_MISMATCH.
        """
        ...
    @property
    def DeleteWebhookEndpoint(self) -> calls.UnaryUnary[webhook_service_pb2.DeleteWebhookEndpointRequest, webhook_service_pb2.DeleteWebhookEndpointResponse]:
        """Removes an endpoint with its deliveries. A request that is under way ends.
        NOT_FOUND where there is none, or it was deleted. Errors: ETAG_MISMATCH.
        """
        ...
    @property
    def RotateWebhookSecret(self) -> calls.UnaryUnary[webhook_service_pb2.RotateWebhookSecretRequest, webhook_service_pb2.RotateWebhookSecretResponse]:
        """Makes a new secret and answers it, once; for the time that is asked for,
        requests are signed with the one before too. Like CreateWebhookEndpoint it
        has no request_id; an etag keeps a repeated call from a second rotation.
        Errors: ETAG_MISMATCH.
        """
        ...
    @property
    def ListWebhookDeliveries(self) -> calls.UnaryUnary[webhook_service_pb2.ListWebhookDeliveriesRequest, webhook_service_pb2.ListWebhookDeliveriesResponse]:
        """Lists deliveries, those of the newest events first. What has been delivered
        or given up is forgotten after 30 days, unless the operator says otherwise.
        """
        ...
    @property
    def ReplayWebhookDeliveries(self) -> calls.UnaryUnary[webhook_service_pb2.ReplayWebhookDeliveriesRequest, webhook_service_pb2.ReplayWebhookDeliveriesResponse]:
        """Sends events again, each with its old webhook-id and in the order of its
        entity: those of the deliveries that are named, or every event of the log
        recorded in a range of time that the endpoint's filters accept. They begin
        their attempts anew; one whose turn it is is tried now, one that waits behind
        another of its entity comes after it. Events that the endpoint has not come
        to yet come in their turn. Atomic per call; a range is worked off
        in several calls, a page of its events in each. Deliveries of a disabled
        endpoint wait until it is enabled. A pause that the receiver asked for
        (Retry-After) ends.
        """
        ...

class WebhookServiceAsyncStub:
    """Webhooks of the caller's organization: where its events are sent, and what
    became of them. An endpoint's secret is answered by CreateWebhookEndpoint and
    RotateWebhookSecret alone. An endpoint is its organization's: it goes on when
    the key that made it is revoked or expires, and ends when it is disabled or
    deleted. ListAdministrationEvents shows which key made it or changed it.

    The body of a delivery is a JSON object. Every one of an entity has
      event          entity.created, entity.updated, entity.status_changed,
                     entity.deleted, entity.undeleted, entity.merged,
                     entity.unmerged, entity.distinct_marked,
                     entity.distinct_lifted or entity.evaluated
      entityId       a UUID
      externalId     the primary external id after the change, or null
      id             that of the event, as ListEntityEvents has it
      entityVersion  the entity's version after the change: from 1, without a gap
      timestamp      of the change, ISO 8601 in UTC, up to microseconds
      changedBy      the actor: x-actor-id of the call, or the id of its API key
      reason         of the change, or null
      source         x-source of the call, "api" where it has none
      hash           that of the event, in base64; null in an event from before
                     events were sealed. EntityEvent says what it is over
      previousHash   that of the entity's event before, or null like hash
    entity.status_changed has, in lower case,
      oldStatus, newStatus
    and the others have, as ListEntityEvents answers them,
      updatedFields  names of the changed fields, such as "entityData"
      previousValues, newValues  their values before and after; an absent one
                     was or is not set
    webhook_endpoint.disabled has event, endpointId, reason ("requested", "gone"
    or "failing") and timestamp. Fields may be added: ignore unknown ones.
    """
    def __init__(self, channel: Any) -> None: ...
    @property
    def CreateWebhookEndpoint(self) -> calls.AsyncUnaryUnary[webhook_service_pb2.CreateWebhookEndpointRequest, webhook_service_pb2.CreateWebhookEndpointResponse]:
        """Makes an endpoint and answers its secret, once. It gets the events that are
        recorded from then on. The answer is a secret, which is kept for no replay:
        the call has no request_id, and a repeated one makes another endpoint. At
        most 100 of an organization: VALIDATION_ERROR. Events hold personal data: the
        key needs entities:read too.
        """
        ...
    @property
    def GetWebhookEndpoint(self) -> calls.AsyncUnaryUnary[webhook_service_pb2.GetWebhookEndpointRequest, webhook_service_pb2.GetWebhookEndpointResponse]:
        """Reads one endpoint.
        """
        ...
    @property
    def ListWebhookEndpoints(self) -> calls.AsyncUnaryUnary[webhook_service_pb2.ListWebhookEndpointsRequest, webhook_service_pb2.ListWebhookEndpointsResponse]:
        """Lists the endpoints by id, which is about the order of their creation.
        """
        ...
    @property
    def UpdateWebhookEndpoint(self) -> calls.AsyncUnaryUnary[webhook_service_pb2.UpdateWebhookEndpointRequest, webhook_service_pb2.UpdateWebhookEndpointResponse]:
        """Changes an endpoint. A change of the filters concerns events that it has not
        come to yet, one of the url every request from then on. Enabled again it goes
        on where it stopped. Needs entities:read too, as CreateWebhookEndpoint does.
        Errors: ETAG_MISMATCH.
        """
        ...
    @property
    def DeleteWebhookEndpoint(self) -> calls.AsyncUnaryUnary[webhook_service_pb2.DeleteWebhookEndpointRequest, webhook_service_pb2.DeleteWebhookEndpointResponse]:
        """Removes an endpoint with its deliveries. A request that is under way ends.
        NOT_FOUND where there is none, or it was deleted. Errors: ETAG_MISMATCH.
        """
        ...
    @property
    def RotateWebhookSecret(self) -> calls.AsyncUnaryUnary[webhook_service_pb2.RotateWebhookSecretRequest, webhook_service_pb2.RotateWebhookSecretResponse]:
        """Makes a new secret and answers it, once; for the time that is asked for,
        requests are signed with the one before too. Like CreateWebhookEndpoint it
        has no request_id; an etag keeps a repeated call from a second rotation.
        Errors: ETAG_MISMATCH.
        """
        ...
    @property
    def ListWebhookDeliveries(self) -> calls.AsyncUnaryUnary[webhook_service_pb2.ListWebhookDeliveriesRequest, webhook_service_pb2.ListWebhookDeliveriesResponse]:
        """Lists deliveries, those of the newest events first. What has been delivered
        or given up is forgotten after 30 days, unless the operator says otherwise.
        """
        ...
    @property
    def ReplayWebhookDeliveries(self) -> calls.AsyncUnaryUnary[webhook_service_pb2.ReplayWebhookDeliveriesRequest, webhook_service_pb2.ReplayWebhookDeliveriesResponse]:
        """Sends events again, each with its old webhook-id and in the order of its
        entity: those of the deliveries that are named, or every event of the log
        recorded in a range of time that the endpoint's filters accept. They begin
        their attempts anew; one whose turn it is is tried now, one that waits behind
        another of its entity comes after it. Events that the endpoint has not come
        to yet come in their turn. Atomic per call; a range is worked off
        in several calls, a page of its events in each. Deliveries of a disabled
        endpoint wait until it is enabled. A pause that the receiver asked for
        (Retry-After) ends.
        """
        ...
