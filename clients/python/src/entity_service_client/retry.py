"""Which calls are sent again, and when: rules without I/O, for the client of threads and for that of asyncio.

Reads are sent again, and writes with their request_id, which makes it safe: the service answers what it answered first.
A write without a field for one is sent again only where the service says that it did nothing. What never left this
machine, whatever it is, waits for a connection and is sent then. All calls of a client share one budget.

gRPC could do it for reads by itself, but neither with the same budget nor without counting what was never sent: a
restart of two seconds would use up all that it may have. It does it for streams, until their first message.
"""

from __future__ import annotations

import enum
import json
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions

from .errors import EntityError, error_of
from .v1 import (
    activity_service_pb2,
    entity_service_pb2,
    organization_service_pb2,
    risk_matrix_service_pb2,
    webhook_service_pb2,
)

_log = logging.getLogger("entity_service_client")

_FILES = (
    entity_service_pb2,
    activity_service_pb2,
    organization_service_pb2,
    risk_matrix_service_pb2,
    webhook_service_pb2,
)

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
# How gRPC says that there was no connection for a call; it has no status for that. Where a version says so
# in other words, the call is taken for one that was sent, which is safe too.
_NEVER_SENT = ("connections to all backends failing", "failed to connect to all addresses", "errors resolving ")
# The service did nothing, whatever the call is.
_NOTHING_DONE = ("OVERLOADED", "DATABASE_UNAVAILABLE", "WRITE_CONFLICT")


class Kind(enum.Enum):
    """What makes it safe to send a call again."""

    READ = "it changes nothing"
    KEYED_WRITE = "it has a request_id"
    PLAIN_WRITE = "nothing, unless the service says that it did nothing"


@dataclass(frozen=True)
class Retry:
    """A call that is about to be sent again."""

    method: str
    # How often it was sent so far.
    attempts: int
    # In so many seconds.
    pause: float
    error: grpc.RpcError


def kind_of(path: str) -> Kind:
    """Of the method with this path, such as "/entity.v1.EntityService/GetEntity"."""
    method = descriptor_pool.Default().FindMethodByName(path.strip("/").replace("/", "."))
    if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS:
        return Kind.READ
    is_keyed = not method.client_streaming and "request_id" in method.input_type.fields_by_name
    return Kind.KEYED_WRITE if is_keyed else Kind.PLAIN_WRITE


def with_request_id(request: Any) -> Any:
    """The request with a request_id: its own, or a new one in a copy."""
    if request.request_id:
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    copy.request_id = str(uuid.uuid4())
    return copy


def service_config() -> str:
    """For every channel: calls go to all addresses in turn, and streams that read are opened again.

    WatchEntities is not among them: a watch goes on from its position.
    """
    reads = [
        {"service": service.full_name, "method": method.name}
        for file in _FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.server_streaming
        and kind_of(f"/{service.full_name}/{method.name}") is Kind.READ
        and method.name != "WatchEntities"
    ]
    policy = {
        "maxAttempts": 5,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "methodConfig": [{"name": reads, "retryPolicy": policy}],
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
        }
    )


class Budget:
    """Of a client: retries are a tenth of what succeeds, and a reserve for a restart, so that they never amplify."""

    def __init__(self, reserve: float = 100, share: float = 0.1) -> None:
        self._reserve = reserve
        self._share = share
        self._left = reserve
        self._lock = threading.Lock()

    def earn(self) -> None:
        with self._lock:
            self._left = min(self._reserve, self._left + self._share)

    def spend(self) -> bool:
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True


class Attempts:
    """The attempts of one call, within its deadline."""

    def __init__(
        self, method: str, kind: Kind, timeout: float, budget: Budget, on_retry: Callable[[Retry], None] | None
    ) -> None:
        self._method = method
        self._kind = kind
        self._end = time.monotonic() + timeout
        self._budget = budget
        self._on_retry = on_retry
        self._failed = 0
        self._last: grpc.RpcError | None = None

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return max(0.001, self._end - time.monotonic())

    @property
    def wait_for_ready(self) -> bool | None:
        """The first attempt fails at once without a connection; another one waits for it, and asks nobody meanwhile."""
        return True if self._failed > 0 else None

    def pause_after(self, error: grpc.RpcError) -> float:
        """How long to wait before the call is sent again; raises where this error is that of the call."""
        refusal = error_of(error)
        before, self._last = self._last, error
        self._failed += 1
        if before is not None and _is_never_sent(error_of(before)) and _is_deadline_of_client(refusal):
            # It has waited for a connection until its deadline: what kept it from one tells more.
            raise before from error
        is_free = _is_never_sent(refusal)
        pause = (refusal.retry_after or 0) + pause_of(self._failed)
        if not (is_free or self._is_safe(refusal)) or pause >= self.left or not (is_free or self._budget.spend()):
            raise error from before
        _log.info("%s again in %.2f s: %s", self._method, pause, refusal.reason or refusal.message)
        if self._on_retry is not None:
            self._on_retry(Retry(self._method, self._failed, pause, error))
        return pause

    def succeeded(self) -> None:
        self._budget.earn()

    def _is_safe(self, refusal: EntityError) -> bool:
        is_unavailable = refusal.code is grpc.StatusCode.UNAVAILABLE
        return refusal.reason in _NOTHING_DONE or (is_unavailable and self._kind is not Kind.PLAIN_WRITE)


def _is_never_sent(refusal: EntityError) -> bool:
    is_unavailable = refusal.code is grpc.StatusCode.UNAVAILABLE and not refusal.reason
    return is_unavailable and refusal.message.startswith(_NEVER_SENT)


def _is_deadline_of_client(refusal: EntityError) -> bool:
    return refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED and not refusal.reason


def pause_of(failed: int) -> float:
    """After so many failures, with full jitter: anything up to a bound that doubles."""
    return random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(failed, 20)))
