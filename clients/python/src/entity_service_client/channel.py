"""A channel whose calls have the key, a deadline, and attempts: the generated stubs work on it as on any other."""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc

from .calls import Metadata
from .retry import Attempts, Budget, Kind, Retry, kind_of, with_request_id


@dataclass(frozen=True)
class Settings:
    """What the calls of a client have in common."""

    api_key: str = field(repr=False)
    timeout: float
    actor: str | None
    source: str | None
    budget: Budget
    on_retry: Callable[[Retry], None] | None

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise ValueError("timeout: must be more than 0 seconds")
        for name, value in (("api_key", self.api_key), ("actor", self.actor), ("source", self.source)):
            # gRPC would say "Invalid metadata" of each call.
            if value is not None and not re.fullmatch(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", value):
                raise ValueError(f"{name}: must be visible ASCII characters, at least one")

    def metadata(self, own: Iterable[tuple[str, Any]] | None) -> Metadata:
        """The metadata of a call; its own is not overridden."""
        given = list(own or ())
        common = {"authorization": f"Bearer {self.api_key}", "x-actor-id": self.actor, "x-source": self.source}
        named = {key for key, _ in given}
        return [(key, value) for key, value in common.items() if value is not None and key not in named] + given

    def attempts(self, method: str, kind: Kind, timeout: float | None) -> Attempts:
        return Attempts(method, kind, self.timeout if timeout is None else timeout, self.budget, self.on_retry)


class Channel:
    """What a stub needs of a grpc.Channel."""

    def __init__(self, channel: grpc.Channel, settings: Settings) -> None:
        self._channel = channel
        self._settings = settings

    def unary_unary(self, method: str, *args: Any, **more: Any) -> UnaryUnary:
        return UnaryUnary(method, self._channel.unary_unary(method, *args, **more), self._settings)

    def unary_stream(self, method: str, *args: Any, **more: Any) -> Any:
        return streaming(self._channel.unary_stream(method, *args, **more), self._settings)

    def stream_unary(self, method: str, *args: Any, **more: Any) -> Any:
        return streaming(self._channel.stream_unary(method, *args, **more), self._settings)

    def stream_stream(self, method: str, *args: Any, **more: Any) -> Any:
        return streaming(self._channel.stream_stream(method, *args, **more), self._settings)


def streaming(call: Callable[..., Any], settings: Settings) -> Callable[..., Any]:
    """Streams: no deadline but their own, and not sent again, since nobody knows how far they came."""

    def stream(request: Any, timeout: float | None = None, metadata: Metadata | None = None) -> Any:
        return call(request, timeout=timeout, metadata=settings.metadata(metadata))

    return stream


class UnaryUnary:
    """A method with one request and one answer."""

    def __init__(self, method: str, inner: Any, settings: Settings) -> None:
        self._method = method
        self._kind = kind_of(method)
        self._inner = inner
        self._settings = settings

    def __call__(self, request: Any, timeout: float | None = None, metadata: Metadata | None = None) -> Any:
        return self._send(self._inner, request, timeout, metadata, time.sleep)

    def with_call(self, request: Any, timeout: float | None = None, metadata: Metadata | None = None) -> Any:
        return self._send(self._inner.with_call, request, timeout, metadata, time.sleep)

    def future(self, request: Any, timeout: float | None = None, metadata: Metadata | None = None) -> Any:
        future = _Future()
        # The thread reads it later, and the caller may have changed its message by then.
        asked = type(request)()
        asked.CopyFrom(request)

        def attempt(*args: Any, **more: Any) -> Any:
            return future.wait_for(self._inner.future(*args, **more))

        def run() -> None:
            future.finish(lambda: self._send(attempt, asked, timeout, metadata, future.sleep))

        threading.Thread(target=run, name=self._method, daemon=True).start()
        return future

    def _send(
        self,
        send: Callable[..., Any],
        request: Any,
        timeout: float | None,
        metadata: Metadata | None,
        sleep: Callable[[float], None],
    ) -> Any:
        if self._kind is Kind.KEYED_WRITE:
            request = with_request_id(request)
        common = self._settings.metadata(metadata)
        attempts = self._settings.attempts(self._method, self._kind, timeout)
        while True:
            try:
                answer = send(request, timeout=attempts.left, metadata=common, wait_for_ready=attempts.wait_for_ready)
            except grpc.RpcError as error:
                sleep(attempts.pause_after(error))
            else:
                attempts.succeeded()
                return answer


class _Future(concurrent.futures.Future[Any]):
    """The answer of a call that a thread waits for. It stays pending until then, so that `cancel` can end it."""

    def __init__(self) -> None:
        super().__init__()
        self._over = threading.Event()
        self._attempt: Any = None

    def cancel(self) -> bool:
        is_cancelled = super().cancel()
        self._over.set()
        attempt = self._attempt
        if is_cancelled and attempt is not None:
            attempt.cancel()
        return is_cancelled

    def wait_for(self, attempt: Any) -> Any:
        self._attempt = attempt
        # It may have been cancelled just before.
        if self._over.is_set():
            attempt.cancel()
        return attempt.result()

    def sleep(self, seconds: float) -> None:
        if self._over.wait(seconds):
            raise concurrent.futures.CancelledError

    def finish(self, run: Callable[[], Any]) -> None:
        # Where it was cancelled, nobody waits for what comes of it.
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            try:
                answer = run()
            except BaseException as error:
                self.set_exception(error)
            else:
                self.set_result(answer)
