"""A watch that goes on from its position when the connection or the service goes."""

from __future__ import annotations

import logging
import threading
from typing import Any

import grpc

from .calls import Stream, UnaryStream
from .errors import PositionExpired, error_of
from .retry import pause_of
from .v1 import WatchEntitiesRequest, WatchEntitiesResponse

_log = logging.getLogger("entity_service_client")

# No answer of the service, or one that says to watch again.
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED)
_AGAIN = ("DATABASE_UNAVAILABLE", "OVERLOADED", "WATCH_TOO_SLOW", "CANCELLED")


def is_lost(error: grpc.RpcError) -> bool:
    """Whether a watch that ended so goes on from its position."""
    refusal = error_of(error)
    if refusal.reason:
        return refusal.reason in _AGAIN
    return refusal.code in _LOST


def pause_before(failed: int, error: grpc.RpcError | None) -> float:
    hint = error_of(error).retry_after if error is not None else None
    return (hint or 0) + pause_of(failed)


def expired(error: grpc.RpcError, position: str) -> PositionExpired | None:
    return PositionExpired(position) if error_of(error).reason == "POSITION_EXPIRED" else None


class Watch:
    """Iterates over what happens, checkpoints included, until it is closed. For one thread; `close` is for any.

    `position` is that of the last message: store it after the message was worked on, and begin there next time.
    Raises PositionExpired when the position is too old, and what the service refuses: a revoked key, a missing scope.
    """

    def __init__(self, call: UnaryStream[WatchEntitiesRequest, WatchEntitiesResponse], request: WatchEntitiesRequest):
        self._call = call
        self._request = WatchEntitiesRequest()
        self._request.CopyFrom(request)
        self._stream: Stream[WatchEntitiesResponse] | None = None
        self._failed = 0
        self._closed = threading.Event()

    @property
    def position(self) -> str:
        return self._request.position

    def close(self) -> None:
        """Ends the watch; the iteration stops."""
        self._closed.set()
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> WatchEntitiesResponse:
        while not self._closed.is_set():
            try:
                message = next(self._open())
            except StopIteration:
                self._pause(None)
            except grpc.RpcError as error:
                if self._closed.is_set():
                    break
                gone: Any = expired(error, self.position)
                if gone is not None:
                    raise gone from error
                if not is_lost(error):
                    raise
                self._pause(error)
            else:
                self._failed = 0
                self._request.position = message.position
                return message
        raise StopIteration

    def _open(self) -> Stream[WatchEntitiesResponse]:
        if self._stream is None:
            self._stream = self._call(self._request)
            # It may have been closed by another thread just before.
            if self._closed.is_set():
                self._stream.cancel()
        return self._stream

    def _pause(self, error: grpc.RpcError | None) -> None:
        self._stream = None
        self._failed += 1
        pause = pause_before(self._failed, error)
        why = "the service ended it" if error is None else f"{error_of(error).code.name} {error_of(error).message}"
        _log.warning("the watch was lost (%s) and goes on from its position in %.1f s", why, pause)
        self._closed.wait(pause)
