"""What the service says of a refusal, out of an exception or out of an item of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import grpc
from google.rpc import error_details_pb2, status_pb2

from .v1.reasons import Reason

_DOMAIN = "entity.v1"
_DETAILS = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class FieldViolation:
    """A field at fault, as a path of the request, and what is wrong with it."""

    field: str
    description: str


@dataclass(frozen=True)
class EntityError:
    """A refusal as the contract describes it. Holds no value of the request."""

    code: grpc.StatusCode
    message: str
    # A stable word to branch on, such as "DUPLICATE_EXTERNAL_ID". Empty where it is no answer of the service: the
    # connection could not be had, the deadline passed here, or it is no error of a call.
    reason: str = ""
    # What to do about it, such as the current etag or the missing scope.
    metadata: Mapping[str, str] = field(default_factory=dict)
    # Empty when no field is at fault.
    violations: tuple[FieldViolation, ...] = ()
    # After so many seconds a retry makes sense, where the service says so.
    retry_after: float | None = None


class PositionExpired(Exception):
    """The events behind the position of a watch are no longer all there. List again, then watch from its position."""

    def __init__(self, position: str) -> None:
        super().__init__(
            "the events behind the position are no longer all there: "
            "list again, then watch from the watch_position of the list"
        )
        self.position = position


def error_of(error: object) -> EntityError:
    """The refusal in what a call raised, or in the `error` of a result of BatchGetEntities or ImportEntities."""
    if isinstance(error, status_pb2.Status):
        return _from_status(error)
    if not isinstance(error, grpc.RpcError) or not hasattr(error, "code"):
        return EntityError(grpc.StatusCode.UNKNOWN, str(error))
    code, message = error.code(), error.details() or ""
    trailers: Any = error.trailing_metadata() or ()
    for key, value in trailers:
        if key == _DETAILS:
            return _from_status(status_pb2.Status.FromString(value))
    return EntityError(code, message)


def is_reason(error: object, *reasons: Reason) -> bool:
    """Whether the service refused for one of the reasons: `is_reason(error, "NOT_FOUND")`."""
    unknown = set(reasons) - set(get_args(Reason))
    if unknown:
        raise ValueError(f"no reason of the service: {', '.join(sorted(unknown))}")
    return error_of(error).reason in reasons


def _from_status(status: status_pb2.Status) -> EntityError:
    reason, metadata, violations, retry_after = "", {}, [], None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            if info.domain == _DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            for one in error_details_pb2.BadRequest.FromString(detail.value).field_violations:
                violations.append(FieldViolation(one.field, one.description))
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after = delay.seconds + delay.nanos / 1e9
    if retry_after is None and metadata.get("retry_after_ms", "").isdecimal():
        retry_after = int(metadata["retry_after_ms"]) / 1000
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return EntityError(code, status.message, reason, metadata, tuple(violations), retry_after)
