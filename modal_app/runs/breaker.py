"""A circuit breaker for each project: sandboxes that fail to start again and again are not asked for all the time."""

import time

from pydantic import BaseModel, ConfigDict

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.runs.shared_state import SharedState

_FAILURES = 3  # in a row, before it opens
_FIRST_S = 5.0
_LONGEST_S = 300.0
_FORGOTTEN_S = 3600.0


class _Failures(BaseModel):
    model_config = ConfigDict(frozen=True)

    count: int
    at_s: float

    @property
    def open_until_s(self) -> float:
        """Unix time in seconds until which no attempt is let through."""
        if self.count < _FAILURES:
            return 0
        return self.at_s + min(_LONGEST_S, _FIRST_S * 2.0 ** min(self.count - _FAILURES, 10))


class Breaker:
    """Counts failures in a row. Platform errors are raised as they come."""

    def __init__(self, state: SharedState) -> None:
        self._dict = state.records

    async def check(self, project: str) -> int:
        """How often the last attempts have failed in a row.

        Raises ContractError `sandbox_unavailable` while it is open.
        """
        found = await self._read(project)
        left_s = found.open_until_s - time.time()
        if left_s > 0:
            message = f"this project's sandbox failed to start {found.count} times in a row: try in {left_s:.0f} s"
            raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, message)
        return found.count

    async def failed(self, project: str) -> None:
        """Note a failure."""
        found = await self._read(project)
        failures = _Failures(count=found.count + 1, at_s=time.time())
        await self._dict.put.aio(_name(project), failures.model_dump_json())

    async def worked(self, project: str) -> None:
        """Forget the failures."""
        await self._dict.pop.aio(_name(project), None)

    async def _read(self, project: str) -> _Failures:
        kept = await self._dict.get.aio(_name(project))
        found = _Failures(count=0, at_s=0) if kept is None else _Failures.model_validate_json(kept)
        return found if time.time() - found.at_s < _FORGOTTEN_S else _Failures(count=0, at_s=0)


def _name(project: str) -> str:
    return f"breaker/{project}"
