"""A server that answers as it is told, for what the real service says only now and then; it keeps what it was sent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from entity_service_client import v1

SERVICE = "entity.v1.EntityService"


@dataclass
class Refusal:
    """How an attempt ends: with a reason of the service, or a bare status where there is none."""

    code: grpc.StatusCode
    reason: str = ""
    retry_after_ms: int | None = None

    def end(self, context: Any) -> None:
        trailers: list[tuple[str, str | bytes]] = []
        if self.reason:
            details = [packed(ErrorInfo(reason=self.reason, domain="entity.v1"))]
            if self.retry_after_ms is not None:
                details.append(packed(RetryInfo(retry_delay=Duration(nanos=self.retry_after_ms * 1_000_000))))
            status = Status(code=self.code.value[0], message=self.reason, details=details)
            trailers.append(("grpc-status-details-bin", status.SerializeToString()))
        context.set_trailing_metadata(trailers)
        context.abort(self.code, self.reason)


def packed(message: Any) -> Packed:
    detail = Packed()
    detail.Pack(message)
    return detail


# A refusal or an answer, None an empty one, or what is done before that; for a watch, a list of refusals and answers.
Step = Any


@dataclass
class Scripted:
    """`script` has what becomes of each attempt, in their order."""

    address: str = ""
    script: list[Step] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)

    def unary(self, response: Any, request: Any, context: Any) -> Any:
        step = self._next(request, context)
        if isinstance(step, Refusal):
            step.end(context)
        if callable(step):
            step(context)
        return response() if step is None or callable(step) else step

    def watch(self, request: Any, context: Any) -> Iterator[Any]:
        for step in self._next(request, context):
            if isinstance(step, Refusal):
                step.end(context)
            yield step

    def _next(self, request: Any, context: Any) -> Step:
        self.seen.append(request)
        pairs = context.invocation_metadata()
        self.metadata.append({key: ",".join(str(value) for name, value in pairs if name == key) for key, _ in pairs})
        return self.script.pop(0)


@contextmanager
def scripted_service(
    *script: Step, port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> Iterator[Scripted]:
    served = Scripted(script=list(script))
    handlers: dict[str, Any] = {}
    for method in v1.entity_service_pb2.DESCRIPTOR.services_by_name["EntityService"].methods:
        request, response = (getattr(v1, kind.name) for kind in (method.input_type, method.output_type))
        made, behaviour = (
            (grpc.unary_stream_rpc_method_handler, served.watch)
            if method.server_streaming
            else (grpc.unary_unary_rpc_method_handler, partial(served.unary, response))
        )
        if not method.client_streaming:
            handlers[method.name] = made(behaviour, request.FromString, response.SerializeToString)
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    place = f"127.0.0.1:{port}"
    bound = server.add_secure_port(place, credentials) if credentials else server.add_insecure_port(place)
    served.address = f"127.0.0.1:{bound}"
    server.start()
    try:
        yield served
    finally:
        server.stop(None).wait()
