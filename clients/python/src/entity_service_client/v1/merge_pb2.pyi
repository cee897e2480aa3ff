import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MergeKept(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MERGE_KEPT_UNSPECIFIED: _ClassVar[MergeKept]
    MERGE_KEPT_PRIMARY: _ClassVar[MergeKept]
    MERGE_KEPT_SECONDARY: _ClassVar[MergeKept]
    MERGE_KEPT_BOTH: _ClassVar[MergeKept]

class LostExternalIdCause(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOST_EXTERNAL_ID_CAUSE_UNSPECIFIED: _ClassVar[LostExternalIdCause]
    LOST_EXTERNAL_ID_CAUSE_RELEASED: _ClassVar[LostExternalIdCause]
    LOST_EXTERNAL_ID_CAUSE_TAKEN: _ClassVar[LostExternalIdCause]
MERGE_KEPT_UNSPECIFIED: MergeKept
MERGE_KEPT_PRIMARY: MergeKept
MERGE_KEPT_SECONDARY: MergeKept
MERGE_KEPT_BOTH: MergeKept
LOST_EXTERNAL_ID_CAUSE_UNSPECIFIED: LostExternalIdCause
LOST_EXTERNAL_ID_CAUSE_RELEASED: LostExternalIdCause
LOST_EXTERNAL_ID_CAUSE_TAKEN: LostExternalIdCause

class EntityMerge(_message.Message):
    __slots__ = ("id", "primary_id", "secondary_id", "reason", "actor", "principal", "source", "request_id", "merged_at", "undone_at", "undone_reason", "undone_actor", "undone_principal", "undone_source")
    ID_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_ID_FIELD_NUMBER: _ClassVar[int]
    SECONDARY_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MERGED_AT_FIELD_NUMBER: _ClassVar[int]
    UNDONE_AT_FIELD_NUMBER: _ClassVar[int]
    UNDONE_REASON_FIELD_NUMBER: _ClassVar[int]
    UNDONE_ACTOR_FIELD_NUMBER: _ClassVar[int]
    UNDONE_PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    UNDONE_SOURCE_FIELD_NUMBER: _ClassVar[int]
    id: str
    primary_id: str
    secondary_id: str
    reason: str
    actor: str
    principal: str
    source: str
    request_id: str
    merged_at: _timestamp_pb2.Timestamp
    undone_at: _timestamp_pb2.Timestamp
    undone_reason: str
    undone_actor: str
    undone_principal: str
    undone_source: str
    def __init__(self, id: _Optional[str] = ..., primary_id: _Optional[str] = ..., secondary_id: _Optional[str] = ..., reason: _Optional[str] = ..., actor: _Optional[str] = ..., principal: _Optional[str] = ..., source: _Optional[str] = ..., request_id: _Optional[str] = ..., merged_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., undone_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., undone_reason: _Optional[str] = ..., undone_actor: _Optional[str] = ..., undone_principal: _Optional[str] = ..., undone_source: _Optional[str] = ...) -> None: ...

class MergeConflict(_message.Message):
    __slots__ = ("path", "primary_value", "secondary_value", "kept")
    PATH_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_VALUE_FIELD_NUMBER: _ClassVar[int]
    SECONDARY_VALUE_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    path: str
    primary_value: _struct_pb2.Value
    secondary_value: _struct_pb2.Value
    kept: MergeKept
    def __init__(self, path: _Optional[str] = ..., primary_value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., secondary_value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., kept: _Optional[_Union[MergeKept, str]] = ...) -> None: ...

class UnmergeKept(_message.Message):
    __slots__ = ("path", "survivor_value", "secondary_value")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SURVIVOR_VALUE_FIELD_NUMBER: _ClassVar[int]
    SECONDARY_VALUE_FIELD_NUMBER: _ClassVar[int]
    path: str
    survivor_value: _struct_pb2.Value
    secondary_value: _struct_pb2.Value
    def __init__(self, path: _Optional[str] = ..., survivor_value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., secondary_value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...

class LostExternalId(_message.Message):
    __slots__ = ("external_id", "cause")
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    external_id: str
    cause: LostExternalIdCause
    def __init__(self, external_id: _Optional[str] = ..., cause: _Optional[_Union[LostExternalIdCause, str]] = ...) -> None: ...

class MergedRows(_message.Message):
    __slots__ = ("transactions", "user_events")
    TRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    USER_EVENTS_FIELD_NUMBER: _ClassVar[int]
    transactions: int
    user_events: int
    def __init__(self, transactions: _Optional[int] = ..., user_events: _Optional[int] = ...) -> None: ...

class DistinctPair(_message.Message):
    __slots__ = ("id", "first_id", "second_id", "marked_at", "lifted_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_ID_FIELD_NUMBER: _ClassVar[int]
    SECOND_ID_FIELD_NUMBER: _ClassVar[int]
    MARKED_AT_FIELD_NUMBER: _ClassVar[int]
    LIFTED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    first_id: str
    second_id: str
    marked_at: _timestamp_pb2.Timestamp
    lifted_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., first_id: _Optional[str] = ..., second_id: _Optional[str] = ..., marked_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., lifted_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
