"""How a handler says no: a gRPC status with a sentence for the person at the other end."""

from grpc import StatusCode


class RpcFailure(Exception):  # noqa: N818  # it is a reply, not a defect
    """Answer the call with this status; the server's interceptor turns it into the wire's form."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def not_found(message: str) -> RpcFailure:
    """Build NOT_FOUND, which the SDK raises as `modal.exception.NotFoundError`."""
    return RpcFailure(StatusCode.NOT_FOUND, message)


def already_exists(message: str) -> RpcFailure:
    """Build ALREADY_EXISTS, which the SDK raises as `modal.exception.AlreadyExistsError`."""
    return RpcFailure(StatusCode.ALREADY_EXISTS, message)


def invalid(message: str) -> RpcFailure:
    """Build INVALID_ARGUMENT, which the SDK raises as `modal.exception.InvalidError`."""
    return RpcFailure(StatusCode.INVALID_ARGUMENT, message)


def failed_precondition(message: str) -> RpcFailure:
    """Build FAILED_PRECONDITION."""
    return RpcFailure(StatusCode.FAILED_PRECONDITION, message)


def exhausted(message: str) -> RpcFailure:
    """Build RESOURCE_EXHAUSTED, after which the SDK tries again for a while."""
    return RpcFailure(StatusCode.RESOURCE_EXHAUSTED, message)


def too_large(what: str, size: int, limit: int) -> RpcFailure:
    """Build the refusal of too many bytes, which the SDK raises as `modal.exception.RequestSizeError`."""
    # Modal's front answers such a request with HTTP status 413; the SDK looks for exactly these words (dict.py).
    return invalid(f"{what} is at most {limit:,} bytes, not {size:,} (status = '413').")
