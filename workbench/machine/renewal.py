"""Keeps a lease alive by a thread of this process, so that what was lent is gone soon after the process is."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from workbench.errors import WorkbenchError

_TRIES_IN_A_LEASE = 4


@contextmanager
def renewed(renew: Callable[[], object], *, lease_s: float, name: str) -> Iterator[None]:
    """Call `renew` several times in each `lease_s` seconds while the block lasts, from a thread of this `name`.

    A renewal that raises WorkbenchError is tried again at the next time.
    """
    over = threading.Event()

    def keep() -> None:
        while not over.wait(lease_s / _TRIES_IN_A_LEASE):
            with suppress(WorkbenchError):  # it is over, or its keeper is away: then what was lent is gone, too
                renew()

    keeper = threading.Thread(target=keep, name=name, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
