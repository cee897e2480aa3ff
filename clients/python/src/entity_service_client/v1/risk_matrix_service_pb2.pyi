from . import options_pb2 as _options_pb2
from . import risk_pb2 as _risk_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateRiskMatrixRequest(_message.Message):
    __slots__ = ("matrix", "request_id", "validate_only")
    MATRIX_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    matrix: _risk_pb2.RiskMatrix
    request_id: str
    validate_only: bool
    def __init__(self, matrix: _Optional[_Union[_risk_pb2.RiskMatrix, _Mapping]] = ..., request_id: _Optional[str] = ..., validate_only: bool = ...) -> None: ...

class CreateRiskMatrixResponse(_message.Message):
    __slots__ = ("matrix",)
    MATRIX_FIELD_NUMBER: _ClassVar[int]
    matrix: _risk_pb2.RiskMatrix
    def __init__(self, matrix: _Optional[_Union[_risk_pb2.RiskMatrix, _Mapping]] = ...) -> None: ...

class GetRiskMatrixRequest(_message.Message):
    __slots__ = ("risk_matrix_id", "version")
    RISK_MATRIX_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    risk_matrix_id: str
    version: int
    def __init__(self, risk_matrix_id: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetRiskMatrixResponse(_message.Message):
    __slots__ = ("matrix",)
    MATRIX_FIELD_NUMBER: _ClassVar[int]
    matrix: _risk_pb2.RiskMatrix
    def __init__(self, matrix: _Optional[_Union[_risk_pb2.RiskMatrix, _Mapping]] = ...) -> None: ...

class ListRiskMatricesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRiskMatricesResponse(_message.Message):
    __slots__ = ("matrices", "next_page_token")
    MATRICES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    matrices: _containers.RepeatedCompositeFieldContainer[_risk_pb2.RiskMatrix]
    next_page_token: str
    def __init__(self, matrices: _Optional[_Iterable[_Union[_risk_pb2.RiskMatrix, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateRiskMatrixRequest(_message.Message):
    __slots__ = ("risk_matrix_id", "matrix", "update_mask", "etag", "request_id", "validate_only")
    RISK_MATRIX_ID_FIELD_NUMBER: _ClassVar[int]
    MATRIX_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    risk_matrix_id: str
    matrix: _risk_pb2.RiskMatrix
    update_mask: _field_mask_pb2.FieldMask
    etag: str
    request_id: str
    validate_only: bool
    def __init__(self, risk_matrix_id: _Optional[str] = ..., matrix: _Optional[_Union[_risk_pb2.RiskMatrix, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: bool = ...) -> None: ...

class UpdateRiskMatrixResponse(_message.Message):
    __slots__ = ("matrix",)
    MATRIX_FIELD_NUMBER: _ClassVar[int]
    matrix: _risk_pb2.RiskMatrix
    def __init__(self, matrix: _Optional[_Union[_risk_pb2.RiskMatrix, _Mapping]] = ...) -> None: ...

class DeleteRiskMatrixRequest(_message.Message):
    __slots__ = ("risk_matrix_id", "etag", "request_id", "validate_only")
    RISK_MATRIX_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    risk_matrix_id: str
    etag: str
    request_id: str
    validate_only: bool
    def __init__(self, risk_matrix_id: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: bool = ...) -> None: ...

class DeleteRiskMatrixResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
