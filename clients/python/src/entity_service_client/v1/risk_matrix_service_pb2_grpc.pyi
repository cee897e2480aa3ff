"""Generated: do not edit."""

from typing import Any

from .. import calls
from . import risk_matrix_service_pb2


class RiskMatrixServiceStub:
    """The risk matrices of the caller's organization. AnalyzeEntity of EntityService
    runs them. ListAdministrationEvents shows who made and changed them.
    """
    def __init__(self, channel: Any) -> None: ...
    @property
    def CreateRiskMatrix(self) -> calls.UnaryUnary[risk_matrix_service_pb2.CreateRiskMatrixRequest, risk_matrix_service_pb2.CreateRiskMatrixResponse]:
        """Makes a matrix and its version 1. Every expression is read first: one that
        cannot be run is VALIDATION_ERROR, with the rule, the line and the column. At
        most 100 matrices of an organization: VALIDATION_ERROR.
        Errors: OVERLOADED.
        """
        ...
    @property
    def GetRiskMatrix(self) -> calls.UnaryUnary[risk_matrix_service_pb2.GetRiskMatrixRequest, risk_matrix_service_pb2.GetRiskMatrixResponse]:
        """Reads a matrix, a deleted one too, as it is or in an earlier version.
        """
        ...
    @property
    def ListRiskMatrices(self) -> calls.UnaryUnary[risk_matrix_service_pb2.ListRiskMatricesRequest, risk_matrix_service_pb2.ListRiskMatricesResponse]:
        """Lists the matrices that are not deleted by id, which is about the order of
        their creation.
        """
        ...
    @property
    def UpdateRiskMatrix(self) -> calls.UnaryUnary[risk_matrix_service_pb2.UpdateRiskMatrixRequest, risk_matrix_service_pb2.UpdateRiskMatrixResponse]:
        """Changes a matrix. Other rules or thresholds make the next version; a change of
        display_name or description makes none. No entity is analyzed by it.
        Errors: ETAG_MISMATCH, OVERLOADED.
        """
        ...
    @property
    def DeleteRiskMatrix(self) -> calls.UnaryUnary[risk_matrix_service_pb2.DeleteRiskMatrixRequest, risk_matrix_service_pb2.DeleteRiskMatrixResponse]:
        """Deletes a matrix softly: it is kept with its versions, and AnalyzeEntity finds
        it no more. NOT_FOUND where there is none, or it was deleted.
        Errors: ETAG_MISMATCH.
        """
        ...

class RiskMatrixServiceAsyncStub:
    """The risk matrices of the caller's organization. AnalyzeEntity of EntityService
    runs them. ListAdministrationEvents shows who made and changed them.
    """
    def __init__(self, channel: Any) -> None: ...
    @property
    def CreateRiskMatrix(self) -> calls.AsyncUnaryUnary[risk_matrix_service_pb2.CreateRiskMatrixRequest, risk_matrix_service_pb2.CreateRiskMatrixResponse]:
        """Makes a matrix and its version 1. Every expression is read first: one that
        cannot be run is VALIDATION_ERROR, with the rule, the line and the column. At
        most 100 matrices of an organization: VALIDATION_ERROR.
        Errors: OVERLOADED.
        """
        ...
    @property
    def GetRiskMatrix(self) -> calls.AsyncUnaryUnary[risk_matrix_service_pb2.GetRiskMatrixRequest, risk_matrix_service_pb2.GetRiskMatrixResponse]:
        """Reads a matrix, a deleted one too, as it is or in an earlier version.
        """
        ...
    @property
    def ListRiskMatrices(self) -> calls.AsyncUnaryUnary[risk_matrix_service_pb2.ListRiskMatricesRequest, risk_matrix_service_pb2.ListRiskMatricesResponse]:
        """Lists the matrices that are not deleted by id, which is about the order of
        their creation.
        """
        ...
    @property
    def UpdateRiskMatrix(self) -> calls.AsyncUnaryUnary[risk_matrix_service_pb2.UpdateRiskMatrixRequest, risk_matrix_service_pb2.UpdateRiskMatrixResponse]:
        """Changes a matrix. Other rules or thresholds make the next version; a change of
        display_name or description makes none. No entity is analyzed by it.
        Errors: ETAG_MISMATCH, OVERLOADED.
        """
        ...
    @property
    def DeleteRiskMatrix(self) -> calls.AsyncUnaryUnary[risk_matrix_service_pb2.DeleteRiskMatrixRequest, risk_matrix_service_pb2.DeleteRiskMatrixResponse]:
        """Deletes a matrix softly: it is kept with its versions, and AnalyzeEntity finds
        it no more. NOT_FOUND where there is none, or it was deleted.
        Errors: ETAG_MISMATCH.
        """
        ...
