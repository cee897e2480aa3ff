from . import activity_pb2 as _activity_pb2
from . import entity_pb2 as _entity_pb2
from . import options_pb2 as _options_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RecordOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECORD_OUTCOME_UNSPECIFIED: _ClassVar[RecordOutcome]
    RECORD_OUTCOME_CREATED: _ClassVar[RecordOutcome]
    RECORD_OUTCOME_UNCHANGED: _ClassVar[RecordOutcome]
RECORD_OUTCOME_UNSPECIFIED: RecordOutcome
RECORD_OUTCOME_CREATED: RecordOutcome
RECORD_OUTCOME_UNCHANGED: RecordOutcome

class RecordTransactionsRequest(_message.Message):
    __slots__ = ("transactions", "request_id", "validate_only")
    TRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    transactions: _containers.RepeatedCompositeFieldContainer[_activity_pb2.Transaction]
    request_id: str
    validate_only: bool
    def __init__(self, transactions: _Optional[_Iterable[_Union[_activity_pb2.Transaction, _Mapping]]] = ..., request_id: _Optional[str] = ..., validate_only: bool = ...) -> None: ...

class RecordTransactionsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RecordTransactionsResult]
    def __init__(self, results: _Optional[_Iterable[_Union[RecordTransactionsResult, _Mapping]]] = ...) -> None: ...

class RecordTransactionsResult(_message.Message):
    __slots__ = ("transaction", "outcome")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    transaction: _activity_pb2.Transaction
    outcome: RecordOutcome
    def __init__(self, transaction: _Optional[_Union[_activity_pb2.Transaction, _Mapping]] = ..., outcome: _Optional[_Union[RecordOutcome, str]] = ...) -> None: ...

class ListTransactionsRequest(_message.Message):
    __slots__ = ("lookup", "page_size", "page_token")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    page_size: int
    page_token: str
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTransactionsResponse(_message.Message):
    __slots__ = ("transactions", "next_page_token")
    TRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    transactions: _containers.RepeatedCompositeFieldContainer[_activity_pb2.Transaction]
    next_page_token: str
    def __init__(self, transactions: _Optional[_Iterable[_Union[_activity_pb2.Transaction, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RecordUserEventsRequest(_message.Message):
    __slots__ = ("user_events", "request_id", "validate_only")
    USER_EVENTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    user_events: _containers.RepeatedCompositeFieldContainer[_activity_pb2.UserEvent]
    request_id: str
    validate_only: bool
    def __init__(self, user_events: _Optional[_Iterable[_Union[_activity_pb2.UserEvent, _Mapping]]] = ..., request_id: _Optional[str] = ..., validate_only: bool = ...) -> None: ...

class RecordUserEventsResponse(_message.Message):
    __slots__ = ("user_events",)
    USER_EVENTS_FIELD_NUMBER: _ClassVar[int]
    user_events: _containers.RepeatedCompositeFieldContainer[_activity_pb2.UserEvent]
    def __init__(self, user_events: _Optional[_Iterable[_Union[_activity_pb2.UserEvent, _Mapping]]] = ...) -> None: ...

class ListUserEventsRequest(_message.Message):
    __slots__ = ("lookup", "page_size", "page_token")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    page_size: int
    page_token: str
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListUserEventsResponse(_message.Message):
    __slots__ = ("user_events", "next_page_token")
    USER_EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    user_events: _containers.RepeatedCompositeFieldContainer[_activity_pb2.UserEvent]
    next_page_token: str
    def __init__(self, user_events: _Optional[_Iterable[_Union[_activity_pb2.UserEvent, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
