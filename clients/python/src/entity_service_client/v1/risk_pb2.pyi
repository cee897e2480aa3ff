import datetime

from . import options_pb2 as _options_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RiskRuleState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RISK_RULE_STATE_UNSPECIFIED: _ClassVar[RiskRuleState]
    RISK_RULE_STATE_ACTIVE: _ClassVar[RiskRuleState]
    RISK_RULE_STATE_SHADOW: _ClassVar[RiskRuleState]
    RISK_RULE_STATE_DISABLED: _ClassVar[RiskRuleState]

class RiskLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RISK_LEVEL_UNSPECIFIED: _ClassVar[RiskLevel]
    RISK_LEVEL_LOW: _ClassVar[RiskLevel]
    RISK_LEVEL_MEDIUM: _ClassVar[RiskLevel]
    RISK_LEVEL_HIGH: _ClassVar[RiskLevel]
    RISK_LEVEL_CRITICAL: _ClassVar[RiskLevel]

class RiskRuleOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RISK_RULE_OUTCOME_UNSPECIFIED: _ClassVar[RiskRuleOutcome]
    RISK_RULE_OUTCOME_MATCHED: _ClassVar[RiskRuleOutcome]
    RISK_RULE_OUTCOME_NOT_MATCHED: _ClassVar[RiskRuleOutcome]
    RISK_RULE_OUTCOME_ERROR: _ClassVar[RiskRuleOutcome]

class RiskRuleError(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RISK_RULE_ERROR_UNSPECIFIED: _ClassVar[RiskRuleError]
    RISK_RULE_ERROR_NO_SUCH_FIELD: _ClassVar[RiskRuleError]
    RISK_RULE_ERROR_TYPE: _ClassVar[RiskRuleError]
    RISK_RULE_ERROR_STEPS: _ClassVar[RiskRuleError]
    RISK_RULE_ERROR_OTHER: _ClassVar[RiskRuleError]
RISK_RULE_STATE_UNSPECIFIED: RiskRuleState
RISK_RULE_STATE_ACTIVE: RiskRuleState
RISK_RULE_STATE_SHADOW: RiskRuleState
RISK_RULE_STATE_DISABLED: RiskRuleState
RISK_LEVEL_UNSPECIFIED: RiskLevel
RISK_LEVEL_LOW: RiskLevel
RISK_LEVEL_MEDIUM: RiskLevel
RISK_LEVEL_HIGH: RiskLevel
RISK_LEVEL_CRITICAL: RiskLevel
RISK_RULE_OUTCOME_UNSPECIFIED: RiskRuleOutcome
RISK_RULE_OUTCOME_MATCHED: RiskRuleOutcome
RISK_RULE_OUTCOME_NOT_MATCHED: RiskRuleOutcome
RISK_RULE_OUTCOME_ERROR: RiskRuleOutcome
RISK_RULE_ERROR_UNSPECIFIED: RiskRuleError
RISK_RULE_ERROR_NO_SUCH_FIELD: RiskRuleError
RISK_RULE_ERROR_TYPE: RiskRuleError
RISK_RULE_ERROR_STEPS: RiskRuleError
RISK_RULE_ERROR_OTHER: RiskRuleError

class RiskRule(_message.Message):
    __slots__ = ("id", "display_name", "expression", "points", "state")
    ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    EXPRESSION_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    id: str
    display_name: str
    expression: str
    points: str
    state: RiskRuleState
    def __init__(self, id: _Optional[str] = ..., display_name: _Optional[str] = ..., expression: _Optional[str] = ..., points: _Optional[str] = ..., state: _Optional[_Union[RiskRuleState, str]] = ...) -> None: ...

class RiskThresholds(_message.Message):
    __slots__ = ("medium", "high", "critical")
    MEDIUM_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    CRITICAL_FIELD_NUMBER: _ClassVar[int]
    medium: str
    high: str
    critical: str
    def __init__(self, medium: _Optional[str] = ..., high: _Optional[str] = ..., critical: _Optional[str] = ...) -> None: ...

class RiskMatrix(_message.Message):
    __slots__ = ("id", "display_name", "description", "version", "rules", "thresholds", "sha256", "etag", "created_at", "updated_at", "deleted_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    DELETED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    display_name: str
    description: str
    version: int
    rules: _containers.RepeatedCompositeFieldContainer[RiskRule]
    thresholds: RiskThresholds
    sha256: bytes
    etag: str
    created_at: _timestamp_pb2.Timestamp
    updated_at: _timestamp_pb2.Timestamp
    deleted_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., display_name: _Optional[str] = ..., description: _Optional[str] = ..., version: _Optional[int] = ..., rules: _Optional[_Iterable[_Union[RiskRule, _Mapping]]] = ..., thresholds: _Optional[_Union[RiskThresholds, _Mapping]] = ..., sha256: _Optional[bytes] = ..., etag: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., deleted_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RiskRuleResult(_message.Message):
    __slots__ = ("rule_id", "state", "outcome", "error", "points")
    RULE_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    rule_id: str
    state: RiskRuleState
    outcome: RiskRuleOutcome
    error: RiskRuleError
    points: str
    def __init__(self, rule_id: _Optional[str] = ..., state: _Optional[_Union[RiskRuleState, str]] = ..., outcome: _Optional[_Union[RiskRuleOutcome, str]] = ..., error: _Optional[_Union[RiskRuleError, str]] = ..., points: _Optional[str] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("id", "entity_id", "entity_version", "entity_hash", "risk_matrix_id", "matrix_version", "matrix_sha256", "engine", "today", "raw_score", "risk_score", "level", "incomplete", "rules", "actor", "principal", "source", "request_id", "evaluated_at", "event_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    ENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    ENTITY_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENTITY_HASH_FIELD_NUMBER: _ClassVar[int]
    RISK_MATRIX_ID_FIELD_NUMBER: _ClassVar[int]
    MATRIX_VERSION_FIELD_NUMBER: _ClassVar[int]
    MATRIX_SHA256_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    TODAY_FIELD_NUMBER: _ClassVar[int]
    RAW_SCORE_FIELD_NUMBER: _ClassVar[int]
    RISK_SCORE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    INCOMPLETE_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EVALUATED_AT_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    entity_id: str
    entity_version: int
    entity_hash: bytes
    risk_matrix_id: str
    matrix_version: int
    matrix_sha256: bytes
    engine: str
    today: str
    raw_score: str
    risk_score: str
    level: RiskLevel
    incomplete: bool
    rules: _containers.RepeatedCompositeFieldContainer[RiskRuleResult]
    actor: str
    principal: str
    source: str
    request_id: str
    evaluated_at: _timestamp_pb2.Timestamp
    event_id: str
    def __init__(self, id: _Optional[str] = ..., entity_id: _Optional[str] = ..., entity_version: _Optional[int] = ..., entity_hash: _Optional[bytes] = ..., risk_matrix_id: _Optional[str] = ..., matrix_version: _Optional[int] = ..., matrix_sha256: _Optional[bytes] = ..., engine: _Optional[str] = ..., today: _Optional[str] = ..., raw_score: _Optional[str] = ..., risk_score: _Optional[str] = ..., level: _Optional[_Union[RiskLevel, str]] = ..., incomplete: bool = ..., rules: _Optional[_Iterable[_Union[RiskRuleResult, _Mapping]]] = ..., actor: _Optional[str] = ..., principal: _Optional[str] = ..., source: _Optional[str] = ..., request_id: _Optional[str] = ..., evaluated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., event_id: _Optional[str] = ...) -> None: ...
