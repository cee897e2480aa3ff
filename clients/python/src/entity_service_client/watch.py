"""A watch that goes on from its position when the connection or the service goes."""

from __future__ import annotations

import logging
import threading

import grpc

from .calls import Stream, UnaryStream
from .errors import EntityError, PositionExpired, error_of
from .retry import pause_of
from .v1 import WatchEntitiesRequest, WatchEntitiesResponse

_log = logging.getLogger("entity_service_client")

# No answer of the service, or one that says to watch again.
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED)
_AGAIN = ("DATABASE_UNAVAILABLE", "OVERLOADED", "WATCH_TOO_SLOW", "CANCELLED", "DEADLINE_EXCEEDED")


def pause_after(error: grpc.RpcError | None, position: str, failed: int) -> float:
    """How long to wait before a watch that ended so goes on; raises where it cannot. Without an error it just ended."""
    refusal = error_of(error)
    if error is not None:
        if refusal.reason == "POSITION_EXPIRED":
            raise PositionExpired(position) from error
        if not _passes(refusal):
            raise error
    pause = (refusal.retry_after or 0) + pause_of(failed)
    why = "the service ended it" if error is None else refusal.reason or f"{refusal.code.name} {refusal.message}"
    _log.warning("the watch was lost (%s) and goes on from its position in %.1f s", why, pause)
    return pause


def _passes(refusal: EntityError) -> bool:
    if refusal.reason:
        return refusal.reason in _AGAIN
    # The service resets the stream of a slow reader: behind what is not read it can send no reason. A message that is
    # too large for this client has the same code, but in other words, and would be too large again.
    is_reset = refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED and "RST_STREAM" in refusal.message
    return is_reset or refusal.code in _LOST


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
            ended: grpc.RpcError | None = None
            try:
                message = next(self._open())
            except StopIteration:
                pass
            except grpc.RpcError as error:
                ended = error
            else:
                self._failed = 0
                self._request.position = message.position
                return message
            if not self._closed.is_set():
                self._stream = None
                self._failed += 1
                self._closed.wait(pause_after(ended, self.position, self._failed))
        raise StopIteration

    def _open(self) -> Stream[WatchEntitiesResponse]:
        if self._stream is None:
            self._stream = self._call(self._request)
            # It may have been closed by another thread just before.
            if self._closed.is_set():
                self._stream.cancel()
        return self._stream
