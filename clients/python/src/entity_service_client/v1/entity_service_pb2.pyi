import datetime

from . import audit_pb2 as _audit_pb2
from . import duplicate_pb2 as _duplicate_pb2
from . import entity_pb2 as _entity_pb2
from . import entity_event_pb2 as _entity_event_pb2
from . import merge_pb2 as _merge_pb2
from . import options_pb2 as _options_pb2
from . import risk_pb2 as _risk_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ImportOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMPORT_OUTCOME_UNSPECIFIED: _ClassVar[ImportOutcome]
    IMPORT_OUTCOME_CREATED: _ClassVar[ImportOutcome]
    IMPORT_OUTCOME_UPDATED: _ClassVar[ImportOutcome]
    IMPORT_OUTCOME_UNCHANGED: _ClassVar[ImportOutcome]
    IMPORT_OUTCOME_FAILED: _ClassVar[ImportOutcome]
IMPORT_OUTCOME_UNSPECIFIED: ImportOutcome
IMPORT_OUTCOME_CREATED: ImportOutcome
IMPORT_OUTCOME_UPDATED: ImportOutcome
IMPORT_OUTCOME_UNCHANGED: ImportOutcome
IMPORT_OUTCOME_FAILED: ImportOutcome

class CreateEntityRequest(_message.Message):
    __slots__ = ("entity", "reason", "require_unique_tax_id", "request_id", "validate_only", "occurred_at")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUIRE_UNIQUE_TAX_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    entity: _entity_pb2.Entity
    reason: str
    require_unique_tax_id: bool
    request_id: str
    validate_only: bool
    occurred_at: _timestamp_pb2.Timestamp
    def __init__(self, entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., reason: _Optional[str] = ..., require_unique_tax_id: bool = ..., request_id: _Optional[str] = ..., validate_only: bool = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreateEntityResponse(_message.Message):
    __slots__ = ("entity",)
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    entity: _entity_pb2.Entity
    def __init__(self, entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ...) -> None: ...

class GetEntityRequest(_message.Message):
    __slots__ = ("lookup", "read_mask", "read_time")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    READ_MASK_FIELD_NUMBER: _ClassVar[int]
    READ_TIME_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    read_mask: _field_mask_pb2.FieldMask
    read_time: _timestamp_pb2.Timestamp
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., read_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., read_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetEntityResponse(_message.Message):
    __slots__ = ("entity", "redirected_from")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    REDIRECTED_FROM_FIELD_NUMBER: _ClassVar[int]
    entity: _entity_pb2.Entity
    redirected_from: str
    def __init__(self, entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., redirected_from: _Optional[str] = ...) -> None: ...

class BatchGetEntitiesRequest(_message.Message):
    __slots__ = ("lookups", "read_mask")
    LOOKUPS_FIELD_NUMBER: _ClassVar[int]
    READ_MASK_FIELD_NUMBER: _ClassVar[int]
    lookups: _containers.RepeatedCompositeFieldContainer[_entity_pb2.EntityLookup]
    read_mask: _field_mask_pb2.FieldMask
    def __init__(self, lookups: _Optional[_Iterable[_Union[_entity_pb2.EntityLookup, _Mapping]]] = ..., read_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class BatchGetEntitiesResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchGetEntitiesResult]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchGetEntitiesResult, _Mapping]]] = ...) -> None: ...

class BatchGetEntitiesResult(_message.Message):
    __slots__ = ("entity", "error", "redirected_from")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REDIRECTED_FROM_FIELD_NUMBER: _ClassVar[int]
    entity: _entity_pb2.Entity
    error: _status_pb2.Status
    redirected_from: str
    def __init__(self, entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., redirected_from: _Optional[str] = ...) -> None: ...

