"""The one error of the cloud's rooms: a reason, and a sentence for the person who made the call.

The reasons are the canonical codes of `google.rpc.Code`. Only `server.statuses` turns them into gRPC or HTTP statuses.
"""

from enum import StrEnum

from google.protobuf.message import Message


class Reason(StrEnum):
    """The kind of a refusal or failure, named as gRPC names its status codes."""

    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"


class CloudError(Exception):
    """A call was refused or failed. `message` is a whole sentence that may be shown to the caller: it has no secret.

    `detail` is a message of the protocol by which the SDK tells this refusal from others of the same reason.
    """

    def __init__(self, reason: Reason, message: str, *, detail: Message | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.detail = detail


def not_found(message: str, *, detail: Message | None = None) -> CloudError:
    """Build NOT_FOUND, which the SDK raises as `modal.exception.NotFoundError`."""
    return CloudError(Reason.NOT_FOUND, message, detail=detail)


def already_exists(message: str) -> CloudError:
    """Build ALREADY_EXISTS, which the SDK raises as `modal.exception.AlreadyExistsError`."""
    return CloudError(Reason.ALREADY_EXISTS, message)


def invalid(message: str) -> CloudError:
    """Build INVALID_ARGUMENT, which the SDK raises as `modal.exception.InvalidError`."""
    return CloudError(Reason.INVALID_ARGUMENT, message)


def failed_precondition(message: str) -> CloudError:
    """Build FAILED_PRECONDITION."""
    return CloudError(Reason.FAILED_PRECONDITION, message)


def exhausted(message: str) -> CloudError:
    """Build RESOURCE_EXHAUSTED, on which the SDK retries the call for a while."""
    return CloudError(Reason.RESOURCE_EXHAUSTED, message)


def too_large(what: str, size: int, limit: int) -> CloudError:
    """Build the refusal of `what`, which has `size` bytes where at most `limit` are allowed.

    The SDK raises it as `modal.exception.RequestSizeError`.
    """
    # Modal's front answers such a request with HTTP status 413; the SDK looks for exactly these words (dict.py).
    return invalid(f"{what} is at most {limit:,} bytes, not {size:,} (status = '413').")
