"""Counts what each run has used of the model and refuses more than its limits. In memory, for one process.

When the gateway has several containers, each counts for itself: a run whose requests are spread over them may use a
whole limit in each.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from modal_app.model_gateway.error_answers import Refusal
from modal_app.model_gateway.gateway_settings import Limits
from modal_app.model_gateway.run_tokens import RunClaims

_MINUTE_S = 60.0


@dataclass
class Spent:
    """What one run has used. `expires_at` is Unix time; `lately` are the times of the last minute's requests."""

    expires_at: float
    requests: int = 0
    tokens: int = 0
    bytes_in: int = 0
    at_once: int = 0
    lately: deque[float] = field(default_factory=deque)


class Meter:
    """The accounts of all runs of this process. `clock` gives Unix time in seconds, as in the tokens' expiry."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._runs: dict[str, Spent] = {}

    def spent(self, claims: RunClaims) -> Spent:
        """A run's account, created if need be; accounts of other runs whose tokens have expired are dropped."""
        now = self._clock()
        if claims.run_id not in self._runs:
            for run_id in [name for name, one in self._runs.items() if one.expires_at <= now and not one.at_once]:
                del self._runs[run_id]
        spent = self._runs.setdefault(claims.run_id, Spent(claims.expires_at))
        spent.expires_at = max(spent.expires_at, claims.expires_at)
        return spent

    @contextmanager
    def admitted(self, claims: RunClaims) -> Iterator[Spent]:
        """Count one request, as going on for the duration of the block; raises Refusal when a limit is reached."""
        spent, limits, now = self.spent(claims), self._limits, self._clock()
        while spent.lately and spent.lately[0] <= now - _MINUTE_S:
            spent.lately.popleft()
        most = _lower(limits.requests, claims.max_requests)
        if spent.requests >= most:
            raise Refusal(403, f"the run has made {most} requests to the model, all it may", reason="requests")
        most = _lower(limits.tokens, claims.max_tokens)
        if spent.tokens >= most:
            raise Refusal(403, f"the run has spent {spent.tokens} tokens and may spend {most}", reason="tokens")
        if spent.bytes_in >= limits.total_bytes:
            message = f"the run has sent {spent.bytes_in} bytes to the model and may send {limits.total_bytes}"
            raise Refusal(403, message, reason="bytes")
        if spent.at_once >= limits.at_once:
            message = f"the run has {spent.at_once} requests at once, all it may: wait for one to end"
            raise Refusal(429, message, reason="at_once", retry_after_s=1)
        if len(spent.lately) >= limits.requests_per_minute:
            wait = max(1, math.ceil(spent.lately[0] + _MINUTE_S - now))
            message = f"the run has made {len(spent.lately)} requests in a minute, all it may: wait {wait} s"
            raise Refusal(429, message, reason="rate", retry_after_s=wait)
        spent.requests += 1
        spent.lately.append(now)
        spent.at_once += 1
        try:
            yield spent
        finally:
            spent.at_once -= 1


def _lower(limit: int, claimed: int | None) -> int:
    return limit if claimed is None else min(limit, claimed)
