"""Keeps a copy of all entities in a SQLite file, and prints what happens to them.

    ENTITY_SERVICE_API_KEY=... python keep_copy.py 127.0.0.1:50051 copy.sqlite

Lists once, then watches. The position is stored in the transaction of the change that it is behind, so that stopping
the program at any moment, or losing the service or the connection, loses no change and does none twice.
"""

from __future__ import annotations

import os
import sqlite3
import sys

import grpc

from entity_service_client import Client, PositionExpired, is_reason, lookup, pages, v1


def main(address: str, file: str) -> None:
    copy = sqlite3.connect(file)
    copy.execute("create table if not exists entity (id text primary key, message blob)")
    copy.execute("create table if not exists watch (one integer primary key check (one = 1), position text)")
    with Client(address, api_key=os.environ["ENTITY_SERVICE_API_KEY"], source="keep_copy") as client:
        while True:
            try:
                follow(client, copy)
            except PositionExpired:
                list_again(client, copy)


def follow(client: Client, copy: sqlite3.Connection) -> None:
    row = copy.execute("select position from watch").fetchone()
    if row is None:
        list_again(client, copy)
        row = copy.execute("select position from watch").fetchone()
    with client.watch(position=row[0]) as watch:
        for message in watch:
            with copy:
                if message.HasField("event"):
                    apply(client, copy, message.event)
                store(copy, message.position)


def list_again(client: Client, copy: sqlite3.Connection) -> None:
    """A copy from nothing. Changes that are made meanwhile come again from the position of the first page."""
    position = ""
    with copy:
        copy.execute("delete from entity")
        for page in pages(client.entities.ListEntities, v1.ListEntitiesRequest(page_size=1000)):
            position = page.watch_position
            for entity in page.entities:
                keep(copy, entity)
        store(copy, position)
    print("listed", copy.execute("select count(*) from entity").fetchone()[0], flush=True)


def apply(client: Client, copy: sqlite3.Connection, event: v1.EntityEvent) -> None:
    """Reads the entity again: as it is now, whatever event this is and however often it comes."""
    try:
        request = v1.GetEntityRequest(lookup=lookup.entity_id(event.entity_id))
        entity = client.entities.GetEntity(request).entity
    except grpc.RpcError as error:
        if not is_reason(error, "NOT_FOUND"):
            raise
        entity = None
    # A merged entity is answered by its survivor, which has an event of its own.
    if entity is None or entity.id != event.entity_id or entity.HasField("deleted_at"):
        copy.execute("delete from entity where id = ?", [event.entity_id])
    else:
        keep(copy, entity)
    print(event.event, event.entity_id, *event.updated_fields, flush=True)


def keep(copy: sqlite3.Connection, entity: v1.Entity) -> None:
    copy.execute("insert or replace into entity values (?, ?)", [entity.id, entity.SerializeToString()])


def store(copy: sqlite3.Connection, position: str) -> None:
    copy.execute("insert or replace into watch values (1, ?)", [position])


if __name__ == "__main__":
    main(*sys.argv[1:])
