"""The driver of the Python client for test/clients/restarts.ts, whose protocol is described there: calls as an application
would, at a fixed rate, and reports what it had to see."""

from __future__ import annotations

import collections
import json
import sys
import threading
import time

import grpc

from entity_service_client import Client, Retry, error_of, lookup, v1


class Driver:
    def __init__(self, addresses: list[str], api_key: str, entities: list[str]) -> None:
        self.client = Client(addresses, api_key=api_key, on_retry=self.on_retry)
        self.entities = entities
        self.lock = threading.Lock()
        self.errors: collections.Counter[str] = collections.Counter()
        self.retries: collections.Counter[str] = collections.Counter()
        self.slowest = 0.0

    def on_retry(self, retry: Retry) -> None:
        with self.lock:
            self.retries[why(retry.error)] += 1

    def call(self, index: int) -> None:
        began = time.monotonic()
        try:
            self.write(index // 2) if index % 2 == 0 else self.read(index // 2)
        except grpc.RpcError as error:
            with self.lock:
                self.errors[why(error)] += 1
        with self.lock:
            self.slowest = max(self.slowest, time.monotonic() - began)

    def write(self, n: int) -> None:
        entity = v1.Entity()
        entity.attributes["write"] = str(n)
        request = v1.UpdateEntityRequest(lookup=self.named(n), entity=entity)
        self.client.entities.UpdateEntity(request)

    def read(self, n: int) -> None:
        self.client.entities.GetEntity(v1.GetEntityRequest(lookup=self.named(n)))

    def named(self, n: int) -> v1.EntityLookup:
        return lookup.external_id(self.entities[n % len(self.entities)])


def why(error: grpc.RpcError) -> str:
    refusal = error_of(error)
    return refusal.reason or f"{refusal.code.name} {refusal.message}"


def main() -> None:
    config = json.loads(sys.stdin.readline())
    driver = Driver(config["addresses"], config["apiKey"], config["entities"])
    threads = []
    began = time.monotonic()
    for index in range(round(config["rate"] * config["seconds"])):
        time.sleep(max(0.0, began + index / config["rate"] - time.monotonic()))
        # One for each call: it begins at its time, whether those before it have ended or not.
        threads.append(threading.Thread(target=driver.call, args=[index]))
        threads[-1].start()
    for thread in threads:
        thread.join()
    report = {
        "sent": len(threads),
        "writes": (len(threads) + 1) // 2,
        "failed": driver.errors.total(),
        # Without the reads that gRPC sent again: it does not tell.
        "retried": driver.retries.total(),
        "errors": driver.errors,
        "retries": driver.retries,
        "maxMs": round(driver.slowest * 1000),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
