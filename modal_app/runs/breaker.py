"""A circuit breaker for each project: after 3 failed starts of its sandbox in a row, it refuses runs for a while.

The wait doubles with every further failure, from 5 s up to 300 s. A sandbox that starts, or an hour without a failure,
resets it.
"""

import time

from pydantic import BaseModel, ConfigDict

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.runs.shared_state import SharedState

_FAILURES = 3  # in a row, before it opens
_FIRST_S = 5.0  # the first wait
_LONGEST_S = 300.0
_FORGOTTEN_S = 3600.0  # after the last failure


class _Failures(BaseModel):
    model_config = ConfigDict(frozen=True)

    count: int
    at_s: float

    @property
    def open_until_s(self) -> float:
        """The Unix time in seconds until which runs are refused; 0 while there were too few failures."""
        if self.count < _FAILURES:
            return 0
        return self.at_s + min(_LONGEST_S, _FIRST_S * 2.0 ** min(self.count - _FAILURES, 10))


class Breaker:
    """Counts failed starts in a row, for each project by its name. Every method raises platform errors."""

    def __init__(self, state: SharedState) -> None:
        self._dict = state.records

    async def check(self, project: str) -> int:
        """Return how many starts of the project's sandbox have failed in a row.

        Raises ContractError `sandbox_unavailable` while the breaker is open, with the seconds that are left.
        """
        found = await self._read(project)
        left_s = found.open_until_s - time.time()
        if left_s > 0:
            times = f"{found.count} times in a row"
            message = f"this project's sandbox failed to start {times}: try again in {left_s:.0f} s"
            raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, message)
        return found.count

    async def failed(self, project: str) -> None:
        """Count a start that failed."""
        found = await self._read(project)
        failures = _Failures(count=found.count + 1, at_s=time.time())
        await self._dict.put.aio(_name(project), failures.model_dump_json())

    async def worked(self, project: str) -> None:
        """Reset the count after a start that succeeded."""
        await self._dict.pop.aio(_name(project), None)

    async def _read(self, project: str) -> _Failures:
        kept = await self._dict.get.aio(_name(project))
        found = _Failures(count=0, at_s=0) if kept is None else _Failures.model_validate_json(kept)
        return found if time.time() - found.at_s < _FORGOTTEN_S else _Failures(count=0, at_s=0)


def _name(project: str) -> str:
    return f"breaker/{project}"
