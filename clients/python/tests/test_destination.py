"""Where a client goes, and whether the way is encrypted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import grpc
import pytest
from scripted import scripted_service

from entity_service_client import Client, v1
from entity_service_client.destination import destination


@pytest.mark.parametrize(
    "address", ["127.0.0.1:50051", "localhost:50051", "[::1]:50051", "http://entities:50051", "unix:/run/entities"]
)
def test_this_machine_and_http_are_plaintext(address: str) -> None:
    assert destination(address).credentials is None


@pytest.mark.parametrize(
    "address",
    ["entities:50051", "10.0.0.7:50051", "https://127.0.0.1:50051", "dns:///entities:50051", "127.0.0.1.example:1"],
)
def test_a_key_goes_through_a_network_encrypted(address: str) -> None:
    assert destination(address).credentials is not None


def test_a_call_over_tls_is_answered_where_its_authority_is_trusted(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=entities"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    pem = certificate.read_bytes()
    served = grpc.ssl_server_credentials([(key.read_bytes(), pem)])
    with scripted_service(None, credentials=served) as service:
        with Client(service.address, api_key="x", tls=grpc.ssl_channel_credentials(pem)) as client:
            client.entities.DeleteEntity(v1.DeleteEntityRequest())
        with Client(f"https://{service.address}", api_key="x", timeout=0.5) as client:
            with pytest.raises(grpc.RpcError, match="CERTIFICATE_VERIFY_FAILED"):
                client.entities.DeleteEntity(v1.DeleteEntityRequest())
    assert len(service.seen) == 1


def test_plaintext_must_be_asked_for_and_credentials_may_be_given() -> None:
    assert destination("entities:50051", tls=False).credentials is None
    own = grpc.ssl_channel_credentials(root_certificates=b"")
    assert destination("127.0.0.1:50051", tls=own).credentials is own


def test_one_address_stays_and_several_are_taken_in_turn() -> None:
    assert destination("https://entities:443/").target == "entities:443"
    several = destination(["127.0.0.1:1", "127.0.0.1:2"])
    assert destination("http://127.0.0.1:1,127.0.0.1:2") == several
    assert several.target == "ipv4:127.0.0.1:1,127.0.0.1:2"
    assert ("grpc.default_authority", "127.0.0.1:1") in several.options
    assert destination(["[::1]:1", "[::1]:2"]).target == "ipv6:[::1]:1,[::1]:2"


@pytest.mark.parametrize(
    "addresses",
    [
        [],
        ["a:1", "b:2"],
        ["127.0.0.1:1", "[::1]:1"],
        ["http://127.0.0.1:1", "https://127.0.0.1:2"],
        ["127.0.0.1"],
        ["entities"],
    ],
)
def test_what_cannot_be_one_destination_is_refused(addresses: list[str]) -> None:
    with pytest.raises(ValueError, match="address: "):
        destination(addresses)


def test_options_of_the_caller_come_last_and_win() -> None:
    assert destination("localhost:1", options=[("grpc.keepalive_time_ms", 5)]).options[-1] == (
        "grpc.keepalive_time_ms",
        5,
    )
