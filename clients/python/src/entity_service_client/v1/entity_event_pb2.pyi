import datetime

from . import entity_pb2 as _entity_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_TYPE_UNSPECIFIED: _ClassVar[EventType]
    EVENT_TYPE_CREATED: _ClassVar[EventType]
    EVENT_TYPE_ATTRIBUTE_CHANGED: _ClassVar[EventType]
    EVENT_TYPE_EXTERNAL_ID_CHANGED: _ClassVar[EventType]
    EVENT_TYPE_DELETED: _ClassVar[EventType]
    EVENT_TYPE_UNDELETED: _ClassVar[EventType]
    EVENT_TYPE_MERGED: _ClassVar[EventType]
    EVENT_TYPE_MERGE_RECEIVED: _ClassVar[EventType]
    EVENT_TYPE_UNMERGED: _ClassVar[EventType]
    EVENT_TYPE_MERGE_RETURNED: _ClassVar[EventType]
    EVENT_TYPE_DISTINCT_MARKED: _ClassVar[EventType]
    EVENT_TYPE_DISTINCT_LIFTED: _ClassVar[EventType]
    EVENT_TYPE_EVALUATED: _ClassVar[EventType]
EVENT_TYPE_UNSPECIFIED: EventType
EVENT_TYPE_CREATED: EventType
EVENT_TYPE_ATTRIBUTE_CHANGED: EventType
EVENT_TYPE_EXTERNAL_ID_CHANGED: EventType
EVENT_TYPE_DELETED: EventType
EVENT_TYPE_UNDELETED: EventType
EVENT_TYPE_MERGED: EventType
EVENT_TYPE_MERGE_RECEIVED: EventType
EVENT_TYPE_UNMERGED: EventType
EVENT_TYPE_MERGE_RETURNED: EventType
EVENT_TYPE_DISTINCT_MARKED: EventType
EVENT_TYPE_DISTINCT_LIFTED: EventType
EVENT_TYPE_EVALUATED: EventType

class EntityEvent(_message.Message):
    __slots__ = ("id", "entity_id", "entity_version", "entity_type", "external_id", "external_ids", "type", "event", "updated_fields", "previous_values", "new_values", "actor", "principal", "source", "reason", "request_id", "metadata", "recorded_at", "occurred_at", "salt", "previous_hash", "hash")
    ID_FIELD_NUMBER: _ClassVar[int]
    ENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    ENTITY_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENTITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_IDS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_VALUES_FIELD_NUMBER: _ClassVar[int]
    NEW_VALUES_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AT_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_HASH_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    id: str
    entity_id: str
    entity_version: int
    entity_type: _entity_pb2.EntityType
    external_id: str
    external_ids: _containers.RepeatedScalarFieldContainer[str]
    type: EventType
    event: str
    updated_fields: _containers.RepeatedScalarFieldContainer[str]
    previous_values: _struct_pb2.Struct
    new_values: _struct_pb2.Struct
    actor: str
    principal: str
    source: str
    reason: str
    request_id: str
    metadata: _struct_pb2.Struct
    recorded_at: _timestamp_pb2.Timestamp
    occurred_at: _timestamp_pb2.Timestamp
    salt: bytes
    previous_hash: bytes
    hash: bytes
    def __init__(self, id: _Optional[str] = ..., entity_id: _Optional[str] = ..., entity_version: _Optional[int] = ..., entity_type: _Optional[_Union[_entity_pb2.EntityType, str]] = ..., external_id: _Optional[str] = ..., external_ids: _Optional[_Iterable[str]] = ..., type: _Optional[_Union[EventType, str]] = ..., event: _Optional[str] = ..., updated_fields: _Optional[_Iterable[str]] = ..., previous_values: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., new_values: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., actor: _Optional[str] = ..., principal: _Optional[str] = ..., source: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., recorded_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., salt: _Optional[bytes] = ..., previous_hash: _Optional[bytes] = ..., hash: _Optional[bytes] = ...) -> None: ...
