"""The service that the runner (`npm run test:python`) has started, and clients of it."""

from __future__ import annotations

import os
import urllib.request
import uuid
from collections.abc import Callable, Iterator

import pytest

from entity_service_client import Client, v1


@pytest.fixture(scope="session")
def addresses() -> list[str]:
    return os.environ["ENTITY_SERVICE_ADDRESSES"].split(",")


@pytest.fixture(scope="session")
def api_key() -> str:
    return os.environ["ENTITY_SERVICE_API_KEY"]


@pytest.fixture(scope="session")
def client(addresses: list[str], api_key: str) -> Iterator[Client]:
    with Client(addresses, api_key=api_key) as client:
        yield client


@pytest.fixture
def restart() -> Callable[[int], None]:
    """Restarts a process of the service; comes back when it serves again."""

    def run(index: int) -> None:
        url = f"{os.environ['ENTITY_SERVICE_CONTROL']}/restart/{index}"
        urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=60).close()

    return run


@pytest.fixture
def external_id() -> str:
    return f"py-{uuid.uuid4()}"


@pytest.fixture
def person(client: Client, external_id: str) -> v1.Entity:
    return client.entities.CreateEntity(v1.CreateEntityRequest(entity=new_person(external_id))).entity


def new_person(external_id: str, name: str = "Ana Gil") -> v1.Entity:
    return v1.Entity(external_id=external_id, type=v1.ENTITY_TYPE_PERSON, name=name, country_code="AR")
