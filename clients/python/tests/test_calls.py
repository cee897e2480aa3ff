"""Calls with one answer: values, details of errors, deadlines, cancellation."""

from __future__ import annotations

import concurrent.futures
import pickle
import time

import grpc
import pytest
from conftest import new_person

from entity_service_client import Client, FieldViolation, error_of, is_reason, lookup, pages, v1


def test_an_entity_is_answered_by_each_of_its_keys(client: Client, external_id: str) -> None:
    created = client.entities.CreateEntity(
        v1.CreateEntityRequest(
            entity=v1.Entity(
                external_id=external_id,
                type=v1.ENTITY_TYPE_COMPANY,
                name="Acme",
                country_code="AR",
                tax_id=f"T-{external_id}",
            )
        )
    ).entity
    for key in (lookup.external_id(external_id), lookup.entity_id(created.id), lookup.tax_id(created.tax_id)):
        assert client.entities.GetEntity(v1.GetEntityRequest(lookup=key)).entity == created


def test_every_service_is_there(client: Client, person: v1.Entity) -> None:
    key = lookup.entity_id(person.id)
    assert not client.activity.ListTransactions(v1.ListTransactionsRequest(lookup=key)).transactions
    assert client.organizations.ListOrganizations(v1.ListOrganizationsRequest()).organizations
    assert not client.risk_matrices.ListRiskMatrices(v1.ListRiskMatricesRequest()).matrices
    assert not client.webhooks.ListWebhookEndpoints(v1.ListWebhookEndpointsRequest()).endpoints


def test_an_event_has_the_actor_and_the_source_of_the_client(client: Client, person: v1.Entity) -> None:
    theirs = client.on_behalf_of("ana@example.com", source="backoffice")
    request = v1.UpdateEntityRequest(lookup=lookup.entity_id(person.id), entity=v1.Entity(name="Ana"))
    theirs.entities.UpdateEntity(request)
    request.entity.name = "Ana María"
    theirs.entities.UpdateEntity(request, metadata=[("x-actor-id", "eva@example.com")])
    events = client.list_entity_events(v1.ListEntityEventsRequest(lookup=lookup.entity_id(person.id)))
    assert [(event.actor, event.source) for event in events][:2] == [
        ("eva@example.com", "backoffice"),
        ("ana@example.com", "backoffice"),
    ]


def test_an_error_has_reason_metadata_and_the_fields_at_fault(client: Client, person: v1.Entity) -> None:
    request = v1.UpdateEntityRequest(
        lookup=lookup.entity_id(person.id), entity=v1.Entity(status=v1.ENTITY_STATUS_BLOCKED)
    )
    with pytest.raises(grpc.RpcError) as caught:
        client.entities.UpdateEntity(request)
    refusal = error_of(caught.value)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.reason == "STATUS_REASON_REQUIRED"
    assert refusal.metadata == {"field": "reason", "status": "blocked"}
    assert refusal.violations == (
        FieldViolation("reason", "is required to change the status to blocked"),
    )
    assert is_reason(caught.value, "STATUS_REASON_REQUIRED")
    assert not is_reason(caught.value, "NOT_FOUND", "VALIDATION_ERROR")


def test_the_error_of_an_item_is_read_likewise(client: Client, person: v1.Entity) -> None:
    lookups = [lookup.entity_id(person.id), lookup.external_id("nobody")]
    results = client.entities.BatchGetEntities(v1.BatchGetEntitiesRequest(lookups=lookups)).results
    assert results[0].entity == person
    assert is_reason(results[1].error, "NOT_FOUND")
    assert error_of(results[1].error).code is grpc.StatusCode.NOT_FOUND
    assert error_of(results[1].error).metadata == {"lookup": "external_id"}


