"""What runs have asked and spent so far, and the moment at which they may not go on. In memory, for one process.

A gateway of several containers has several meters: each grants the whole limit. Tokens die with their runs, so a run
that is spread over containers may spend a limit in each.
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
    """One run's account."""

    expires_at: float
    requests: int = 0
    tokens: int = 0
    bytes_in: int = 0
    at_once: int = 0
    lately: deque[float] = field(default_factory=deque)


class Meter:
    """Counts for each run. `clock` is Unix time in seconds, as the tokens' expiry is."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._runs: dict[str, Spent] = {}

    def spent(self, claims: RunClaims) -> Spent:
        """A run's account; accounts of runs whose tokens have expired are forgotten."""
        now = self._clock()
        if claims.run_id not in self._runs:
            for run_id in [name for name, one in self._runs.items() if one.expires_at <= now and not one.at_once]:
                del self._runs[run_id]
        spent = self._runs.setdefault(claims.run_id, Spent(claims.expires_at))
        spent.expires_at = max(spent.expires_at, claims.expires_at)
        return spent

    @contextmanager
    def admitted(self, claims: RunClaims) -> Iterator[Spent]:
        """Count one request for as long as it lasts; raises Refusal when the run may not make it."""
        spent, limits, now = self.spent(claims), self._limits, self._clock()
        while spent.lately and spent.lately[0] <= now - _MINUTE_S:
            spent.lately.popleft()
        if spent.requests >= _lower(limits.requests, claims.max_requests):
            raise Refusal(403, "the run has made all the requests that it may", reason="requests")
        if spent.tokens >= _lower(limits.tokens, claims.max_tokens):
            raise Refusal(403, "the run has spent all the tokens that it may", reason="tokens")
        if spent.bytes_in >= limits.total_bytes:
            raise Refusal(403, "the run has sent all the bytes that it may", reason="bytes")
        if spent.at_once >= limits.at_once:
            raise Refusal(429, "the run has too many requests at once", reason="at_once", retry_after_s=1)
        if len(spent.lately) >= limits.requests_per_minute:
            wait = max(1, math.ceil(spent.lately[0] + _MINUTE_S - now))
            raise Refusal(429, "the run makes too many requests a minute", reason="rate", retry_after_s=wait)
        spent.requests += 1
        spent.lately.append(now)
        spent.at_once += 1
        try:
            yield spent
        finally:
            spent.at_once -= 1


def _lower(limit: int, claimed: int | None) -> int:
    return limit if claimed is None else min(limit, claimed)
