"""An event loop in a thread of its own.

Runs go on while a notebook's cell blocks, and starting one never blocks a cell.
The thread is a daemon: a notebook or script that forgets `close()` can still end. Its work has a context of its own: in
that of the cell that asked for it, messages to widgets would count as that cell's, and be dropped when it is over.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")

_STOP_S = 10.0
_FORKED = (
    "this Workbench was made in another process, whose thread serves it: connect again in each process "
    '(multiprocessing: in the worker itself, or with the start method "spawn")'
)


class BackgroundLoop:
    """Runs coroutines for blocking callers. `close` cancels those that are left and ends the thread."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="workbench", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start a coroutine; returns a future of its result.

        Raises RuntimeError when the loop is closed, or when this process was forked from the one that has its thread.
        """
        if self._loop.is_closed() or self._forked:
            work.close()
            raise RuntimeError(_FORKED if self._forked else "this Workbench is closed: connect again")
        return Context().run(asyncio.run_coroutine_threadsafe, work, self._loop)

    def call(self, work: Coroutine[Any, Any, T], *, timeout_s: float) -> T:
        """Run a coroutine to its end and return its result; raises what it raises, and TimeoutError.

        The coroutine is cancelled after `timeout_s` seconds, or when the caller is interrupted.
        """
        future = self.submit(work)
        try:
            return future.result(timeout_s)
        except BaseException:
            future.cancel()
            raise

    def soon(self, work: Callable[..., None], *arguments: Any) -> None:
        """Call a function in the loop's thread, after those that were passed earlier. May be called from any thread."""
        self._loop.call_soon_threadsafe(work, *arguments, context=Context())

    def close(self) -> None:
        """Cancel all coroutines, wait up to 10 s for their cleanup, and end the thread. Idempotent."""
        if self._loop.is_closed() or self._forked:
            return
        try:
            self.call(self._cancel_all(), timeout_s=_STOP_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_STOP_S)
            if not self._thread.is_alive():
                self._loop.close()

    @property
    def _forked(self) -> bool:
        return os.getpid() != self._process

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _cancel_all(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_S / 2)
        await self._loop.shutdown_asyncgens()
