"""The one place where the reasons of CloudErrors become gRPC and HTTP statuses."""

from grpc import StatusCode

from workbench.local_cloud.base.errors import Reason

GRPC = {reason: StatusCode[reason.name] for reason in Reason}
_HTTP = {
    Reason.UNAUTHENTICATED: 401,
    Reason.NOT_FOUND: 404,
    Reason.INVALID_ARGUMENT: 400,
    Reason.FAILED_PRECONDITION: 409,
}


def http_status(reason: Reason) -> int:
    """Return the HTTP status of a reason; 500 for the reasons that no HTTP route gives on purpose."""
    return _HTTP.get(reason, 500)
