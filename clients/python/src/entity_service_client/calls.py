"""The types of the calls of the stubs."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, Union

Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)

Metadata = Sequence[tuple[str, Union[str, bytes]]]


class Stream(Protocol[Response]):
    """The answers of a stream; an error of it comes out of `next`."""

    def __iter__(self) -> Iterator[Response]: ...

    def __next__(self) -> Response: ...

    def cancel(self) -> bool:
        """Ends the call, from any thread."""
        ...


class UnaryUnary(Protocol[Request, Response]):
    """One request, one answer, within `timeout` seconds: by default those of the client."""

    def __call__(
        self, request: Request, timeout: float | None = None, metadata: Metadata | None = None
    ) -> Response: ...

    def with_call(
        self, request: Request, timeout: float | None = None, metadata: Metadata | None = None
    ) -> tuple[Response, Any]:
        """The answer and the grpc.Call, which has the metadata that came with it."""
        ...

    def future(self, request: Request, timeout: float | None = None, metadata: Metadata | None = None) -> Any:
        """A concurrent.futures.Future of the answer; `cancel` ends the call."""
        ...


class UnaryStream(Protocol[Request, Response]):
    """One request, a stream of answers, without a deadline but `timeout`."""

    def __call__(
        self, request: Request, timeout: float | None = None, metadata: Metadata | None = None
    ) -> Stream[Response]: ...


class StreamUnary(Protocol[Request, Response]):
    """A stream of requests, one answer."""

    def __call__(
        self, request_iterator: Iterable[Request], timeout: float | None = None, metadata: Metadata | None = None
    ) -> Response: ...


class StreamStream(Protocol[Request, Response]):
    """Streams in both directions, without a deadline but `timeout`."""

    def __call__(
        self, request_iterator: Iterable[Request], timeout: float | None = None, metadata: Metadata | None = None
    ) -> Stream[Response]: ...


class AsyncStream(Protocol[Response]):
    """The answers of a stream; an error of it comes out of `async for`."""

    def __aiter__(self) -> AsyncIterator[Response]: ...

    def cancel(self) -> bool:
        """Ends the call."""
        ...


class AsyncUnaryUnary(Protocol[Request, Response]):
    """One request, one answer, within `timeout` seconds: by default those of the client."""

    def __call__(
        self, request: Request, timeout: float | None = None, metadata: Metadata | None = None
    ) -> Awaitable[Response]: ...


class AsyncUnaryStream(Protocol[Request, Response]):
    """One request, a stream of answers, without a deadline but `timeout`."""

    def __call__(
        self, request: Request, timeout: float | None = None, metadata: Metadata | None = None
    ) -> AsyncStream[Response]: ...


class AsyncStreamUnary(Protocol[Request, Response]):
    """A stream of requests, one answer."""

    def __call__(
        self,
        request_iterator: Iterable[Request] | AsyncIterable[Request],
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Awaitable[Response]: ...


class AsyncStreamStream(Protocol[Request, Response]):
    """Streams in both directions, without a deadline but `timeout`."""

    def __call__(
        self,
        request_iterator: Iterable[Request] | AsyncIterable[Request],
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> AsyncStream[Response]: ...
