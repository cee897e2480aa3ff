"""The client."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

from .channel import Channel, Settings
from .destination import destination
from .pages import pages
from .retry import Budget, Retry
from .v1 import (
    ActivityServiceStub,
    Entity,
    EntityEvent,
    EntityServiceStub,
    ListEntitiesRequest,
    ListEntityEventsRequest,
    OrganizationServiceStub,
    RiskMatrixServiceStub,
    WatchEntitiesRequest,
    WebhookServiceStub,
)
from .watch import Watch

DEFAULT_TIMEOUT = 10.0


class Client:
    """The services, over one channel that the first call opens. Make one, keep it, share it between threads.

    `address` is "host:port" or a list of "ip:port", of which each call takes the next that is there. TLS is used unless
    the address is of this machine or begins with http://; `tls=False` sends the API key in the clear through a network
    that is trusted, and `grpc.ssl_channel_credentials(root_certificates=...)` trusts an authority of your own.
    """

    entities: EntityServiceStub
    activity: ActivityServiceStub
    organizations: OrganizationServiceStub
    risk_matrices: RiskMatrixServiceStub
    webhooks: WebhookServiceStub

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        api_key: str,
        timeout: float = DEFAULT_TIMEOUT,
        actor: str | None = None,
        source: str | None = None,
        tls: bool | grpc.ChannelCredentials | None = None,
        interceptors: Sequence[Any] = (),
        options: Sequence[tuple[str, Any]] = (),
        on_retry: Callable[[Retry], None] | None = None,
    ) -> None:
        to = destination(address, tls, options)
        channel = (
            grpc.insecure_channel(to.target, to.options)
            if to.credentials is None
            else grpc.secure_channel(to.target, to.credentials, to.options)
        )
        self._channel = grpc.intercept_channel(channel, *interceptors)
        self._use(Settings(api_key.strip(), timeout, actor, source, Budget(), on_retry))

    def on_behalf_of(self, actor: str, *, source: str | None = None) -> Client:
        """The same client, connection included, whose calls are those of another actor."""
        other = copy.copy(self)
        settings = self._settings
        other._use(dataclasses.replace(settings, actor=actor, source=source or settings.source))
        return other

    def watch(self, request: WatchEntitiesRequest | None = None, *, position: str = "") -> Watch:
        """What happens from a position on, or from now on; over restarts, until it is closed."""
        asked = WatchEntitiesRequest()
        if request is not None:
            asked.CopyFrom(request)
        if position:
            asked.position = position
        return Watch(self.entities.WatchEntities, asked)

    def list_entities(self, request: ListEntitiesRequest | None = None) -> Iterator[Entity]:
        """The entities of all pages. `pages` answers the pages, with their watch_position."""
        for page in pages(self.entities.ListEntities, request or ListEntitiesRequest()):
            yield from page.entities

    def list_entity_events(self, request: ListEntityEventsRequest | None = None) -> Iterator[EntityEvent]:
        """The events of all pages, newest first."""
        for page in pages(self.entities.ListEntityEvents, request or ListEntityEventsRequest()):
            yield from page.events

    def close(self) -> None:
        """Ends the calls that are under way, of all threads."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _use(self, settings: Settings) -> None:
        self._settings = settings
        channel = Channel(self._channel, settings)
        self.entities = EntityServiceStub(channel)
        self.activity = ActivityServiceStub(channel)
        self.organizations = OrganizationServiceStub(channel)
        self.risk_matrices = RiskMatrixServiceStub(channel)
        self.webhooks = WebhookServiceStub(channel)
