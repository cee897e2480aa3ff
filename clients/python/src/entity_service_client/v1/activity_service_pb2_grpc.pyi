"""Generated: do not edit."""

from typing import Any

from .. import calls
from . import activity_service_pb2


class ActivityServiceStub:
    """What the entities do: rows that carry the entity's id and a copy of its
    primary external id, which follows the entity's in the same transaction.
    """
    def __init__(self, channel: Any) -> None: ...
    @property
    def RecordTransactions(self) -> calls.UnaryUnary[activity_service_pb2.RecordTransactionsRequest, activity_service_pb2.RecordTransactionsResponse]:
        """Stores up to 1000 transactions, all or none. A party that names no entity of
        the organization refuses the whole list, with its index in the field path.
        Errors: NOT_FOUND, AMBIGUOUS_TAX_ID_LOOKUP, ENTITY_DELETED.
        """
        ...
    @property
    def ListTransactions(self) -> calls.UnaryUnary[activity_service_pb2.ListTransactionsRequest, activity_service_pb2.ListTransactionsResponse]:
        """Lists the transactions of an entity, on either side, newest first.
        """
        ...
    @property
    def RecordUserEvents(self) -> calls.UnaryUnary[activity_service_pb2.RecordUserEventsRequest, activity_service_pb2.RecordUserEventsResponse]:
        """Stores up to 1000 user events, all or none.
        Errors: NOT_FOUND, AMBIGUOUS_TAX_ID_LOOKUP, ENTITY_DELETED.
        """
        ...
    @property
    def ListUserEvents(self) -> calls.UnaryUnary[activity_service_pb2.ListUserEventsRequest, activity_service_pb2.ListUserEventsResponse]:
        """Lists the user events of an entity, newest first.
        """
        ...

class ActivityServiceAsyncStub:
    """What the entities do: rows that carry the entity's id and a copy of its
    primary external id, which follows the entity's in the same transaction.
    """
    def __init__(self, channel: Any) -> None: ...
    @property
    def RecordTransactions(self) -> calls.AsyncUnaryUnary[activity_service_pb2.RecordTransactionsRequest, activity_service_pb2.RecordTransactionsResponse]:
        """Stores up to 1000 transactions, all or none. A party that names no entity of
        the organization refuses the whole list, with its index in the field path.
        Errors: NOT_FOUND, AMBIGUOUS_TAX_ID_LOOKUP, ENTITY_DELETED.
        """
        ...
    @property
    def ListTransactions(self) -> calls.AsyncUnaryUnary[activity_service_pb2.ListTransactionsRequest, activity_service_pb2.ListTransactionsResponse]:
        """Lists the transactions of an entity, on either side, newest first.
        """
        ...
    @property
    def RecordUserEvents(self) -> calls.AsyncUnaryUnary[activity_service_pb2.RecordUserEventsRequest, activity_service_pb2.RecordUserEventsResponse]:
        """Stores up to 1000 user events, all or none.
        Errors: NOT_FOUND, AMBIGUOUS_TAX_ID_LOOKUP, ENTITY_DELETED.
        """
        ...
    @property
    def ListUserEvents(self) -> calls.AsyncUnaryUnary[activity_service_pb2.ListUserEventsRequest, activity_service_pb2.ListUserEventsResponse]:
        """Lists the user events of an entity, newest first.
        """
        ...