class ListEntitiesRequest(_message.Message):
    __slots__ = ("type", "statuses", "country_codes", "tax_id", "external_ids", "name_prefix", "updated_after", "show_deleted", "page_size", "page_token", "read_mask", "name_query")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    COUNTRY_CODES_FIELD_NUMBER: _ClassVar[int]
    TAX_ID_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_IDS_FIELD_NUMBER: _ClassVar[int]
    NAME_PREFIX_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AFTER_FIELD_NUMBER: _ClassVar[int]
    SHOW_DELETED_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    READ_MASK_FIELD_NUMBER: _ClassVar[int]
    NAME_QUERY_FIELD_NUMBER: _ClassVar[int]
    type: _entity_pb2.EntityType
    statuses: _containers.RepeatedScalarFieldContainer[_entity_pb2.EntityStatus]
    country_codes: _containers.RepeatedScalarFieldContainer[str]
    tax_id: str
    external_ids: _containers.RepeatedScalarFieldContainer[str]
    name_prefix: str
    updated_after: _timestamp_pb2.Timestamp
    show_deleted: bool
    page_size: int
    page_token: str
    read_mask: _field_mask_pb2.FieldMask
    name_query: str
    def __init__(self, type: _Optional[_Union[_entity_pb2.EntityType, str]] = ..., statuses: _Optional[_Iterable[_Union[_entity_pb2.EntityStatus, str]]] = ..., country_codes: _Optional[_Iterable[str]] = ..., tax_id: _Optional[str] = ..., external_ids: _Optional[_Iterable[str]] = ..., name_prefix: _Optional[str] = ..., updated_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., show_deleted: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., read_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., name_query: _Optional[str] = ...) -> None: ...

