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
    return os.environ["ENTITY_SERVICE_TARGET"].removeprefix("http://").split(",")


@pytest.fixture(scope="session")
def api_key() -> str:
    return os.environ["ENTITY_SERVICE_API_KEY"]


@pytest.fixture(scope="session")
def client(addresses: list[str], api_key: str) -> Iterator[Client]:
    with Client(addresses, api_key=api_key) as client:
        yield client


@pytest.fixture
def restart() -> Callable[[], None]:
    """Restarts the processes of the service, one after the other; comes back when all serve again."""
    return lambda: _control("restart")


@pytest.fixture
def cut() -> Callable[[], None]:
    """Cuts the service's connections to its database."""
    return lambda: _control("cut")


def _control(act: str) -> None:
    url = f"{os.environ['ENTITY_SERVICE_CONTROL']}/{act}"
    urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=90).close()


@pytest.fixture
def external_id() -> str:
    return f"py-{uuid.uuid4()}"


@pytest.fixture
def person(client: Client, external_id: str) -> v1.Entity:
    return client.entities.CreateEntity(v1.CreateEntityRequest(entity=new_person(external_id))).entity


def new_person(external_id: str, name: str = "Ana Gil") -> v1.Entity:
    return v1.Entity(external_id=external_id, type=v1.ENTITY_TYPE_PERSON, name=name, country_code="AR")
