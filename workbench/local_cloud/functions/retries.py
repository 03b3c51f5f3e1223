"""When an input is tried again, and after how long: a function's own policy."""

from modal_proto import api_pb2

_MIN_DELAY_MS, _MAX_DELAY_MS = 1000.0, 60_000.0  # the bounds that the SDK's own retries keep
_RESULT = api_pb2.GenericResult
RETRIED = frozenset(
    (_RESULT.GENERIC_STATUS_FAILURE, _RESULT.GENERIC_STATUS_TIMEOUT, _RESULT.GENERIC_STATUS_INTERNAL_FAILURE)
)


def delay_s(policy: api_pb2.FunctionRetryPolicy, attempt: int) -> float | None:
    """Seconds to wait before retry number `attempt`, counted from 1; None when there is no such retry."""
    if attempt > policy.retries:
        return None
    delay_ms = policy.initial_delay_ms * policy.backoff_coefficient ** (attempt - 1)
    return min(max(delay_ms, _MIN_DELAY_MS), policy.max_delay_ms or _MAX_DELAY_MS, _MAX_DELAY_MS) / 1000
