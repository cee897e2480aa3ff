"""Generated: do not edit."""

from typing import Any

from .. import calls
from . import organization_service_pb2


class OrganizationServiceStub:
    """Organizations and their API keys. A key of the scope `operator` reaches every
    organization; one of the scope `admin` its own alone, and another
    organization's id is NOT_FOUND to it. An empty organization_id is the
    caller's own.
    """
    def __init__(self, channel: Any) -> None: ...
    @property
    def CreateOrganization(self) -> calls.UnaryUnary[organization_service_pb2.CreateOrganizationRequest, organization_service_pb2.CreateOrganizationResponse]:
        """Creates an organization, without keys. Operators only.
        """
        ...
    @property
    def GetOrganization(self) -> calls.UnaryUnary[organization_service_pb2.GetOrganizationRequest, organization_service_pb2.GetOrganizationResponse]:
        """Reads one organization.
        """
        ...
    @property
    def ListOrganizations(self) -> calls.UnaryUnary[organization_service_pb2.ListOrganizationsRequest, organization_service_pb2.ListOrganizationsResponse]:
        """Lists organizations by id. Operators only.
        """
        ...
    @property
    def UpdateOrganization(self) -> calls.UnaryUnary[organization_service_pb2.UpdateOrganizationRequest, organization_service_pb2.UpdateOrganizationResponse]:
        """Changes the name or a policy of an organization.
        Errors: ETAG_MISMATCH.
        """
        ...
    @property
    def CreateApiKey(self) -> calls.UnaryUnary[organization_service_pb2.CreateApiKeyRequest, organization_service_pb2.CreateApiKeyResponse]:
        """Makes an API key and answers its secret, once: it is stored nowhere, so the
        call has no request_id and a repeated one makes another key.
        """
        ...
    @property
    def ListApiKeys(self) -> calls.UnaryUnary[organization_service_pb2.ListApiKeysRequest, organization_service_pb2.ListApiKeysResponse]:
        """Lists the keys of an organization by id, revoked ones too; never a secret.
        """
        ...
    @property
    def RevokeApiKey(self) -> calls.UnaryUnary[organization_service_pb2.RevokeApiKeyRequest, organization_service_pb2.RevokeApiKeyResponse]:
        """Revokes a key: it is refused within 5 s, and every stream that it began,
        imports too, has ended by then. A revoked one: no change.
        """
        ...
    @property
    def ListAdministrationEvents(self) -> calls.UnaryUnary[organization_service_pb2.ListAdministrationEventsRequest, organization_service_pb2.ListAdministrationEventsResponse]:
        """Lists who made or revoked a key, made, changed or deleted a webhook endpoint,
        rotated its secret, had deliveries sent again, created or changed the
        organization: newest first. A page ends early where it would be larger than
        about 2 MiB.
        """
        ...

class OrganizationServiceAsyncStub:
    """Organizations and their API keys. A key of the scope `operator` reaches every
    organization; one of the scope `admin` its own alone, and another
    organization's id is NOT_FOUND to it. An empty organization_id is the
    caller's own.
    """
    def __init__(self, channel: Any) -> None: ...
    @property
    def CreateOrganization(self) -> calls.AsyncUnaryUnary[organization_service_pb2.CreateOrganizationRequest, organization_service_pb2.CreateOrganizationResponse]:
        """Creates an organization, without keys. Operators only.
        """
        ...
    @property
    def GetOrganization(self) -> calls.AsyncUnaryUnary[organization_service_pb2.GetOrganizationRequest, organization_service_pb2.GetOrganizationResponse]:
        """Reads one organization.
        """
        ...
    @property
    def ListOrganizations(self) -> calls.AsyncUnaryUnary[organization_service_pb2.ListOrganizationsRequest, organization_service_pb2.ListOrganizationsResponse]:
        """Lists organizations by id. Operators only.
        """
        ...
    @property
    def UpdateOrganization(self) -> calls.AsyncUnaryUnary[organization_service_pb2.UpdateOrganizationRequest, organization_service_pb2.UpdateOrganizationResponse]:
        """Changes the name or a policy of an organization.
        Errors: ETAG_MISMATCH.
        """
        ...
    @property
    def CreateApiKey(self) -> calls.AsyncUnaryUnary[organization_service_pb2.CreateApiKeyRequest, organization_service_pb2.CreateApiKeyResponse]:
        """Makes an API key and answers its secret, once: it is stored nowhere, so the
        call has no request_id and a repeated one makes another key.
        """
        ...
    @property
    def ListApiKeys(self) -> calls.AsyncUnaryUnary[organization_service_pb2.ListApiKeysRequest, organization_service_pb2.ListApiKeysResponse]:
        """Lists the keys of an organization by id, revoked ones too; never a secret.
        """
        ...
    @property
    def RevokeApiKey(self) -> calls.AsyncUnaryUnary[organization_service_pb2.RevokeApiKeyRequest, organization_service_pb2.RevokeApiKeyResponse]:
        """Revokes a key: it is refused within 5 s, and every stream that it began,
        imports too, has ended by then. A revoked one: no change.
        """
        ...
    @property
    def ListAdministrationEvents(self) -> calls.AsyncUnaryUnary[organization_service_pb2.ListAdministrationEventsRequest, organization_service_pb2.ListAdministrationEventsResponse]:
        """Lists who made or revoked a key, made, changed or deleted a webhook endpoint,
        rotated its secret, had deliveries sent again, created or changed the
        organization: newest first. A page ends early where it would be larger than
        about 2 MiB.
        """
        ...
