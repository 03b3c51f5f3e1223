"""The one place where the reasons of CloudErrors become gRPC and HTTP statuses."""

from grpc import StatusCode
from modal_proto import api_pb2

from workbench.local_cloud.base.errors import CloudError, Reason

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


def trailing_metadata(error: CloudError) -> tuple[tuple[str, bytes], ...]:
    """Return an error's detail as gRPC sends it: a google.rpc.Status, of which RPCStatus is the protocol's own copy."""
    if error.detail is None:
        return ()
    status = api_pb2.RPCStatus(code=GRPC[error.reason].value[0], message=error.message)
    status.details.add().Pack(error.detail, type_url_prefix="type.modal.com/")
    return (("grpc-status-details-bin", status.SerializeToString()),)
