"""The README, as it stands but for the address: its commands and its programs say what it says they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from entity_service_client import Client, lookup, v1

HERE = Path(__file__).resolve().parent
CLIENT = HERE.parent
ADDRESS = "127.0.0.1:50051"
README = (CLIENT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def told(program: str) -> list[str]:
    """What the comments behind `print` say."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", program, re.MULTILINE)


@pytest.fixture
def place(tmp_path: Path, addresses: list[str], api_key: str) -> Path:
    """A folder, and a clone whose service has made its key."""
    (tmp_path / "clone/clients").mkdir(parents=True)
    (tmp_path / "clone/clients/python").symlink_to(CLIENT)
    (tmp_path / "clone/.data").mkdir()
    (tmp_path / "clone/.data/bootstrap-key").write_text(api_key)
    (tmp_path / "own").mkdir()
    return tmp_path


def test_the_first_call_is_answered_in_a_folder_of_its_own(place: Path, addresses: list[str]) -> None:
    first = blocks("python")[0]
    (place / "own/first.py").write_text(first.replace(ADDRESS, addresses[0]))
    lines = [line for block in blocks("console") for line in block.splitlines()]
    commands = "\n".join(line.removeprefix("$ ") for line in lines if line.startswith("$ "))
    env = {**os.environ, "ENTITY_SERVICE": str(place / "clone"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    del env["ENTITY_SERVICE_API_KEY"]
    ran = subprocess.run(
        ["bash", "-e", "-c", commands], cwd=place / "own", env=env, capture_output=True, text=True, timeout=240
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == [line for line in lines if not line.startswith("$ ")] == told(first)


def test_all_programs_together_say_what_their_comments_say(place: Path, addresses: list[str]) -> None:
    program = "\n".join(blocks("python"))
    expected = told(program)
    assert len(expected) >= 12
    assert len(expected) == program.count("print("), "a print without a comment"
    (place / "own/all.py").write_text(program.replace(ADDRESS, addresses[0]), encoding="utf-8")
    command = [sys.executable, "-W", "error", "all.py"]
    ran = subprocess.run(command, cwd=place / "own", capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == expected


def test_every_block_is_run(place: Path) -> None:
    fences = re.findall(r"^```(\w+)$", README, re.MULTILINE)
    assert set(fences) == {"console", "python"}
    assert len(fences) == len(blocks("console")) + len(blocks("python"))


def lines_of(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line.rstrip("\n")


def test_the_example_keeps_a_copy_and_goes_on_where_it_was(
    client: Client, addresses: list[str], person: v1.Entity, tmp_path: Path
) -> None:
    command = [sys.executable, "-W", "error", str(CLIENT / "examples/keep_copy.py"), addresses[0], "copy.sqlite"]

    def rename(name: str) -> None:
        key = lookup.entity_id(person.id)
        client.entities.UpdateEntity(v1.UpdateEntityRequest(lookup=key, entity=v1.Entity(name=name)))

    for run, expected in enumerate((["listed", "entity.updated"], ["entity.updated", "entity.updated"])):
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
            try:
                said = lines_of(process)
                first = next(said)
                rename(f"Eva {run}")
                assert [line.split(" ")[0] for line in (first, next(said))] == expected
            finally:
                process.kill()
        rename(f"Ida {run}")
