"""The client for asyncio: the same calls, awaited, with the same deadlines and attempts."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from .calls import AsyncStream, AsyncUnaryStream, Metadata
from .channel import Settings, streaming
from .client import DEFAULT_TIMEOUT
from .destination import destination
from .pages import async_pages
from .retry import Budget, Kind, Retry, kind_of, with_request_id
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
    WatchEntitiesResponse,
    WebhookServiceStub,
)
from .watch import pause_after

if TYPE_CHECKING:
    from .v1.activity_service_pb2_grpc import ActivityServiceAsyncStub
    from .v1.entity_service_pb2_grpc import EntityServiceAsyncStub
    from .v1.organization_service_pb2_grpc import OrganizationServiceAsyncStub
    from .v1.risk_matrix_service_pb2_grpc import RiskMatrixServiceAsyncStub
    from .v1.webhook_service_pb2_grpc import WebhookServiceAsyncStub

__all__ = ["AsyncClient", "AsyncWatch", "async_pages"]


class AsyncClient:
    """As Client. Make it where an event loop runs, and use it in that loop alone."""

    entities: EntityServiceAsyncStub
    activity: ActivityServiceAsyncStub
    organizations: OrganizationServiceAsyncStub
    risk_matrices: RiskMatrixServiceAsyncStub
    webhooks: WebhookServiceAsyncStub

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
        self._channel = (
            grpc.aio.insecure_channel(to.target, to.options, interceptors=interceptors)
            if to.credentials is None
            else grpc.aio.secure_channel(to.target, to.credentials, to.options, interceptors=interceptors)
        )
        self._use(Settings(api_key.strip(), timeout, actor, source, Budget(), on_retry))

    def on_behalf_of(self, actor: str, *, source: str | None = None) -> AsyncClient:
        """The same client, connection included, whose calls are those of another actor."""
        other = copy.copy(self)
        settings = self._settings
        other._use(dataclasses.replace(settings, actor=actor, source=source or settings.source))
        return other

    def watch(self, request: WatchEntitiesRequest | None = None, *, position: str = "") -> AsyncWatch:
        """What happens from a position on, or from now on; over restarts, until it is closed."""
        asked = WatchEntitiesRequest()
        if request is not None:
            asked.CopyFrom(request)
        if position:
            asked.position = position
        return AsyncWatch(self.entities.WatchEntities, asked)

    async def list_entities(self, request: ListEntitiesRequest | None = None) -> AsyncIterator[Entity]:
        """The entities of all pages. `async_pages` answers the pages, with their watch_position."""
        async for page in async_pages(self.entities.ListEntities, request or ListEntitiesRequest()):
            for entity in page.entities:
                yield entity

    async def list_entity_events(self, request: ListEntityEventsRequest | None = None) -> AsyncIterator[EntityEvent]:
        """The events of all pages, newest first."""
        async for page in async_pages(self.entities.ListEntityEvents, request or ListEntityEventsRequest()):
            for event in page.events:
                yield event

    async def close(self) -> None:
        """Ends the calls that are under way."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def _use(self, settings: Settings) -> None:
        self._settings = settings
        # Stubs have the types of calls that are not awaited; the same stubs make both.
        channel: Any = _AsyncChannel(self._channel, settings)
        stubs: Any = self
        stubs.entities = EntityServiceStub(channel)
        stubs.activity = ActivityServiceStub(channel)
        stubs.organizations = OrganizationServiceStub(channel)
        stubs.risk_matrices = RiskMatrixServiceStub(channel)
        stubs.webhooks = WebhookServiceStub(channel)


class _AsyncChannel:
    """What a stub needs of a grpc.aio.Channel."""

    def __init__(self, channel: grpc.aio.Channel, settings: Settings) -> None:
        self._channel: Any = channel
        self._settings = settings

    def unary_unary(self, method: str, *args: Any, **more: Any) -> Any:
        inner = self._channel.unary_unary(method, *args, **more)
        kind, settings = kind_of(method), self._settings

        async def call(request: Any, timeout: float | None = None, metadata: Metadata | None = None) -> Any:
            if kind is Kind.KEYED_WRITE:
                request = with_request_id(request)
            common = settings.metadata(metadata)
            attempts = settings.attempts(method, kind, timeout)
            while True:
                try:
                    answer = await inner(
                        request, timeout=attempts.left, metadata=common, wait_for_ready=attempts.wait_for_ready
                    )
                except grpc.RpcError as error:
                    await asyncio.sleep(attempts.pause_after(error))
                else:
                    attempts.succeeded()
                    return answer

        return call

    def unary_stream(self, method: str, *args: Any, **more: Any) -> Any:
        return streaming(self._channel.unary_stream(method, *args, **more), self._settings)

    def stream_unary(self, method: str, *args: Any, **more: Any) -> Any:
        return streaming(self._channel.stream_unary(method, *args, **more), self._settings)

    def stream_stream(self, method: str, *args: Any, **more: Any) -> Any:
        return streaming(self._channel.stream_stream(method, *args, **more), self._settings)


class AsyncWatch:
    """As Watch, for `async for`. Cancelling the task that iterates ends it too."""

    def __init__(
        self, call: AsyncUnaryStream[WatchEntitiesRequest, WatchEntitiesResponse], request: WatchEntitiesRequest
    ) -> None:
        self._call = call
        self._request = WatchEntitiesRequest()
        self._request.CopyFrom(request)
        self._stream: AsyncStream[WatchEntitiesResponse] | None = None
        self._messages: AsyncIterator[WatchEntitiesResponse] | None = None
        self._failed = 0
        self._closed = asyncio.Event()

    @property
    def position(self) -> str:
        return self._request.position

    def close(self) -> None:
        """Ends the watch; the iteration stops."""
        self._closed.set()
        if self._stream is not None:
            self._stream.cancel()

    async def __aenter__(self) -> AsyncWatch:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()

    def __aiter__(self) -> AsyncWatch:
        return self

    async def __anext__(self) -> WatchEntitiesResponse:
        while not self._closed.is_set():
            ended: grpc.RpcError | None = None
            try:
                message = await self._next()
            except StopAsyncIteration:
                pass
            except asyncio.CancelledError:
                # By `close`, which ends the stream; or the task was cancelled.
                if not self._closed.is_set():
                    raise
            except grpc.RpcError as error:
                ended = error
            else:
                self._failed = 0
                self._request.position = message.position
                return message
            if not self._closed.is_set():
                self._stream = None
                self._failed += 1
                await self._wait(pause_after(ended, self.position, self._failed))
        raise StopAsyncIteration

    async def _next(self) -> WatchEntitiesResponse:
        if self._stream is None or self._messages is None:
            self._stream = self._call(self._request)
            self._messages = self._stream.__aiter__()
        return await self._messages.__anext__()

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._closed.wait(), seconds)
        except asyncio.TimeoutError:
            return
