"""The one table of error codes: the HTTP status each has before a stream, whether a retry can help, what it means."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class ErrorCode(StrEnum):
    """Why a request was refused or a run failed."""

    UNAUTHORIZED = "unauthorized"
    INVALID_REQUEST = "invalid_request"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    GONE = "gone"
    PROJECT_BUSY = "project_busy"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    TOO_LARGE = "too_large"
    OVER_CAPACITY = "over_capacity"
    PROCESS_FAILED = "process_failed"
    PROCESS_TIMEOUT = "process_timeout"
    RUN_TIMEOUT = "run_timeout"
    CANCELLED = "cancelled"
    STALLED = "stalled"
    OUTPUT_LIMIT = "output_limit"
    OUT_OF_MEMORY = "out_of_memory"
    MODEL_ERROR = "model_error"
    MODEL_RATE_LIMITED = "model_rate_limited"
    MODEL_OVERLOADED = "model_overloaded"
    MODEL_REFUSED = "model_refused"
    CONTEXT_FULL = "context_full"
    MODEL_INVALID_OUTPUT = "model_invalid_output"
    PERMISSION_DENIED = "permission_denied"
    SANDBOX_UNAVAILABLE = "sandbox_unavailable"
    SANDBOX_LOST = "sandbox_lost"
    STREAM_LOST = "stream_lost"
    CONTAINER_LOST = "container_lost"
    COMMIT_FAILED = "commit_failed"
    INTERNAL = "internal"


RECOVERABLE = (
    "Whether the same request may succeed later. A run that has ended stays as it ended: with its Idempotency-Key the "
    "request finds it again, so it is repeated with a new one."
)


@dataclass(frozen=True)
class ErrorInfo:
    """One row. `status` is the HTTP status when no stream has begun; RECOVERABLE explains `recoverable`."""

    status: int
    recoverable: bool
    meaning: str


ERRORS: Mapping[ErrorCode, ErrorInfo] = MappingProxyType(
    {
        ErrorCode.UNAUTHORIZED: ErrorInfo(401, False, "the secret is missing or wrong"),
        ErrorCode.INVALID_REQUEST: ErrorInfo(400, False, "the request does not follow the contract"),
        ErrorCode.NOT_FOUND: ErrorInfo(404, False, "there is no such path, run, file or commit"),
        ErrorCode.METHOD_NOT_ALLOWED: ErrorInfo(405, False, "the path takes other methods, which `Allow` names"),
        ErrorCode.GONE: ErrorInfo(410, False, "the run is no longer kept"),
        ErrorCode.PROJECT_BUSY: ErrorInfo(409, True, "another run holds the project"),
        ErrorCode.IDEMPOTENCY_CONFLICT: ErrorInfo(409, False, "the same Idempotency-Key came with another body"),
        ErrorCode.TOO_LARGE: ErrorInfo(413, False, "the body, a field or the answer is over its limit"),
        ErrorCode.OVER_CAPACITY: ErrorInfo(429, True, "too many runs at once"),
        ErrorCode.PROCESS_FAILED: ErrorInfo(422, False, "the job's process ended with an exit code other than 0"),
        ErrorCode.PROCESS_TIMEOUT: ErrorInfo(504, True, "the job's process did not end in its time"),
        ErrorCode.RUN_TIMEOUT: ErrorInfo(504, True, "the run as a whole did not end in its time"),
        ErrorCode.CANCELLED: ErrorInfo(499, True, "the run was cancelled, or its reader left"),
        ErrorCode.STALLED: ErrorInfo(504, True, "the job showed no life for too long"),
        ErrorCode.OUTPUT_LIMIT: ErrorInfo(413, False, "the job printed more than a run may"),
        ErrorCode.OUT_OF_MEMORY: ErrorInfo(507, False, "the job used more memory than its sandbox has"),
        ErrorCode.MODEL_ERROR: ErrorInfo(502, True, "the model's service failed"),
        ErrorCode.MODEL_RATE_LIMITED: ErrorInfo(429, True, "the model's service takes no more requests for a while"),
        ErrorCode.MODEL_OVERLOADED: ErrorInfo(503, True, "the model's service has no room at the moment"),
        ErrorCode.MODEL_REFUSED: ErrorInfo(422, False, "the model refused to answer what it was asked"),
        ErrorCode.CONTEXT_FULL: ErrorInfo(413, False, "the session or the prompt is longer than the model takes"),
        ErrorCode.MODEL_INVALID_OUTPUT: ErrorInfo(502, True, "the model's output does not have the form asked for"),
        ErrorCode.PERMISSION_DENIED: ErrorInfo(403, False, "the job needed a permission that it was not given"),
        ErrorCode.SANDBOX_UNAVAILABLE: ErrorInfo(503, True, "no sandbox could be started"),
        ErrorCode.SANDBOX_LOST: ErrorInfo(502, True, "the sandbox ended before its job"),
        ErrorCode.STREAM_LOST: ErrorInfo(
            502, True, "a stream broke off: of events without a terminal one, or of what the job printed"
        ),
        ErrorCode.CONTAINER_LOST: ErrorInfo(502, True, "the endpoint's container ended during the run"),
        ErrorCode.COMMIT_FAILED: ErrorInfo(
            500, True, "the job succeeded but its files could not be committed; not recoverable when they are the cause"
        ),
        ErrorCode.INTERNAL: ErrorInfo(500, True, "an error of the endpoint itself; its log has the details"),
    }
)


class ContractError(Exception):
    """A refusal or failure that is told to the caller: a code from the table, and a message without secrets.

    `exit_code` is that of the job's process, if it was seen to end. `recoverable` is the table's value unless it is
    given; `run_id` is the run that a refusal is about.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        exit_code: int | None = None,
        recoverable: bool | None = None,
        run_id: str | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.exit_code = exit_code
        self.run_id = run_id
        self.recoverable = ERRORS[code].recoverable if recoverable is None else recoverable

    @property
    def status(self) -> int:
        """The HTTP status of the error's code, used when no stream has begun."""
        return ERRORS[self.code].status


def internal_error() -> ContractError:
    """The error that a caller gets for a failure of the endpoint itself: its details are only in the log."""
    return ContractError(ErrorCode.INTERNAL, "an internal error; the endpoint's log has the details")
