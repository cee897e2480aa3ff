"""What is sent again, how often, when and with what: against a service that refuses as it is told."""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from collections.abc import Callable

import grpc
import pytest
from driver import Driver
from google.protobuf.json_format import MessageToDict
from resetting import resetting_service
from scripted import Refusal, scripted_service

from entity_service_client import Client, PositionExpired, Retry, error_of, lookup, v1
from entity_service_client.retry import Budget, Kind, kind_of, pause_of, service_config

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
LOST = Refusal(UNAVAILABLE)
OVERLOADED = Refusal(UNAVAILABLE, "OVERLOADED", retry_after_ms=120)
CONFLICT = Refusal(grpc.StatusCode.ABORTED, "WRITE_CONFLICT", retry_after_ms=10)
UNKNOWN_COMMIT = Refusal(UNAVAILABLE, "COMMIT_UNKNOWN")
MISMATCH = Refusal(grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
DEFECT = Refusal(grpc.StatusCode.INTERNAL, "INTERNAL")


def test_a_write_keeps_its_request_id_over_the_attempts() -> None:
    retries: list[Retry] = []
    request = v1.UpdateEntityRequest(reason="x")
    with scripted_service(LOST, OVERLOADED, CONFLICT, UNKNOWN_COMMIT, v1.UpdateEntityResponse(created=True)) as service:
        with Client(service.address, api_key="x", on_retry=retries.append) as client:
            assert client.entities.UpdateEntity(request).created
    assert len(service.seen) == 5
    assert len({one.request_id for one in service.seen}) == 1
    assert uuid.UUID(service.seen[0].request_id).version == 4
    assert request == v1.UpdateEntityRequest(reason="x"), "the caller's message is not touched"
    assert [error_of(one.error).reason for one in retries] == ["", "OVERLOADED", "WRITE_CONFLICT", "COMMIT_UNKNOWN"]
    assert [one.attempts for one in retries] == [1, 2, 3, 4]
    assert retries[1].pause >= 0.12, "the hint of the service is the least"


def test_each_write_has_a_request_id_of_its_own_and_a_given_one_stays() -> None:
    answers = [v1.UpdateEntityResponse() for _ in range(3)]
    with scripted_service(*answers) as service, Client(service.address, api_key="x") as client:
        for request_id in ("", "", "given"):
            client.entities.UpdateEntity(v1.UpdateEntityRequest(request_id=request_id))
    assert len({one.request_id for one in service.seen}) == 3
    assert service.seen[2].request_id == "given"


@pytest.mark.parametrize(
    "refusal", [MISMATCH, DEFECT, Refusal(grpc.StatusCode.DEADLINE_EXCEEDED), Refusal(UNAVAILABLE, "NEW")]
)
def test_other_refusals_of_writes_are_those_of_the_call(refusal: Refusal) -> None:
    is_again = refusal.code is UNAVAILABLE
    with (
        scripted_service(refusal, v1.DeleteEntityResponse()) as service,
        Client(service.address, api_key="x") as client,
    ):
        if is_again:
            client.entities.DeleteEntity(v1.DeleteEntityRequest())
        else:
            with pytest.raises(grpc.RpcError):
                client.entities.DeleteEntity(v1.DeleteEntityRequest())
    assert len(service.seen) == (2 if is_again else 1)


def test_a_write_without_a_request_id_is_sent_again_only_where_nothing_was_done() -> None:
    assert kind_of("/entity.v1.EntityService/RecheckTaxIds") is Kind.PLAIN_WRITE
    with scripted_service(OVERLOADED, CONFLICT, v1.RecheckTaxIdsResponse(entities=3)) as service:
        with Client(service.address, api_key="x") as client:
            assert client.entities.RecheckTaxIds(v1.RecheckTaxIdsRequest()).entities == 3
    for refusal in (LOST, UNKNOWN_COMMIT):
        with scripted_service(refusal) as service, Client(service.address, api_key="x") as client:
            with pytest.raises(grpc.RpcError):
                client.entities.RecheckTaxIds(v1.RecheckTaxIdsRequest())
        assert len(service.seen) == 1


def test_a_read_is_sent_again() -> None:
    answer = v1.GetEntityResponse(redirected_from="x")
    script = [LOST, OVERLOADED, CONFLICT, answer]
    with scripted_service(*script) as service, Client(service.address, api_key="x") as client:
        assert client.entities.GetEntity(v1.GetEntityRequest()) == answer
    assert len(service.seen) == 4


def test_a_stream_that_reads_is_opened_again_and_attempts_are_bounded() -> None:
    done = v1.ExportEntitiesResponse(done=1)
    with scripted_service([LOST], [LOST], [done]) as service, Client(service.address, api_key="x") as client:
        assert list(client.entities.ExportEntities(v1.ExportEntitiesRequest())) == [done]
    assert len(service.seen) == 3
    with scripted_service(*[[LOST]] * 30) as service, Client(service.address, api_key="x") as client:
        with pytest.raises(grpc.RpcError):
            list(client.entities.ExportEntities(v1.ExportEntitiesRequest()))
    assert len(service.seen) == 5


def test_the_deadline_is_that_of_all_attempts() -> None:
    with scripted_service(*[LOST] * 100) as service, Client(service.address, api_key="x", timeout=0.6) as client:
        began = time.monotonic()
        with pytest.raises(grpc.RpcError):
            client.entities.DeleteEntity(v1.DeleteEntityRequest())
    assert time.monotonic() - began < 0.9
    assert len(service.seen) > 2


def test_no_attempt_begins_before_the_hint_or_after_the_deadline() -> None:
    late = Refusal(UNAVAILABLE, "OVERLOADED", retry_after_ms=900)
    with scripted_service(late) as service, Client(service.address, api_key="x", timeout=0.5) as client:
        with pytest.raises(grpc.RpcError) as caught:
            client.entities.DeleteEntity(v1.DeleteEntityRequest())
    assert error_of(caught.value).reason == "OVERLOADED"
    assert len(service.seen) == 1


def test_a_service_that_refuses_everything_gets_little_more_than_what_is_called() -> None:
    calls = 400
    with scripted_service(*[CONFLICT] * 10_000) as service, Client(service.address, api_key="x") as client:
        futures = [client.entities.DeleteEntity.future(v1.DeleteEntityRequest()) for _ in range(calls)]
        assert all(isinstance(future.exception(timeout=20), grpc.RpcError) for future in futures)
    assert calls < len(service.seen) <= calls + 100


def test_the_budget_is_a_tenth_of_what_succeeds() -> None:
    budget = Budget(reserve=2)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    for _ in range(11):
        budget.earn()
    assert [budget.spend() for _ in range(2)] == [True, False]
    for _ in range(1000):
        budget.earn()
    assert [budget.spend() for _ in range(3)] == [True, True, False], "no more than the reserve is saved"


def test_pauses_have_full_jitter_below_a_bound_that_doubles() -> None:
    for failed, bound in ((1, 0.1), (2, 0.2), (3, 0.4), (50, 2.0)):
        pauses = [pause_of(failed) for _ in range(2_000)]
        assert 0 <= min(pauses) < bound * 0.05
        assert bound * 0.95 < max(pauses) <= bound


def test_the_service_config_has_the_streams_that_read_and_nothing_else() -> None:
    (methods,) = json.loads(service_config())["methodConfig"]
    assert {one["method"] for one in methods["name"]} == {"ExportEntities", "VerifyAuditTrail"}


def test_calls_that_find_no_connection_wait_for_one_free_of_charge() -> None:
    calls = 250
    port = free_port()
    retries: list[Retry] = []
    with Client(f"127.0.0.1:{port}", api_key="x", on_retry=retries.append) as client:
        reads = [client.entities.GetEntity.future(v1.GetEntityRequest()) for _ in range(calls)]
        writes = [client.entities.RecheckTaxIds.future(v1.RecheckTaxIdsRequest()) for _ in range(calls)]
        time.sleep(1)
        with scripted_service(port=port) as service:
            service.script = [None] * 2 * calls
            assert all(isinstance(future.result(timeout=10), v1.GetEntityResponse) for future in reads)
            assert all(isinstance(future.result(timeout=10), v1.RecheckTaxIdsResponse) for future in writes)
    assert len(service.seen) == 2 * calls, "nobody is asked twice"
    assert calls <= len(retries) <= 2 * calls, "they wait, and do not ask again and again"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_future_that_waits_for_its_next_attempt_is_cancelled() -> None:
    late = Refusal(UNAVAILABLE, "OVERLOADED", retry_after_ms=900)
    with scripted_service(late, v1.DeleteEntityResponse()) as service, Client(service.address, api_key="x") as client:
        future = client.entities.DeleteEntity.future(v1.DeleteEntityRequest())
        time.sleep(0.3)
        assert future.cancel()
        time.sleep(1)
    assert len(service.seen) == 1


def test_a_future_sends_the_message_as_it_was_at_the_call() -> None:
    rows = [str(row) for row in range(20)]
    # Most rows are sent twice, the second time after the message was changed.
    with scripted_service(*[CONFLICT] * 20, *[None] * 20) as service, Client(service.address, api_key="x") as client:
        request = v1.ListEntitiesRequest()
        futures = []
        for row in rows:
            request.name_query = row
            futures.append(client.entities.ListEntities.future(request))
        request.name_query = "of no call"
        for future in futures:
            future.result(timeout=5)
    assert {one.name_query for one in service.seen} == set(rows)


def test_the_service_hears_of_a_future_that_is_cancelled() -> None:
    begun, ended = threading.Event(), threading.Event()

    def wait_for_the_end(context: grpc.ServicerContext) -> None:
        context.add_callback(ended.set)
        begun.set()
        ended.wait(5)

    with scripted_service(wait_for_the_end) as service, Client(service.address, api_key="x") as client:
        future = client.entities.DeleteEntity.future(v1.DeleteEntityRequest())
        assert begun.wait(5)
        began = time.monotonic()
        assert future.cancel()
        assert ended.wait(4)
    assert time.monotonic() - began < 4
    assert future.cancelled()


def test_every_call_has_the_key() -> None:
    script = [None, None, [v1.WatchEntitiesResponse(position="a")]]
    with scripted_service(*script) as service:
        with Client(service.address, api_key="secret", actor="ana", source="crm") as client:
            client.entities.GetEntity(v1.GetEntityRequest(), metadata=[("traceparent", "00-1-2-01")])
            client.entities.GetEntity(v1.GetEntityRequest(), metadata=[("x-actor-id", "eva")])
            with client.watch() as watch:
                next(watch)
    assert [one["authorization"] for one in service.metadata] == ["Bearer secret"] * 3
    assert [one["x-actor-id"] for one in service.metadata] == ["ana", "eva", "ana"]
    assert [one["x-source"] for one in service.metadata] == ["crm"] * 3
    assert service.metadata[0]["traceparent"] == "00-1-2-01"


def messages(*positions: str) -> list[v1.WatchEntitiesResponse]:
    return [v1.WatchEntitiesResponse(position=position) for position in positions]


def test_a_watch_goes_on_from_its_position_whatever_ended_it() -> None:
    slow = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "WATCH_TOO_SLOW")
    late = Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    script = [[*messages("a", "b"), LOST], [OVERLOADED], messages("c"), [*messages("d"), slow], [late], messages("e")]
    with scripted_service(*script) as service, Client(service.address, api_key="x") as client:
        with client.watch(position="start") as watch:
            assert [next(watch).position for _ in range(5)] == ["a", "b", "c", "d", "e"]
            assert watch.position == "e"
    assert [one.position for one in service.seen] == ["start", "b", "b", "c", "d", "d"]