def test_what_the_service_did_not_say_has_no_reason(client: Client) -> None:
    assert error_of(ValueError("x")).reason == ""
    assert not is_reason(None, "NOT_FOUND")
    with pytest.raises(ValueError, match="no reason of the service: NOT_FUOND"):
        is_reason(ValueError("x"), "NOT_FUOND")  # type: ignore[arg-type]


def test_a_key_that_nobody_knows_is_refused_and_not_shown(addresses: list[str]) -> None:
    with Client(addresses, api_key="wrong-key") as client, pytest.raises(grpc.RpcError) as caught:
        client.entities.ListEntities(v1.ListEntitiesRequest())
    assert is_reason(caught.value, "UNAUTHENTICATED")
    assert "wrong-key" not in repr(caught.value)
    assert "wrong-key" not in repr(client._settings)


def test_all_pages_of_a_list_come_one_after_the_other(client: Client, external_id: str) -> None:
    names = [f"{external_id} {number}" for number in range(7)]
    for number, name in enumerate(names):
        client.entities.CreateEntity(v1.CreateEntityRequest(entity=new_person(f"{external_id}-{number}", name)))
    request = v1.ListEntitiesRequest(name_prefix=external_id, page_size=3)
    listed = list(pages(client.entities.ListEntities, request))
    assert [len(page.entities) for page in listed] == [3, 3, 1]
    assert len({page.watch_position for page in listed}) == 1
    assert sorted(entity.name for entity in client.list_entities(request)) == names
    assert request.page_token == ""


def test_a_page_larger_than_what_grpc_takes_by_default_arrives(client: Client, external_id: str) -> None:
    notes = ["x" * 4_000] * 14
    requests = []
    for number in range(70):
        entity = new_person(f"{external_id}-{number}", f"{external_id} {number}")
        entity.attributes["notes"] = notes
        requests.append(
            v1.UpdateEntityRequest(
                lookup=lookup.external_id(entity.external_id), entity=entity, allow_missing=True
            )
        )
    client.entities.BatchUpdateEntities(v1.BatchUpdateEntitiesRequest(requests=requests))
    request = v1.ListEntitiesRequest(name_prefix=external_id, page_size=1000)
    listed = list(pages(client.entities.ListEntities, request))
    assert sum(len(page.entities) for page in listed) == 70
    assert len(listed) > 1


def test_a_deadline_ends_a_call(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.entities.ListEntities(v1.ListEntitiesRequest(), timeout=0.000_1)
    assert error_of(caught.value).code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_without_a_service_a_call_ends_at_its_deadline_and_says_why() -> None:
    began = time.monotonic()
    with Client("127.0.0.1:1", api_key="x", timeout=0.5) as client, pytest.raises(grpc.RpcError) as caught:
        client.entities.DeleteEntity(v1.DeleteEntityRequest())
    assert time.monotonic() - began < 1.5
    told = [error_of(error).message for error in (caught.value, caught.value.__cause__) if error is not None]
    assert "Connection refused" in " ".join(told)


def test_a_call_that_is_under_way_is_cancelled(client: Client, external_id: str) -> None:
    future = client.entities.CreateEntity.future(v1.CreateEntityRequest(entity=new_person(external_id)))
    assert future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(timeout=5)


def test_the_answer_of_a_future_comes(client: Client, person: v1.Entity) -> None:
    request = v1.GetEntityRequest(lookup=lookup.entity_id(person.id))
    futures = [client.entities.GetEntity.future(request) for _ in range(20)]
    assert all(future.result(timeout=10).entity == person for future in futures)
    missing = client.entities.GetEntity.future(v1.GetEntityRequest(lookup=lookup.external_id("nobody")))
    assert is_reason(missing.exception(timeout=10), "NOT_FOUND")


def test_messages_are_at_home_in_the_package(person: v1.Entity) -> None:
    assert pickle.loads(pickle.dumps(person)) == person
    assert v1.Entity.__module__ == "entity_service_client.v1.entity_pb2"
    with pytest.raises(ImportError):
        import entity  # type: ignore[import-not-found]  # noqa: F401
