"""The client for asyncio, which shares the rules of the other one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
import pytest
from conftest import new_person
from scripted import Refusal, scripted_service

from entity_service_client import AsyncClient, PositionExpired, async_pages, error_of, is_reason, lookup, v1

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def with_client(
    addresses: str | list[str], api_key: str, run: Callable[[AsyncClient], Coroutine[Any, Any, None]], **more: Any
) -> None:
    async def main() -> None:
        async with AsyncClient(addresses, api_key=api_key, **more) as client:
            await run(client)

    asyncio.run(main())


def test_calls_are_awaited_and_refused_with_reasons(addresses: list[str], api_key: str, person: v1.Entity) -> None:
    async def run(client: AsyncClient) -> None:
        request = v1.GetEntityRequest(lookup=lookup.entity_id(person.id))
        answers = await asyncio.gather(*[client.entities.GetEntity(request) for _ in range(20)])
        assert all(answer.entity == person for answer in answers)
        with pytest.raises(grpc.RpcError) as caught:
            await client.entities.DeleteEntity(v1.DeleteEntityRequest(lookup=request.lookup))
        assert is_reason(caught.value, "VALIDATION_ERROR")
        assert error_of(caught.value).violations[0].field == "reason"

    with_client(addresses, api_key, run)


def test_lists_come_page_by_page(addresses: list[str], api_key: str, external_id: str) -> None:
    async def run(client: AsyncClient) -> None:
        for number in range(5):
            entity = new_person(f"{external_id}-{number}", f"{external_id} {number}")
            await client.entities.CreateEntity(v1.CreateEntityRequest(entity=entity))
        request = v1.ListEntitiesRequest(name_prefix=external_id, page_size=2)
        sizes = [len(page.entities) async for page in async_pages(client.entities.ListEntities, request)]
        assert sizes == [2, 2, 1]
        assert len([entity async for entity in client.list_entities(request)]) == 5
        lookups = v1.ListEntityEventsRequest(lookup=lookup.external_id(f"{external_id}-0"))
        assert len([event async for event in client.list_entity_events(lookups)]) == 1

    with_client(addresses, api_key, run)


def test_an_import_streams_both_ways(addresses: list[str], api_key: str, external_id: str) -> None:
    async def rows() -> AsyncIterator[v1.ImportEntitiesRequest]:
        for number in range(50):
            yield v1.ImportEntitiesRequest(entity=new_person(f"{external_id}-{number}"))

    async def run(client: AsyncClient) -> None:
        results = [result async for answer in client.entities.ImportEntities(rows()) for result in answer.results]
        assert [result.outcome for result in results] == [v1.IMPORT_OUTCOME_CREATED] * 50

    with_client(addresses, api_key, run)


def test_a_watch_goes_on_over_a_restart_and_ends_when_it_is_closed(
    addresses: list[str], api_key: str, person: v1.Entity, restart: Callable[[], None]
) -> None:
    key = lookup.entity_id(person.id)

    async def run(client: AsyncClient) -> None:
        async def rename(name: str) -> None:
            theirs = client.on_behalf_of("eva")
            await theirs.entities.UpdateEntity(v1.UpdateEntityRequest(lookup=key, entity=v1.Entity(name=name)))

        watch = client.watch(v1.WatchEntitiesRequest(lookup=key))
        await anext(watch)
        await rename("Eva")
        await asyncio.to_thread(restart)
        await rename("Ida")
        events = [message.event async for message in take(watch, 2)]
        assert [str(event.new_values["name"]) for event in events] == ["Eva", "Ida"]
        assert {event.actor for event in events} == {"eva"}
        asyncio.get_running_loop().call_later(0.2, watch.close)
        assert [message async for message in watch if message.HasField("event")] == []

    with_client(addresses, api_key, run)


async def take(
    messages: AsyncIterator[v1.WatchEntitiesResponse], count: int
) -> AsyncIterator[v1.WatchEntitiesResponse]:
    async for message in messages:
        if message.HasField("event"):
            yield message
            count -= 1
        if count == 0:
            return


def test_a_write_keeps_its_request_id_over_the_attempts() -> None:
    script = [
        Refusal(UNAVAILABLE),
        Refusal(UNAVAILABLE, "OVERLOADED", retry_after_ms=100),
        Refusal(UNAVAILABLE, "COMMIT_UNKNOWN"),
        v1.DeleteEntityResponse(changed=True),
    ]

    async def run(client: AsyncClient) -> None:
        assert (await client.entities.DeleteEntity(v1.DeleteEntityRequest())).changed

    with scripted_service(*script) as service:
        with_client(service.address, "x", run)
    assert len(service.seen) == 4
    assert len({one.request_id for one in service.seen}) == 1
    assert service.seen[0].request_id


def test_a_cancelled_task_ends_its_call_and_its_attempts() -> None:
    async def run(client: AsyncClient) -> None:
        task = asyncio.ensure_future(client.entities.DeleteEntity(v1.DeleteEntityRequest()))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(1)

    late = Refusal(UNAVAILABLE, "OVERLOADED", retry_after_ms=900)
    with scripted_service(late, v1.DeleteEntityResponse()) as service:
        with_client(service.address, "x", run)
    assert len(service.seen) == 1


def test_a_cancelled_task_ends_its_watch(addresses: list[str], api_key: str) -> None:
    async def run(client: AsyncClient) -> None:
        watch = client.watch()
        await anext(watch)
        began = time.monotonic()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(watch), 0.2)
        assert time.monotonic() - began < 2

    with_client(addresses, api_key, run)


def test_a_position_that_expired_is_an_error_of_its_own() -> None:
    async def run(client: AsyncClient) -> None:
        async with client.watch(position="start") as watch:
            assert (await anext(watch)).position == "a"
            with pytest.raises(PositionExpired) as caught:
                await anext(watch)
        assert caught.value.position == "a"

    expired = Refusal(grpc.StatusCode.OUT_OF_RANGE, "POSITION_EXPIRED")
    script = [[Refusal(UNAVAILABLE)], [v1.WatchEntitiesResponse(position="a"), Refusal(UNAVAILABLE)], [expired]]
    with scripted_service(*script) as service:
        with_client(service.address, "x", run)
    assert [one.position for one in service.seen] == ["start", "start", "a"]


def test_a_deadline_ends_a_call(addresses: list[str], api_key: str) -> None:
    async def run(client: AsyncClient) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            await client.entities.ListEntities(v1.ListEntitiesRequest(), timeout=0.000_1)
        assert error_of(caught.value).code is grpc.StatusCode.DEADLINE_EXCEEDED

    with_client(addresses, api_key, run)