def test_a_watch_that_is_reset_without_a_reason_goes_on() -> None:
    with resetting_service() as (address, requests), Client(address, api_key="x") as client:
        with client.watch(position="start") as watch:
            assert next(watch).position == "a"
    assert [one.position for one in requests] == ["start", "start"]


def test_a_position_that_expired_is_an_error_of_its_own() -> None:
    expired = Refusal(grpc.StatusCode.OUT_OF_RANGE, "POSITION_EXPIRED")
    with scripted_service([*messages("a"), LOST], [expired]) as service, Client(service.address, api_key="x") as client:
        with client.watch(position="start") as watch, pytest.raises(PositionExpired) as caught:
            list(watch)
    assert caught.value.position == "a"
    assert isinstance(caught.value.__cause__, grpc.RpcError)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("UNAUTHENTICATED", "UNAUTHENTICATED"),
        ("INTERNAL", "INTERNAL"),
        ("VALIDATION_ERROR", "INVALID_ARGUMENT"),
        ("", "RESOURCE_EXHAUSTED"),
    ],
)
def test_a_watch_that_is_refused_ends(reason: str, code: str) -> None:
    refused = Refusal(grpc.StatusCode[code], reason)
    with scripted_service([refused]) as service, Client(service.address, api_key="x") as client:
        with client.watch() as watch, pytest.raises(grpc.RpcError):
            next(watch)
    assert len(service.seen) == 1


