import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AuditFindingKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUDIT_FINDING_KIND_UNSPECIFIED: _ClassVar[AuditFindingKind]
    AUDIT_FINDING_KIND_CHANGED: _ClassVar[AuditFindingKind]
    AUDIT_FINDING_KIND_MISSING: _ClassVar[AuditFindingKind]
    AUDIT_FINDING_KIND_OUT_OF_ORDER: _ClassVar[AuditFindingKind]
    AUDIT_FINDING_KIND_EXTRA: _ClassVar[AuditFindingKind]
    AUDIT_FINDING_KIND_HEAD_DIFFERS: _ClassVar[AuditFindingKind]
    AUDIT_FINDING_KIND_ENTITY_DIFFERS: _ClassVar[AuditFindingKind]
    AUDIT_FINDING_KIND_CHECKPOINT_BROKEN: _ClassVar[AuditFindingKind]
    AUDIT_FINDING_KIND_SIGNATURE_INVALID: _ClassVar[AuditFindingKind]
    AUDIT_FINDING_KIND_EVALUATION_DIFFERS: _ClassVar[AuditFindingKind]
    AUDIT_FINDING_KIND_RISK_MATRIX_DIFFERS: _ClassVar[AuditFindingKind]
AUDIT_FINDING_KIND_UNSPECIFIED: AuditFindingKind
AUDIT_FINDING_KIND_CHANGED: AuditFindingKind
AUDIT_FINDING_KIND_MISSING: AuditFindingKind
AUDIT_FINDING_KIND_OUT_OF_ORDER: AuditFindingKind
AUDIT_FINDING_KIND_EXTRA: AuditFindingKind
AUDIT_FINDING_KIND_HEAD_DIFFERS: AuditFindingKind
AUDIT_FINDING_KIND_ENTITY_DIFFERS: AuditFindingKind
AUDIT_FINDING_KIND_CHECKPOINT_BROKEN: AuditFindingKind
AUDIT_FINDING_KIND_SIGNATURE_INVALID: AuditFindingKind
AUDIT_FINDING_KIND_EVALUATION_DIFFERS: AuditFindingKind
AUDIT_FINDING_KIND_RISK_MATRIX_DIFFERS: AuditFindingKind

class AuditCheckpoint(_message.Message):
    __slots__ = ("number", "body", "signature", "leaves")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    number: int
    body: str
    signature: bytes
    leaves: bytes
    def __init__(self, number: _Optional[int] = ..., body: _Optional[str] = ..., signature: _Optional[bytes] = ..., leaves: _Optional[bytes] = ...) -> None: ...

class AuditKey(_message.Message):
    __slots__ = ("key_id", "public_key", "first_used_at")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    FIRST_USED_AT_FIELD_NUMBER: _ClassVar[int]
    key_id: bytes
    public_key: bytes
    first_used_at: _timestamp_pb2.Timestamp
    def __init__(self, key_id: _Optional[bytes] = ..., public_key: _Optional[bytes] = ..., first_used_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class AuditFinding(_message.Message):
    __slots__ = ("kind", "entity_id", "entity_version", "event_id", "checkpoint", "detail", "evaluation_id", "risk_matrix_id", "matrix_version")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    ENTITY_VERSION_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_ID_FIELD_NUMBER: _ClassVar[int]
    RISK_MATRIX_ID_FIELD_NUMBER: _ClassVar[int]
    MATRIX_VERSION_FIELD_NUMBER: _ClassVar[int]
    kind: AuditFindingKind
    entity_id: str
    entity_version: int
    event_id: str
    checkpoint: int
    detail: str
    evaluation_id: str
    risk_matrix_id: str
    matrix_version: int
    def __init__(self, kind: _Optional[_Union[AuditFindingKind, str]] = ..., entity_id: _Optional[str] = ..., entity_version: _Optional[int] = ..., event_id: _Optional[str] = ..., checkpoint: _Optional[int] = ..., detail: _Optional[str] = ..., evaluation_id: _Optional[str] = ..., risk_matrix_id: _Optional[str] = ..., matrix_version: _Optional[int] = ...) -> None: ...

class AuditCounts(_message.Message):
    __slots__ = ("verified", "unsealed", "pruned", "erased", "not_in_checkpoint", "checkpoints", "unsigned_checkpoints", "entities", "evaluations", "matrix_versions")
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    UNSEALED_FIELD_NUMBER: _ClassVar[int]
    PRUNED_FIELD_NUMBER: _ClassVar[int]
    ERASED_FIELD_NUMBER: _ClassVar[int]
    NOT_IN_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    UNSIGNED_CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    MATRIX_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    verified: int
    unsealed: int
    pruned: int
    erased: int
    not_in_checkpoint: int
    checkpoints: int
    unsigned_checkpoints: int
    entities: int
    evaluations: int
    matrix_versions: int
    def __init__(self, verified: _Optional[int] = ..., unsealed: _Optional[int] = ..., pruned: _Optional[int] = ..., erased: _Optional[int] = ..., not_in_checkpoint: _Optional[int] = ..., checkpoints: _Optional[int] = ..., unsigned_checkpoints: _Optional[int] = ..., entities: _Optional[int] = ..., evaluations: _Optional[int] = ..., matrix_versions: _Optional[int] = ...) -> None: ...
