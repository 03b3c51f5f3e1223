"""Counts a run's readers, in this container and in others: a run without a reader is cancelled after a grace period."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_FIRST_S = 10.0  # the least time that the first reader has to come, however short the grace period


class Readers:
    """Counts readers and calls `on_alone` when there has been none for `grace_s` seconds.

    The first reader has at least 10 seconds. Made within a running event loop.
    """

    def __init__(self, grace_s: float, on_alone: Callable[[], None]) -> None:
        self._grace_s = grace_s
        self._on_alone = on_alone
        self._here = 0
        self._remote: dict[str, asyncio.TimerHandle] = {}
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._wait(max(grace_s, _FIRST_S))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count one reader in this container for the duration of the block."""
        self._here += 1
        self._stop()
        try:
            yield
        finally:
            self._here -= 1
            self._check()

    def remote(self, reader: str, for_s: float) -> None:
        """Count a reader in another container, by its id, for `for_s` seconds from now; a repeated call renews it."""
        if self._closed:
            return
        self._forget(reader)
        self._remote[reader] = asyncio.get_running_loop().call_later(for_s, self.left, reader)
        self._stop()

    def left(self, reader: str) -> None:
        """Stop counting a reader in another container."""
        self._forget(reader)
        self._check()

    def close(self) -> None:
        """Stop counting: `on_alone` is not called any more. Idempotent."""
        self._closed = True
        self._stop()
        for reader in list(self._remote):
            self._forget(reader)

    def _forget(self, reader: str) -> None:
        timer = self._remote.pop(reader, None)
        if timer is not None:
            timer.cancel()

    def _check(self) -> None:
        if not self._here and not self._remote and self._timer is None and not self._closed:
            self._wait(self._grace_s)

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._alone)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _alone(self) -> None:
        self._timer = None
        self._on_alone()
