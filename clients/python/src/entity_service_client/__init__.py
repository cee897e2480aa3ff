"""The client of EntityService: persons and companies over gRPC."""

from . import lookup, v1
from .client import Client
from .errors import EntityError, FieldViolation, PositionExpired, error_of, is_reason
from .pages import pages
from .retry import Retry
from .v1.reasons import Reason
from .watch import Watch

__all__ = [
    "Client",
    "EntityError",
    "FieldViolation",
    "PositionExpired",
    "Reason",
    "Retry",
    "Watch",
    "error_of",
    "is_reason",
    "lookup",
    "pages",
    "v1",
]
