"""Calls with one answer: values, details of errors, deadlines, cancellation, and what is sent again."""

from __future__ import annotations

from entity_service_client import Client, error_of, is_reason, lookup, v1
import grpc
import pytest


def test_a_call_answers_an_entity_by_each_of_its_keys(client: Client, person: v1.Entity) -> None:
    for key in (lookup.external_id(person.external_id), lookup.entity_id(person.id)):
        assert client.entities.GetEntity(v1.GetEntityRequest(lookup=key)).entity.name == "Ana Gil"
