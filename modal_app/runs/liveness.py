"""Tells the model gateway whether a run is still going on, before it spends anything on the run's behalf."""

import time
from collections.abc import Awaitable, Callable

from modal_app.runs.run_records import Records
from modal_app.runs.shared_state import SharedState

_KNOWN_S = 1.0  # an answer is reused for so long, so a token works at most so long after its run's end
_MAX_KNOWN = 1000


def liveness(state: SharedState, *, clock: Callable[[], float] = time.monotonic) -> Callable[[str], Awaitable[bool]]:
    """Return a function from run id to whether the run is open, by its record; answers are reused for a second.

    Unknown runs are not open. The function raises platform errors.
    """
    records = Records(state)
    known: dict[str, tuple[float, bool]] = {}

    async def is_live(run_id: str) -> bool:
        at, live = known.get(run_id, (float("-inf"), False))
        if clock() - at < _KNOWN_S:
            return live
        asked_at = clock()
        record = await records.get(run_id)
        live = record is not None and record.state == "open"
        if len(known) >= _MAX_KNOWN:
            known.clear()
        known[run_id] = (asked_at, live)
        return live

    return is_live