def test_no_call_fails_while_processes_restart(
    addresses: list[str], api_key: str, person: v1.Entity, restart: Callable[[], None]
) -> None:
    assert_no_call_fails(Driver(addresses, api_key, [person.external_id]), restart)


def test_no_call_fails_and_no_write_is_done_twice_while_the_database_cuts_connections(
    client: Client, addresses: list[str], api_key: str, person: v1.Entity, cut: Callable[[], None]
) -> None:
    def cuts() -> None:
        for _ in range(8):
            time.sleep(0.3)
            cut()

    driver = Driver(addresses, api_key, [person.external_id])
    written = assert_no_call_fails(driver, cuts)
    assert driver.retries, "no call was cut"
    events = client.list_entity_events(v1.ListEntityEventsRequest(lookup=lookup.entity_id(person.id)))
    values = [MessageToDict(event.new_values) for event in events if "attributes" in event.updated_fields]
    assert sorted(int(value["attributes"]["write"]) for value in values) == list(range(written))


def assert_no_call_fails(driver: Driver, disturb: Callable[[], None]) -> int:
    """Calls at 100 a second until `disturb` has ended; answers how many of them were writes."""
    over = threading.Event()
    calls: list[threading.Thread] = []

    def begin_calls() -> None:
        while not over.wait(0.01):
            calls.append(threading.Thread(target=driver.call, args=[len(calls)]))
            calls[-1].start()

    caller = threading.Thread(target=begin_calls)
    caller.start()
    disturb()
    over.set()
    for thread in (caller, *calls):
        thread.join()
    driver.client.close()
    assert len(calls) > 100
    assert driver.errors == {}
    return (len(calls) + 1) // 2
