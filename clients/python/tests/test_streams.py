"""Streams in both directions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from conftest import new_person

from entity_service_client import Client, PositionExpired, Watch, error_of, is_reason, lookup, v1


def rename(client: Client, entity: v1.Entity, name: str) -> None:
    client.entities.UpdateEntity(
        v1.UpdateEntityRequest(lookup=lookup.entity_id(entity.id), entity=v1.Entity(name=name))
    )


def watch_of(client: Client, entity: v1.Entity, position: str = "") -> Watch:
    return client.watch(v1.WatchEntitiesRequest(lookup=lookup.entity_id(entity.id), position=position))


def names(watch: Watch) -> Iterator[str]:
    for message in watch:
        if message.HasField("event"):
            yield message.event.new_values["name"]


def test_an_import_streams_rows_and_answers(client: Client, external_id: str) -> None:
    def rows() -> Iterator[v1.ImportEntitiesRequest]:
        for number in range(300):
            yield v1.ImportEntitiesRequest(entity=new_person(f"{external_id}-{number}"))
        yield v1.ImportEntitiesRequest(entity=v1.Entity(external_id=f"{external_id}-x"))

    results = [result for answer in client.entities.ImportEntities(rows()) for result in answer.results]
    assert [result.row for result in results] == list(range(301))
    assert {result.outcome for result in results[:300]} == {v1.IMPORT_OUTCOME_CREATED}
    assert results[300].outcome == v1.IMPORT_OUTCOME_FAILED
    assert is_reason(results[300].error, "VALIDATION_ERROR")
    assert error_of(results[300].error).violations


def test_an_import_that_is_cancelled_ends(client: Client, external_id: str) -> None:
    over = threading.Event()

    def rows() -> Iterator[v1.ImportEntitiesRequest]:
        yield v1.ImportEntitiesRequest(entity=new_person(external_id))
        over.wait(10)

    answers = client.entities.ImportEntities(rows())
    assert next(iter(answers)).results[0].outcome == v1.IMPORT_OUTCOME_CREATED
    answers.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    over.set()
    assert error_of(caught.value).code is grpc.StatusCode.CANCELLED


def test_an_export_has_all_entities(client: Client, person: v1.Entity) -> None:
    messages = list(client.entities.ExportEntities(v1.ExportEntitiesRequest()))
    assert messages[-1].done == 1
    assert person.id in {entity.id for message in messages for entity in message.entities}


def test_a_watch_has_every_event_from_its_position_on(client: Client, person: v1.Entity) -> None:
    with watch_of(client, person) as watch:
        first = next(watch)
        assert first.position and not first.HasField("event")
        for name in ("Eva", "Ida"):
            rename(client, person, name)
        changed = names(watch)
        assert [next(changed), next(changed)] == ["Eva", "Ida"]
        stored = watch.position
        rename(client, person, "Ada")
    with watch_of(client, person, stored) as again:
        assert next(names(again)) == "Ada"


def test_a_watch_is_closed_from_another_thread(client: Client, person: v1.Entity) -> None:
    watch = watch_of(client, person)
    next(watch)
    threading.Timer(0.2, watch.close).start()
    began = time.monotonic()
    assert list(watch) == []
    assert time.monotonic() - began < 3


def test_a_watch_goes_on_over_a_restart_of_every_process(
    client: Client, person: v1.Entity, addresses: list[str], restart: Callable[[int], None]
) -> None:
    with watch_of(client, person) as watch:
        next(watch)
        changed = names(watch)
        expected = []
        for index in range(len(addresses)):
            expected += [f"before {index}", f"after {index}"]
            rename(client, person, f"before {index}")
            restart(index)
            rename(client, person, f"after {index}")
        assert [next(changed) for _ in expected] == expected


def test_a_position_of_another_database_is_not_one_of_this_service(client: Client) -> None:
    with client.watch(position="nothing") as watch, pytest.raises(grpc.RpcError) as caught:
        next(watch)
    assert is_reason(caught.value, "POSITION_INVALID")
    assert not isinstance(caught.value, PositionExpired)
