"""Lists, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

Request = TypeVar("Request")
Page = TypeVar("Page")


def pages(call: Callable[[Request], Page], request: Request) -> Iterator[Page]:
    """All pages of a list, each asked for when it is wanted: `pages(client.entities.ListMerges, request)`."""
    asked = _copy(request)
    while True:
        page: Any = call(asked)
        yield page
        if not page.next_page_token:
            return
        asked.page_token = page.next_page_token


async def async_pages(call: Callable[[Request], Awaitable[Page]], request: Request) -> AsyncIterator[Page]:
    """The same of an AsyncClient."""
    asked = _copy(request)
    while True:
        page: Any = await call(asked)
        yield page
        if not page.next_page_token:
            return
        asked.page_token = page.next_page_token


def _copy(request: Any) -> Any:
    copy = type(request)()
    copy.CopyFrom(request)
    return copy
