from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DuplicateRule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DUPLICATE_RULE_UNSPECIFIED: _ClassVar[DuplicateRule]
    DUPLICATE_RULE_SAME_TAX_ID: _ClassVar[DuplicateRule]
    DUPLICATE_RULE_SAME_EXTERNAL_ID: _ClassVar[DuplicateRule]
    DUPLICATE_RULE_SAME_NAME_AND_REGISTRATION_NUMBER: _ClassVar[DuplicateRule]
    DUPLICATE_RULE_SAME_NAME_AND_DATE: _ClassVar[DuplicateRule]
DUPLICATE_RULE_UNSPECIFIED: DuplicateRule
DUPLICATE_RULE_SAME_TAX_ID: DuplicateRule
DUPLICATE_RULE_SAME_EXTERNAL_ID: DuplicateRule
DUPLICATE_RULE_SAME_NAME_AND_REGISTRATION_NUMBER: DuplicateRule
DUPLICATE_RULE_SAME_NAME_AND_DATE: DuplicateRule

class DuplicateSuggestion(_message.Message):
    __slots__ = ("first_entity_id", "second_entity_id", "reasons")
    FIRST_ENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    SECOND_ENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    first_entity_id: str
    second_entity_id: str
    reasons: _containers.RepeatedCompositeFieldContainer[DuplicateReason]
    def __init__(self, first_entity_id: _Optional[str] = ..., second_entity_id: _Optional[str] = ..., reasons: _Optional[_Iterable[_Union[DuplicateReason, _Mapping]]] = ...) -> None: ...

class DuplicateReason(_message.Message):
    __slots__ = ("rule", "first_paths", "second_paths")
    RULE_FIELD_NUMBER: _ClassVar[int]
    FIRST_PATHS_FIELD_NUMBER: _ClassVar[int]
    SECOND_PATHS_FIELD_NUMBER: _ClassVar[int]
    rule: DuplicateRule
    first_paths: _containers.RepeatedScalarFieldContainer[str]
    second_paths: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rule: _Optional[_Union[DuplicateRule, str]] = ..., first_paths: _Optional[_Iterable[str]] = ..., second_paths: _Optional[_Iterable[str]] = ...) -> None: ...