class ListEntitiesResponse(_message.Message):
    __slots__ = ("entities", "next_page_token", "watch_position")
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WATCH_POSITION_FIELD_NUMBER: _ClassVar[int]
    entities: _containers.RepeatedCompositeFieldContainer[_entity_pb2.Entity]
    next_page_token: str
    watch_position: str
    def __init__(self, entities: _Optional[_Iterable[_Union[_entity_pb2.Entity, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., watch_position: _Optional[str] = ...) -> None: ...

class SuggestDuplicatesRequest(_message.Message):
    __slots__ = ("lookup", "page_size", "page_token")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    page_size: int
    page_token: str
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class SuggestDuplicatesResponse(_message.Message):
    __slots__ = ("suggestions", "next_page_token")
    SUGGESTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    suggestions: _containers.RepeatedCompositeFieldContainer[_duplicate_pb2.DuplicateSuggestion]
    next_page_token: str
    def __init__(self, suggestions: _Optional[_Iterable[_Union[_duplicate_pb2.DuplicateSuggestion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateEntityRequest(_message.Message):
    __slots__ = ("lookup", "entity", "update_mask", "reason", "allow_missing", "etag", "request_id", "validate_only", "occurred_at")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ALLOW_MISSING_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    entity: _entity_pb2.Entity
    update_mask: _field_mask_pb2.FieldMask
    reason: str
    allow_missing: bool
    etag: str
    request_id: str
    validate_only: bool
    occurred_at: _timestamp_pb2.Timestamp
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., reason: _Optional[str] = ..., allow_missing: bool = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: bool = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class UpdateEntityResponse(_message.Message):
    __slots__ = ("entity", "previous_entity", "updated_fields", "ignored_fields", "created", "redirected_from")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_ENTITY_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    IGNORED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    REDIRECTED_FROM_FIELD_NUMBER: _ClassVar[int]
    entity: _entity_pb2.Entity
    previous_entity: _entity_pb2.Entity
    updated_fields: _containers.RepeatedScalarFieldContainer[str]
    ignored_fields: _containers.RepeatedScalarFieldContainer[str]
    created: bool
    redirected_from: str
    def __init__(self, entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., previous_entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., updated_fields: _Optional[_Iterable[str]] = ..., ignored_fields: _Optional[_Iterable[str]] = ..., created: bool = ..., redirected_from: _Optional[str] = ...) -> None: ...

class BatchUpdateEntitiesRequest(_message.Message):
    __slots__ = ("requests", "request_id", "validate_only")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[UpdateEntityRequest]
    request_id: str
    validate_only: bool
    def __init__(self, requests: _Optional[_Iterable[_Union[UpdateEntityRequest, _Mapping]]] = ..., request_id: _Optional[str] = ..., validate_only: bool = ...) -> None: ...

class BatchUpdateEntitiesResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchUpdateEntitiesResult]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchUpdateEntitiesResult, _Mapping]]] = ...) -> None: ...

class BatchUpdateEntitiesResult(_message.Message):
    __slots__ = ("entity_id", "redirected_from", "etag", "updated_fields", "ignored_fields", "created")
    ENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    REDIRECTED_FROM_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    IGNORED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    entity_id: str
    redirected_from: str
    etag: str
    updated_fields: _containers.RepeatedScalarFieldContainer[str]
    ignored_fields: _containers.RepeatedScalarFieldContainer[str]
    created: bool
    def __init__(self, entity_id: _Optional[str] = ..., redirected_from: _Optional[str] = ..., etag: _Optional[str] = ..., updated_fields: _Optional[_Iterable[str]] = ..., ignored_fields: _Optional[_Iterable[str]] = ..., created: bool = ...) -> None: ...

class ChangeExternalIdRequest(_message.Message):
    __slots__ = ("lookup", "new_external_id", "reason", "keep_previous_as_alias", "etag", "request_id", "validate_only", "occurred_at")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    NEW_EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KEEP_PREVIOUS_AS_ALIAS_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    new_external_id: str
    reason: str
    keep_previous_as_alias: bool
    etag: str
    request_id: str
    validate_only: bool
    occurred_at: _timestamp_pb2.Timestamp
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., new_external_id: _Optional[str] = ..., reason: _Optional[str] = ..., keep_previous_as_alias: bool = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: bool = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ChangeExternalIdResponse(_message.Message):
    __slots__ = ("success", "changed", "entity", "redirected_from")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    REDIRECTED_FROM_FIELD_NUMBER: _ClassVar[int]
    success: bool
    changed: bool
    entity: _entity_pb2.Entity
    redirected_from: str
    def __init__(self, success: bool = ..., changed: bool = ..., entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., redirected_from: _Optional[str] = ...) -> None: ...

class AssignExternalIdRequest(_message.Message):
    __slots__ = ("lookup", "external_id", "reason", "etag", "request_id", "validate_only", "occurred_at")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    external_id: str
    reason: str
    etag: str
    request_id: str
    validate_only: bool
    occurred_at: _timestamp_pb2.Timestamp
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., external_id: _Optional[str] = ..., reason: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: bool = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class AssignExternalIdResponse(_message.Message):
    __slots__ = ("changed", "entity", "redirected_from")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    REDIRECTED_FROM_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    entity: _entity_pb2.Entity
    redirected_from: str
    def __init__(self, changed: bool = ..., entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., redirected_from: _Optional[str] = ...) -> None: ...

class AddExternalIdsRequest(_message.Message):
    __slots__ = ("lookup", "external_ids", "reason", "etag", "request_id", "validate_only", "occurred_at")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_IDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    external_ids: _containers.RepeatedCompositeFieldContainer[_entity_pb2.ExternalId]
    reason: str
    etag: str
    request_id: str
    validate_only: bool
    occurred_at: _timestamp_pb2.Timestamp
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., external_ids: _Optional[_Iterable[_Union[_entity_pb2.ExternalId, _Mapping]]] = ..., reason: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: bool = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class AddExternalIdsResponse(_message.Message):
    __slots__ = ("changed", "entity", "redirected_from")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    REDIRECTED_FROM_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    entity: _entity_pb2.Entity
    redirected_from: str
    def __init__(self, changed: bool = ..., entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., redirected_from: _Optional[str] = ...) -> None: ...

class ReleaseExternalIdRequest(_message.Message):
    __slots__ = ("lookup", "external_id", "reason", "force", "etag", "request_id", "validate_only", "occurred_at")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    external_id: str
    reason: str
    force: bool
    etag: str
    request_id: str
    validate_only: bool
    occurred_at: _timestamp_pb2.Timestamp
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., external_id: _Optional[str] = ..., reason: _Optional[str] = ..., force: bool = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: bool = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ReleaseExternalIdResponse(_message.Message):
    __slots__ = ("changed", "entity", "redirected_from")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    REDIRECTED_FROM_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    entity: _entity_pb2.Entity
    redirected_from: str
    def __init__(self, changed: bool = ..., entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., redirected_from: _Optional[str] = ...) -> None: ...

class ListExternalIdHistoryRequest(_message.Message):
    __slots__ = ("external_id", "lookup", "page_size", "page_token")
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    external_id: str
    lookup: _entity_pb2.EntityLookup
    page_size: int
    page_token: str
    def __init__(self, external_id: _Optional[str] = ..., lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListExternalIdHistoryResponse(_message.Message):
    __slots__ = ("periods", "next_page_token")
    PERIODS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    periods: _containers.RepeatedCompositeFieldContainer[_entity_pb2.ExternalIdPeriod]
    next_page_token: str
    def __init__(self, periods: _Optional[_Iterable[_Union[_entity_pb2.ExternalIdPeriod, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteEntityRequest(_message.Message):
    __slots__ = ("lookup", "reason", "etag", "request_id", "validate_only", "occurred_at")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    reason: str
    etag: str
    request_id: str
    validate_only: bool
    occurred_at: _timestamp_pb2.Timestamp
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., reason: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: bool = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class DeleteEntityResponse(_message.Message):
    __slots__ = ("entity", "changed")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    entity: _entity_pb2.Entity
    changed: bool
    def __init__(self, entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., changed: bool = ...) -> None: ...

class UndeleteEntityRequest(_message.Message):
    __slots__ = ("lookup", "reason", "etag", "request_id", "validate_only", "occurred_at")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    reason: str
    etag: str
    request_id: str
    validate_only: bool
    occurred_at: _timestamp_pb2.Timestamp
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., reason: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: bool = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class UndeleteEntityResponse(_message.Message):
    __slots__ = ("entity", "changed", "redirected_from")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    REDIRECTED_FROM_FIELD_NUMBER: _ClassVar[int]
    entity: _entity_pb2.Entity
    changed: bool
    redirected_from: str
    def __init__(self, entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., changed: bool = ..., redirected_from: _Optional[str] = ...) -> None: ...

class MergeEntitiesRequest(_message.Message):
    __slots__ = ("primary", "secondary", "reason", "etag", "secondary_etag", "request_id", "validate_only", "occurred_at")
    PRIMARY_FIELD_NUMBER: _ClassVar[int]
    SECONDARY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    SECONDARY_ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    primary: _entity_pb2.EntityLookup
    secondary: _entity_pb2.EntityLookup
    reason: str
    etag: str
    secondary_etag: str
    request_id: str
    validate_only: bool
    occurred_at: _timestamp_pb2.Timestamp
    def __init__(self, primary: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., secondary: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., reason: _Optional[str] = ..., etag: _Optional[str] = ..., secondary_etag: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: bool = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class MergeEntitiesResponse(_message.Message):
    __slots__ = ("entity", "secondary", "merge_id", "conflicts", "rows", "redirected_from")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    SECONDARY_FIELD_NUMBER: _ClassVar[int]
    MERGE_ID_FIELD_NUMBER: _ClassVar[int]
    CONFLICTS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    REDIRECTED_FROM_FIELD_NUMBER: _ClassVar[int]
    entity: _entity_pb2.Entity
    secondary: _entity_pb2.Entity
    merge_id: str
    conflicts: _containers.RepeatedCompositeFieldContainer[_merge_pb2.MergeConflict]
    rows: _merge_pb2.MergedRows
    redirected_from: str
    def __init__(self, entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., secondary: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., merge_id: _Optional[str] = ..., conflicts: _Optional[_Iterable[_Union[_merge_pb2.MergeConflict, _Mapping]]] = ..., rows: _Optional[_Union[_merge_pb2.MergedRows, _Mapping]] = ..., redirected_from: _Optional[str] = ...) -> None: ...

class UnmergeEntitiesRequest(_message.Message):
    __slots__ = ("merge_id", "reason", "etag", "mark_distinct", "request_id", "validate_only", "occurred_at")
    MERGE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    MARK_DISTINCT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    merge_id: str
    reason: str
    etag: str
    mark_distinct: bool
    request_id: str
    validate_only: bool
    occurred_at: _timestamp_pb2.Timestamp
    def __init__(self, merge_id: _Optional[str] = ..., reason: _Optional[str] = ..., etag: _Optional[str] = ..., mark_distinct: bool = ..., request_id: _Optional[str] = ..., validate_only: bool = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class UnmergeEntitiesResponse(_message.Message):
    __slots__ = ("entity", "secondary", "kept", "returned", "lost", "carried", "rows", "distinct_id")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    SECONDARY_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    CARRIED_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DISTINCT_ID_FIELD_NUMBER: _ClassVar[int]
    entity: _entity_pb2.Entity
    secondary: _entity_pb2.Entity
    kept: _containers.RepeatedCompositeFieldContainer[_merge_pb2.UnmergeKept]
    returned: _containers.RepeatedScalarFieldContainer[str]
    lost: _containers.RepeatedCompositeFieldContainer[_merge_pb2.LostExternalId]
    carried: _containers.RepeatedScalarFieldContainer[str]
    rows: _merge_pb2.MergedRows
    distinct_id: str
    def __init__(self, entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., secondary: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., kept: _Optional[_Iterable[_Union[_merge_pb2.UnmergeKept, _Mapping]]] = ..., returned: _Optional[_Iterable[str]] = ..., lost: _Optional[_Iterable[_Union[_merge_pb2.LostExternalId, _Mapping]]] = ..., carried: _Optional[_Iterable[str]] = ..., rows: _Optional[_Union[_merge_pb2.MergedRows, _Mapping]] = ..., distinct_id: _Optional[str] = ...) -> None: ...

class ListMergesRequest(_message.Message):
    __slots__ = ("lookup", "page_size", "page_token")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    page_size: int
    page_token: str
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListMergesResponse(_message.Message):
    __slots__ = ("merges", "next_page_token")
    MERGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    merges: _containers.RepeatedCompositeFieldContainer[_merge_pb2.EntityMerge]
    next_page_token: str
    def __init__(self, merges: _Optional[_Iterable[_Union[_merge_pb2.EntityMerge, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class MarkDistinctRequest(_message.Message):
    __slots__ = ("first", "second", "reason", "etag", "second_etag", "request_id", "validate_only", "occurred_at")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    SECOND_ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    first: _entity_pb2.EntityLookup
    second: _entity_pb2.EntityLookup
    reason: str
    etag: str
    second_etag: str
    request_id: str
    validate_only: bool
    occurred_at: _timestamp_pb2.Timestamp
    def __init__(self, first: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., second: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., reason: _Optional[str] = ..., etag: _Optional[str] = ..., second_etag: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: bool = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class MarkDistinctResponse(_message.Message):
    __slots__ = ("changed", "pair", "first", "second")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    PAIR_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    pair: _merge_pb2.DistinctPair
    first: _entity_pb2.Entity
    second: _entity_pb2.Entity
    def __init__(self, changed: bool = ..., pair: _Optional[_Union[_merge_pb2.DistinctPair, _Mapping]] = ..., first: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., second: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ...) -> None: ...

class LiftDistinctRequest(_message.Message):
    __slots__ = ("first", "second", "reason", "etag", "second_etag", "request_id", "validate_only", "occurred_at")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    SECOND_ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    first: _entity_pb2.EntityLookup
    second: _entity_pb2.EntityLookup
    reason: str
    etag: str
    second_etag: str
    request_id: str
    validate_only: bool
    occurred_at: _timestamp_pb2.Timestamp
    def __init__(self, first: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., second: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., reason: _Optional[str] = ..., etag: _Optional[str] = ..., second_etag: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: bool = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class LiftDistinctResponse(_message.Message):
    __slots__ = ("changed", "pair", "first", "second")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    PAIR_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    pair: _merge_pb2.DistinctPair
    first: _entity_pb2.Entity
    second: _entity_pb2.Entity
    def __init__(self, changed: bool = ..., pair: _Optional[_Union[_merge_pb2.DistinctPair, _Mapping]] = ..., first: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., second: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ...) -> None: ...

class ListDistinctRequest(_message.Message):
    __slots__ = ("lookup", "page_size", "page_token")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    page_size: int
    page_token: str
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDistinctResponse(_message.Message):
    __slots__ = ("pairs", "next_page_token")
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    pairs: _containers.RepeatedCompositeFieldContainer[_merge_pb2.DistinctPair]
    next_page_token: str
    def __init__(self, pairs: _Optional[_Iterable[_Union[_merge_pb2.DistinctPair, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class AnalyzeEntityRequest(_message.Message):
    __slots__ = ("lookup", "risk_matrix_id", "etag", "request_id", "validate_only", "occurred_at")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    RISK_MATRIX_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    risk_matrix_id: str
    etag: str
    request_id: str
    validate_only: bool
    occurred_at: _timestamp_pb2.Timestamp
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., risk_matrix_id: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: bool = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class AnalyzeEntityResponse(_message.Message):
    __slots__ = ("entity", "evaluation", "changed", "redirected_from")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    REDIRECTED_FROM_FIELD_NUMBER: _ClassVar[int]
    entity: _entity_pb2.Entity
    evaluation: _risk_pb2.Evaluation
    changed: bool
    redirected_from: str
    def __init__(self, entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., evaluation: _Optional[_Union[_risk_pb2.Evaluation, _Mapping]] = ..., changed: bool = ..., redirected_from: _Optional[str] = ...) -> None: ...

class ListEvaluationsRequest(_message.Message):
    __slots__ = ("lookup", "page_size", "page_token")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    page_size: int
    page_token: str
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEvaluationsResponse(_message.Message):
    __slots__ = ("evaluations", "next_page_token")
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    evaluations: _containers.RepeatedCompositeFieldContainer[_risk_pb2.Evaluation]
    next_page_token: str
    def __init__(self, evaluations: _Optional[_Iterable[_Union[_risk_pb2.Evaluation, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListEntityEventsRequest(_message.Message):
    __slots__ = ("lookup", "types", "actor", "principal", "request_id", "to", "page_size", "page_token")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    types: _containers.RepeatedScalarFieldContainer[_entity_event_pb2.EventType]
    actor: str
    principal: str
    request_id: str
    to: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., types: _Optional[_Iterable[_Union[_entity_event_pb2.EventType, str]]] = ..., actor: _Optional[str] = ..., principal: _Optional[str] = ..., request_id: _Optional[str] = ..., to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., **kwargs) -> None: ...

class ListEntityEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_entity_event_pb2.EntityEvent]
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[_entity_event_pb2.EntityEvent, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchEntitiesRequest(_message.Message):
    __slots__ = ("position", "types", "entity_types", "lookup")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    ENTITY_TYPES_FIELD_NUMBER: _ClassVar[int]
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    position: str
    types: _containers.RepeatedScalarFieldContainer[_entity_event_pb2.EventType]
    entity_types: _containers.RepeatedScalarFieldContainer[_entity_pb2.EntityType]
    lookup: _entity_pb2.EntityLookup
    def __init__(self, position: _Optional[str] = ..., types: _Optional[_Iterable[_Union[_entity_event_pb2.EventType, str]]] = ..., entity_types: _Optional[_Iterable[_Union[_entity_pb2.EntityType, str]]] = ..., lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ...) -> None: ...

class WatchEntitiesResponse(_message.Message):
    __slots__ = ("position", "event")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    position: str
    event: _entity_event_pb2.EntityEvent
    def __init__(self, position: _Optional[str] = ..., event: _Optional[_Union[_entity_event_pb2.EntityEvent, _Mapping]] = ...) -> None: ...

class ExportEntitiesRequest(_message.Message):
    __slots__ = ("type", "statuses", "country_codes", "show_deleted", "position", "after")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    COUNTRY_CODES_FIELD_NUMBER: _ClassVar[int]
    SHOW_DELETED_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    type: _entity_pb2.EntityType
    statuses: _containers.RepeatedScalarFieldContainer[_entity_pb2.EntityStatus]
    country_codes: _containers.RepeatedScalarFieldContainer[str]
    show_deleted: bool
    position: str
    after: str
    def __init__(self, type: _Optional[_Union[_entity_pb2.EntityType, str]] = ..., statuses: _Optional[_Iterable[_Union[_entity_pb2.EntityStatus, str]]] = ..., country_codes: _Optional[_Iterable[str]] = ..., show_deleted: bool = ..., position: _Optional[str] = ..., after: _Optional[str] = ...) -> None: ...

class ExportEntitiesResponse(_message.Message):
    __slots__ = ("position", "entities", "after", "done")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    position: str
    entities: _containers.RepeatedCompositeFieldContainer[_entity_pb2.Entity]
    after: str
    done: float
    def __init__(self, position: _Optional[str] = ..., entities: _Optional[_Iterable[_Union[_entity_pb2.Entity, _Mapping]]] = ..., after: _Optional[str] = ..., done: _Optional[float] = ...) -> None: ...

class ImportEntitiesRequest(_message.Message):
    __slots__ = ("entity", "reason", "request_id", "validate_only", "occurred_at", "external_ids", "update_mask", "update_only")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_IDS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    UPDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    entity: _entity_pb2.Entity
    reason: str
    request_id: str
    validate_only: bool
    occurred_at: _timestamp_pb2.Timestamp
    external_ids: _containers.RepeatedCompositeFieldContainer[_entity_pb2.ExternalId]
    update_mask: _field_mask_pb2.FieldMask
    update_only: bool
    def __init__(self, entity: _Optional[_Union[_entity_pb2.Entity, _Mapping]] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: bool = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., external_ids: _Optional[_Iterable[_Union[_entity_pb2.ExternalId, _Mapping]]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., update_only: bool = ...) -> None: ...

class ImportEntitiesResponse(_message.Message):
    __slots__ = ("results", "progress")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ImportResult]
    progress: ImportProgress
    def __init__(self, results: _Optional[_Iterable[_Union[ImportResult, _Mapping]]] = ..., progress: _Optional[_Union[ImportProgress, _Mapping]] = ...) -> None: ...

class ImportResult(_message.Message):
    __slots__ = ("row", "outcome", "entity_id", "error", "redirected_from")
    ROW_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REDIRECTED_FROM_FIELD_NUMBER: _ClassVar[int]
    row: int
    outcome: ImportOutcome
    entity_id: str
    error: _status_pb2.Status
    redirected_from: str
    def __init__(self, row: _Optional[int] = ..., outcome: _Optional[_Union[ImportOutcome, str]] = ..., entity_id: _Optional[str] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., redirected_from: _Optional[str] = ...) -> None: ...

class ImportProgress(_message.Message):
    __slots__ = ("created", "updated", "unchanged", "failed")
    CREATED_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    created: int
    updated: int
    unchanged: int
    failed: int
    def __init__(self, created: _Optional[int] = ..., updated: _Optional[int] = ..., unchanged: _Optional[int] = ..., failed: _Optional[int] = ...) -> None: ...

class ListAuditCheckpointsRequest(_message.Message):
    __slots__ = ("after_number", "include_leaves", "page_size", "page_token")
    AFTER_NUMBER_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_LEAVES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    after_number: int
    include_leaves: bool
    page_size: int
    page_token: str
    def __init__(self, after_number: _Optional[int] = ..., include_leaves: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAuditCheckpointsResponse(_message.Message):
    __slots__ = ("checkpoints", "next_page_token", "keys")
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    checkpoints: _containers.RepeatedCompositeFieldContainer[_audit_pb2.AuditCheckpoint]
    next_page_token: str
    keys: _containers.RepeatedCompositeFieldContainer[_audit_pb2.AuditKey]
    def __init__(self, checkpoints: _Optional[_Iterable[_Union[_audit_pb2.AuditCheckpoint, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., keys: _Optional[_Iterable[_Union[_audit_pb2.AuditKey, _Mapping]]] = ...) -> None: ...

class VerifyAuditTrailRequest(_message.Message):
    __slots__ = ("lookup", "checkpoints", "public_keys")
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEYS_FIELD_NUMBER: _ClassVar[int]
    lookup: _entity_pb2.EntityLookup
    checkpoints: _containers.RepeatedCompositeFieldContainer[_audit_pb2.AuditCheckpoint]
    public_keys: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, lookup: _Optional[_Union[_entity_pb2.EntityLookup, _Mapping]] = ..., checkpoints: _Optional[_Iterable[_Union[_audit_pb2.AuditCheckpoint, _Mapping]]] = ..., public_keys: _Optional[_Iterable[bytes]] = ..., **kwargs) -> None: ...

class VerifyAuditTrailResponse(_message.Message):
    __slots__ = ("findings", "counts", "done")
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[_audit_pb2.AuditFinding]
    counts: _audit_pb2.AuditCounts
    done: float
    def __init__(self, findings: _Optional[_Iterable[_Union[_audit_pb2.AuditFinding, _Mapping]]] = ..., counts: _Optional[_Union[_audit_pb2.AuditCounts, _Mapping]] = ..., done: _Optional[float] = ...) -> None: ...

class RecheckTaxIdsRequest(_message.Message):
    __slots__ = ("apply", "after_entity_id")
    APPLY_FIELD_NUMBER: _ClassVar[int]
    AFTER_ENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    apply: bool
    after_entity_id: str
    def __init__(self, apply: bool = ..., after_entity_id: _Optional[str] = ...) -> None: ...

class RecheckTaxIdsResponse(_message.Message):
    __slots__ = ("changes", "entities", "last_entity_id")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    LAST_ENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[TaxIdChange]
    entities: int
    last_entity_id: str
    def __init__(self, changes: _Optional[_Iterable[_Union[TaxIdChange, _Mapping]]] = ..., entities: _Optional[int] = ..., last_entity_id: _Optional[str] = ...) -> None: ...

class TaxIdChange(_message.Message):
    __slots__ = ("entity_id", "previous_keys", "keys", "holders", "previous_holders", "previous_tax_id_check", "tax_id_check")
    ENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_KEYS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_HOLDERS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_TAX_ID_CHECK_FIELD_NUMBER: _ClassVar[int]
    TAX_ID_CHECK_FIELD_NUMBER: _ClassVar[int]
    entity_id: str
    previous_keys: _containers.RepeatedScalarFieldContainer[bytes]
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    holders: _containers.RepeatedScalarFieldContainer[str]
    previous_holders: _containers.RepeatedScalarFieldContainer[str]
    previous_tax_id_check: _entity_pb2.TaxIdCheck
    tax_id_check: _entity_pb2.TaxIdCheck
    def __init__(self, entity_id: _Optional[str] = ..., previous_keys: _Optional[_Iterable[bytes]] = ..., keys: _Optional[_Iterable[bytes]] = ..., holders: _Optional[_Iterable[str]] = ..., previous_holders: _Optional[_Iterable[str]] = ..., previous_tax_id_check: _Optional[_Union[_entity_pb2.TaxIdCheck, str]] = ..., tax_id_check: _Optional[_Union[_entity_pb2.TaxIdCheck, str]] = ...) -> None: ...
