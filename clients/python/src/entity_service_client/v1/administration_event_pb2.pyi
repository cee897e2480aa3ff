import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AdministrationEventType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ADMINISTRATION_EVENT_TYPE_UNSPECIFIED: _ClassVar[AdministrationEventType]
    ADMINISTRATION_EVENT_TYPE_ORGANIZATION_CREATED: _ClassVar[AdministrationEventType]
    ADMINISTRATION_EVENT_TYPE_ORGANIZATION_UPDATED: _ClassVar[AdministrationEventType]
    ADMINISTRATION_EVENT_TYPE_API_KEY_CREATED: _ClassVar[AdministrationEventType]
    ADMINISTRATION_EVENT_TYPE_API_KEY_REVOKED: _ClassVar[AdministrationEventType]
    ADMINISTRATION_EVENT_TYPE_WEBHOOK_ENDPOINT_CREATED: _ClassVar[AdministrationEventType]
    ADMINISTRATION_EVENT_TYPE_WEBHOOK_ENDPOINT_UPDATED: _ClassVar[AdministrationEventType]
    ADMINISTRATION_EVENT_TYPE_WEBHOOK_ENDPOINT_DELETED: _ClassVar[AdministrationEventType]
    ADMINISTRATION_EVENT_TYPE_WEBHOOK_SECRET_ROTATED: _ClassVar[AdministrationEventType]
    ADMINISTRATION_EVENT_TYPE_WEBHOOK_DELIVERIES_REPLAYED: _ClassVar[AdministrationEventType]
    ADMINISTRATION_EVENT_TYPE_RISK_MATRIX_CREATED: _ClassVar[AdministrationEventType]
    ADMINISTRATION_EVENT_TYPE_RISK_MATRIX_UPDATED: _ClassVar[AdministrationEventType]
    ADMINISTRATION_EVENT_TYPE_RISK_MATRIX_DELETED: _ClassVar[AdministrationEventType]
ADMINISTRATION_EVENT_TYPE_UNSPECIFIED: AdministrationEventType
ADMINISTRATION_EVENT_TYPE_ORGANIZATION_CREATED: AdministrationEventType
ADMINISTRATION_EVENT_TYPE_ORGANIZATION_UPDATED: AdministrationEventType
ADMINISTRATION_EVENT_TYPE_API_KEY_CREATED: AdministrationEventType
ADMINISTRATION_EVENT_TYPE_API_KEY_REVOKED: AdministrationEventType
ADMINISTRATION_EVENT_TYPE_WEBHOOK_ENDPOINT_CREATED: AdministrationEventType
ADMINISTRATION_EVENT_TYPE_WEBHOOK_ENDPOINT_UPDATED: AdministrationEventType
ADMINISTRATION_EVENT_TYPE_WEBHOOK_ENDPOINT_DELETED: AdministrationEventType
ADMINISTRATION_EVENT_TYPE_WEBHOOK_SECRET_ROTATED: AdministrationEventType
ADMINISTRATION_EVENT_TYPE_WEBHOOK_DELIVERIES_REPLAYED: AdministrationEventType
ADMINISTRATION_EVENT_TYPE_RISK_MATRIX_CREATED: AdministrationEventType
ADMINISTRATION_EVENT_TYPE_RISK_MATRIX_UPDATED: AdministrationEventType
ADMINISTRATION_EVENT_TYPE_RISK_MATRIX_DELETED: AdministrationEventType

class AdministrationEvent(_message.Message):
    __slots__ = ("id", "organization_id", "type", "subject_id", "previous_values", "new_values", "actor", "principal", "source", "request_id", "call_id", "peer", "recorded_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_VALUES_FIELD_NUMBER: _ClassVar[int]
    NEW_VALUES_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    organization_id: str
    type: AdministrationEventType
    subject_id: str
    previous_values: _struct_pb2.Struct
    new_values: _struct_pb2.Struct
    actor: str
    principal: str
    source: str
    request_id: str
    call_id: str
    peer: str
    recorded_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., organization_id: _Optional[str] = ..., type: _Optional[_Union[AdministrationEventType, str]] = ..., subject_id: _Optional[str] = ..., previous_values: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., new_values: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., actor: _Optional[str] = ..., principal: _Optional[str] = ..., source: _Optional[str] = ..., request_id: _Optional[str] = ..., call_id: _Optional[str] = ..., peer: _Optional[str] = ..., recorded_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
