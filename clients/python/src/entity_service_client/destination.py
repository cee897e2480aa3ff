"""Where a channel goes, and how."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from .retry import service_config

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.service_config", service_config()),
    # A server that says nothing any more ends a watch too, which has no deadline.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # After a restart, without the second that gRPC waits at first.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # By its name the least pause; what it bounds is how long a connection may take to be made.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    # A page ends before about 3 MiB, unless a single item is larger.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # The details of errors come as metadata.
    ("grpc.max_metadata_size", 64 * 1024),
]


@dataclass(frozen=True)
class Destination:
    """What a channel is opened with; without credentials it is plaintext."""

    target: str
    credentials: grpc.ChannelCredentials | None
    options: list[tuple[str, Any]]


def destination(
    address: str | Sequence[str],
    tls: bool | grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> Destination:
    given = address.split(",") if isinstance(address, str) else list(address)
    if not given:
        raise ValueError("address: at least one, such as 127.0.0.1:50051")
    schemes = {one.partition("://")[0] for one in given if one.startswith(("http://", "https://"))}
    if len(schemes) > 1:
        raise ValueError("address: either http:// or https://")
    places = [one.removeprefix("http://").removeprefix("https://").rstrip("/") for one in given]
    for one in given:
        if "://" not in one and not re.search(r":\d+$|^(dns|unix|ipv[46]|xds):", one):
            raise ValueError("address: needs a port, such as 127.0.0.1:50051")
    if tls is None:
        tls = schemes == {"https"} or (not schemes and not all(map(_is_of_this_machine, places)))
    credentials = (grpc.ssl_channel_credentials() if tls else None) if isinstance(tls, bool) else tls
    if len(places) == 1:
        return Destination(places[0], credentials, [*_OPTIONS, *options])
    versions = {_ip_version(place) for place in places}
    if versions not in ({4}, {6}):
        raise ValueError("address: several must be ip:port, all IPv4 or all IPv6; for names let one name mean them all")
    # gRPC would take the whole list for the name of the host.
    authority = ("grpc.default_authority", places[0])
    return Destination(f"ipv{versions.pop()}:{','.join(places)}", credentials, [*_OPTIONS, authority, *options])


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
