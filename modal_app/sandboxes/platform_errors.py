"""The exceptions that a call of Modal's SDK raises when the platform, or the way to it, fails; and trying it again.

Docstrings call these "platform errors".
"""

import queue
from collections.abc import AsyncIterator

import modal.exception
import stamina
from grpclib.exceptions import GRPCError, StreamTerminatedError

PLATFORM_ERRORS = (modal.exception.Error, GRPCError, StreamTerminatedError, OSError, TimeoutError, queue.Full)
_LONGEST = 8  # times the first pause


def retrying(
    *,
    pause_s: float,
    attempts: int | None = None,
    within_s: float | None = None,
    also: tuple[type[Exception], ...] = (),
) -> AsyncIterator[stamina.Attempt]:
    """Attempts for `async for attempt in …: with attempt: …`, another after each that the platform has failed.

    The pause between two is `pause_s` seconds and up to a half more at first, then twice as long, at most 8 times.
    After `attempts`, or when `within_s` seconds are over, the last error is raised; with neither it goes on until the
    caller ends it. `also` are other errors to retry.
    Every failure is logged by `logs.note_retry`.
    """
    return aiter(
        stamina.retry_context(
            on=(*PLATFORM_ERRORS, *also),
            attempts=attempts,
            timeout=within_s,
            wait_initial=pause_s,
            wait_max=pause_s * _LONGEST,
            wait_jitter=pause_s / 2,
        )
    )
