"""The client."""

from __future__ import annotations

import copy
import dataclasses
import ipaddress
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

from .channel import Channel, Settings
from .pages import pages
from .retry import Budget, Retry, service_config
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

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.service_config", service_config()),
    # A server that says nothing any more ends a watch too, which has no deadline.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # After a restart, without the second that gRPC waits at first.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    # A page ends before about 3 MiB, unless a single item is larger.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # The details of errors come as metadata.
    ("grpc.max_metadata_size", 64 * 1024),
]


class Client:
    """The services, over one channel that the first call opens. Make one, keep it, share it between threads.

    `address` is "host:port" or a list of "ip:port", of which each call takes the next that is there. TLS is used unless
    the address is of this machine; `tls=False` sends the API key in the clear through a network that is trusted.
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
        target, credentials = target_of(address, tls)
        authority = [] if len(places_of(address)) == 1 else [("grpc.default_authority", places_of(address)[0])]
        all_options = [*_OPTIONS, *authority, *options]
        channel = (
            grpc.insecure_channel(target, all_options)
            if credentials is None
            else grpc.secure_channel(target, credentials, all_options)
        )
        self._channel = grpc.intercept_channel(channel, *interceptors)
        self._use(Settings(api_key, timeout, actor, source, Budget(), on_retry))

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


def places_of(address: str | Sequence[str]) -> list[str]:
    """The addresses, without schemes."""
    given = [address] if isinstance(address, str) else list(address)
    if not given:
        raise ValueError("address: at least one, such as 127.0.0.1:50051")
    return [one.removeprefix("http://").removeprefix("https://").rstrip("/") for one in given]


def target_of(
    address: str | Sequence[str], tls: bool | grpc.ChannelCredentials | None
) -> tuple[str, grpc.ChannelCredentials | None]:
    """Where a channel goes, and with which credentials: none is plaintext."""
    given = [address] if isinstance(address, str) else list(address)
    schemes = {one.partition("://")[0] for one in given if one.startswith(("http://", "https://"))}
    places = places_of(address)
    if tls is None:
        tls = schemes == {"https"} or (not schemes and not all(map(_is_of_this_machine, places)))
    credentials = (grpc.ssl_channel_credentials() if tls else None) if isinstance(tls, bool) else tls
    if len(places) == 1:
        return places[0], credentials
    versions = {_ip_version(place) for place in places}
    if versions not in ({4}, {6}):
        raise ValueError("address: several must be ip:port, all IPv4 or all IPv6; for names let one name mean them all")
    return f"ipv{versions.pop()}:{','.join(places)}", credentials


def _is_of_this_machine(place: str) -> bool:
    host = _host(place)
    if place.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _ip_version(place: str) -> int | None:
    try:
        return ipaddress.ip_address(_host(place)).version
    except ValueError:
        return None


def _host(place: str) -> str:
    return place.removeprefix("dns:///").rpartition(":")[0].strip("[]")
