import datetime

from . import options_pb2 as _options_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EntityType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENTITY_TYPE_UNSPECIFIED: _ClassVar[EntityType]
    ENTITY_TYPE_PERSON: _ClassVar[EntityType]
    ENTITY_TYPE_COMPANY: _ClassVar[EntityType]

class EntityStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENTITY_STATUS_UNSPECIFIED: _ClassVar[EntityStatus]
    ENTITY_STATUS_PENDING: _ClassVar[EntityStatus]
    ENTITY_STATUS_UNDER_REVIEW: _ClassVar[EntityStatus]
    ENTITY_STATUS_ACTIVE: _ClassVar[EntityStatus]
    ENTITY_STATUS_INACTIVE: _ClassVar[EntityStatus]
    ENTITY_STATUS_SUSPENDED: _ClassVar[EntityStatus]
    ENTITY_STATUS_BLOCKED: _ClassVar[EntityStatus]
    ENTITY_STATUS_REJECTED: _ClassVar[EntityStatus]

class TaxIdCheck(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TAX_ID_CHECK_UNSPECIFIED: _ClassVar[TaxIdCheck]
    TAX_ID_CHECK_VALID: _ClassVar[TaxIdCheck]
    TAX_ID_CHECK_CHECKSUM_FAILED: _ClassVar[TaxIdCheck]
    TAX_ID_CHECK_UNKNOWN_FORMAT: _ClassVar[TaxIdCheck]

class Designation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DESIGNATION_UNSPECIFIED: _ClassVar[Designation]
    DESIGNATION_PRIMARY: _ClassVar[Designation]

class ExternalIdDetachCause(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXTERNAL_ID_DETACH_CAUSE_UNSPECIFIED: _ClassVar[ExternalIdDetachCause]
    EXTERNAL_ID_DETACH_CAUSE_CHANGED: _ClassVar[ExternalIdDetachCause]
    EXTERNAL_ID_DETACH_CAUSE_RELEASED: _ClassVar[ExternalIdDetachCause]
    EXTERNAL_ID_DETACH_CAUSE_MOVED: _ClassVar[ExternalIdDetachCause]
    EXTERNAL_ID_DETACH_CAUSE_MERGED: _ClassVar[ExternalIdDetachCause]
    EXTERNAL_ID_DETACH_CAUSE_UNMERGED: _ClassVar[ExternalIdDetachCause]
ENTITY_TYPE_UNSPECIFIED: EntityType
ENTITY_TYPE_PERSON: EntityType
ENTITY_TYPE_COMPANY: EntityType
ENTITY_STATUS_UNSPECIFIED: EntityStatus
ENTITY_STATUS_PENDING: EntityStatus
ENTITY_STATUS_UNDER_REVIEW: EntityStatus
ENTITY_STATUS_ACTIVE: EntityStatus
ENTITY_STATUS_INACTIVE: EntityStatus
ENTITY_STATUS_SUSPENDED: EntityStatus
ENTITY_STATUS_BLOCKED: EntityStatus
ENTITY_STATUS_REJECTED: EntityStatus
TAX_ID_CHECK_UNSPECIFIED: TaxIdCheck
TAX_ID_CHECK_VALID: TaxIdCheck
TAX_ID_CHECK_CHECKSUM_FAILED: TaxIdCheck
TAX_ID_CHECK_UNKNOWN_FORMAT: TaxIdCheck
DESIGNATION_UNSPECIFIED: Designation
DESIGNATION_PRIMARY: Designation
EXTERNAL_ID_DETACH_CAUSE_UNSPECIFIED: ExternalIdDetachCause
EXTERNAL_ID_DETACH_CAUSE_CHANGED: ExternalIdDetachCause
EXTERNAL_ID_DETACH_CAUSE_RELEASED: ExternalIdDetachCause
EXTERNAL_ID_DETACH_CAUSE_MOVED: ExternalIdDetachCause
EXTERNAL_ID_DETACH_CAUSE_MERGED: ExternalIdDetachCause
EXTERNAL_ID_DETACH_CAUSE_UNMERGED: ExternalIdDetachCause

class EntityLookup(_message.Message):
    __slots__ = ("entity_id", "external_id", "tax_id")
    ENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    TAX_ID_FIELD_NUMBER: _ClassVar[int]
    entity_id: str
    external_id: str
    tax_id: str
    def __init__(self, entity_id: _Optional[str] = ..., external_id: _Optional[str] = ..., tax_id: _Optional[str] = ...) -> None: ...

class Entity(_message.Message):
    __slots__ = ("id", "organization_id", "external_id", "external_ids", "type", "country_code", "name", "tax_id", "tax_id_check", "status", "nationality", "risk_matrix_id", "risk_score", "entity_data", "attributes", "metadata", "etag", "created_at", "updated_at", "deleted_at", "merged_into")
    ID_FIELD_NUMBER: _ClassVar[int]
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_IDS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    COUNTRY_CODE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TAX_ID_FIELD_NUMBER: _ClassVar[int]
    TAX_ID_CHECK_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    NATIONALITY_FIELD_NUMBER: _ClassVar[int]
    RISK_MATRIX_ID_FIELD_NUMBER: _ClassVar[int]
    RISK_SCORE_FIELD_NUMBER: _ClassVar[int]
    ENTITY_DATA_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    DELETED_AT_FIELD_NUMBER: _ClassVar[int]
    MERGED_INTO_FIELD_NUMBER: _ClassVar[int]
    id: str
    organization_id: str
    external_id: str
    external_ids: _containers.RepeatedCompositeFieldContainer[ExternalId]
    type: EntityType
    country_code: str
    name: str
    tax_id: str
    tax_id_check: TaxIdCheck
    status: EntityStatus
    nationality: str
    risk_matrix_id: str
    risk_score: str
    entity_data: EntityData
    attributes: _struct_pb2.Struct
    metadata: _struct_pb2.Struct
    etag: str
    created_at: _timestamp_pb2.Timestamp
    updated_at: _timestamp_pb2.Timestamp
    deleted_at: _timestamp_pb2.Timestamp
    merged_into: str
    def __init__(self, id: _Optional[str] = ..., organization_id: _Optional[str] = ..., external_id: _Optional[str] = ..., external_ids: _Optional[_Iterable[_Union[ExternalId, _Mapping]]] = ..., type: _Optional[_Union[EntityType, str]] = ..., country_code: _Optional[str] = ..., name: _Optional[str] = ..., tax_id: _Optional[str] = ..., tax_id_check: _Optional[_Union[TaxIdCheck, str]] = ..., status: _Optional[_Union[EntityStatus, str]] = ..., nationality: _Optional[str] = ..., risk_matrix_id: _Optional[str] = ..., risk_score: _Optional[str] = ..., entity_data: _Optional[_Union[EntityData, _Mapping]] = ..., attributes: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., etag: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., deleted_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., merged_into: _Optional[str] = ...) -> None: ...

class ExternalId(_message.Message):
    __slots__ = ("external_id", "type", "designation", "attached_at", "tracked_since", "last_resolved_on")
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DESIGNATION_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_AT_FIELD_NUMBER: _ClassVar[int]
    TRACKED_SINCE_FIELD_NUMBER: _ClassVar[int]
    LAST_RESOLVED_ON_FIELD_NUMBER: _ClassVar[int]
    external_id: str
    type: str
    designation: Designation
    attached_at: _timestamp_pb2.Timestamp
    tracked_since: _timestamp_pb2.Timestamp
    last_resolved_on: str
    def __init__(self, external_id: _Optional[str] = ..., type: _Optional[str] = ..., designation: _Optional[_Union[Designation, str]] = ..., attached_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., tracked_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_resolved_on: _Optional[str] = ...) -> None: ...

class ExternalIdPeriod(_message.Message):
    __slots__ = ("external_id", "entity_id", "type", "attached_at", "detached_at", "cause", "event_id")
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    ENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_AT_FIELD_NUMBER: _ClassVar[int]
    DETACHED_AT_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    external_id: str
    entity_id: str
    type: str
    attached_at: _timestamp_pb2.Timestamp
    detached_at: _timestamp_pb2.Timestamp
    cause: ExternalIdDetachCause
    event_id: str
    def __init__(self, external_id: _Optional[str] = ..., entity_id: _Optional[str] = ..., type: _Optional[str] = ..., attached_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., detached_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., cause: _Optional[_Union[ExternalIdDetachCause, str]] = ..., event_id: _Optional[str] = ...) -> None: ...

class EntityData(_message.Message):
    __slots__ = ("person", "company")
    PERSON_FIELD_NUMBER: _ClassVar[int]
    COMPANY_FIELD_NUMBER: _ClassVar[int]
    person: PersonData
    company: CompanyData
    def __init__(self, person: _Optional[_Union[PersonData, _Mapping]] = ..., company: _Optional[_Union[CompanyData, _Mapping]] = ...) -> None: ...

class PersonData(_message.Message):
    __slots__ = ("first_name", "last_name", "middle_name", "date_of_birth", "nationality", "email", "phone", "address", "additional")
    FIRST_NAME_FIELD_NUMBER: _ClassVar[int]
    LAST_NAME_FIELD_NUMBER: _ClassVar[int]
    MIDDLE_NAME_FIELD_NUMBER: _ClassVar[int]
    DATE_OF_BIRTH_FIELD_NUMBER: _ClassVar[int]
    NATIONALITY_FIELD_NUMBER: _ClassVar[int]
    EMAIL_FIELD_NUMBER: _ClassVar[int]
    PHONE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ADDITIONAL_FIELD_NUMBER: _ClassVar[int]
    first_name: str
    last_name: str
    middle_name: str
    date_of_birth: str
    nationality: str
    email: str
    phone: str
    address: Address
    additional: _struct_pb2.Struct
    def __init__(self, first_name: _Optional[str] = ..., last_name: _Optional[str] = ..., middle_name: _Optional[str] = ..., date_of_birth: _Optional[str] = ..., nationality: _Optional[str] = ..., email: _Optional[str] = ..., phone: _Optional[str] = ..., address: _Optional[_Union[Address, _Mapping]] = ..., additional: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class CompanyData(_message.Message):
    __slots__ = ("legal_name", "trading_names", "registration_number", "incorporation_date", "industry", "employees", "website", "address", "additional")
    LEGAL_NAME_FIELD_NUMBER: _ClassVar[int]
    TRADING_NAMES_FIELD_NUMBER: _ClassVar[int]
    REGISTRATION_NUMBER_FIELD_NUMBER: _ClassVar[int]
    INCORPORATION_DATE_FIELD_NUMBER: _ClassVar[int]
    INDUSTRY_FIELD_NUMBER: _ClassVar[int]
    EMPLOYEES_FIELD_NUMBER: _ClassVar[int]
    WEBSITE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ADDITIONAL_FIELD_NUMBER: _ClassVar[int]
    legal_name: str
    trading_names: _containers.RepeatedScalarFieldContainer[str]
    registration_number: str
    incorporation_date: str
    industry: str
    employees: int
    website: str
    address: Address
    additional: _struct_pb2.Struct
    def __init__(self, legal_name: _Optional[str] = ..., trading_names: _Optional[_Iterable[str]] = ..., registration_number: _Optional[str] = ..., incorporation_date: _Optional[str] = ..., industry: _Optional[str] = ..., employees: _Optional[int] = ..., website: _Optional[str] = ..., address: _Optional[_Union[Address, _Mapping]] = ..., additional: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class Address(_message.Message):
    __slots__ = ("street", "city", "state", "country", "postal_code", "additional")
    STREET_FIELD_NUMBER: _ClassVar[int]
    CITY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    COUNTRY_FIELD_NUMBER: _ClassVar[int]
    POSTAL_CODE_FIELD_NUMBER: _ClassVar[int]
    ADDITIONAL_FIELD_NUMBER: _ClassVar[int]
    street: str
    city: str
    state: str
    country: str
    postal_code: str
    additional: _struct_pb2.Struct
    def __init__(self, street: _Optional[str] = ..., city: _Optional[str] = ..., state: _Optional[str] = ..., country: _Optional[str] = ..., postal_code: _Optional[str] = ..., additional: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...
