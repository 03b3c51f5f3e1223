"""Retries of inputs, by the function's policy: which results are retried, and after how long."""

from modal_proto import api_pb2

_MIN_DELAY_MS, _MAX_DELAY_MS = 1000.0, 60_000.0  # the limits of the SDK's own retries
_RESULT = api_pb2.GenericResult
RETRIED = frozenset(
    (_RESULT.GENERIC_STATUS_FAILURE, _RESULT.GENERIC_STATUS_TIMEOUT, _RESULT.GENERIC_STATUS_INTERNAL_FAILURE)
)


def delay_s(policy: api_pb2.FunctionRetryPolicy, attempt: int) -> float | None:
    """Return the seconds to wait before retry number `attempt`, counted from 1; None when it is one too many."""
    if attempt > policy.retries:
        return None
    delay_ms = policy.initial_delay_ms * policy.backoff_coefficient ** (attempt - 1)
    return min(max(delay_ms, _MIN_DELAY_MS), policy.max_delay_ms or _MAX_DELAY_MS, _MAX_DELAY_MS) / 1000
