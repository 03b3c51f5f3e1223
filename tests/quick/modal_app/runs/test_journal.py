"""What is put into a run's log together, and what never waits."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from modal_app.actions.output import Piece
from modal_app.contract.errors import ErrorCode, internal_error
from modal_app.contract.events import Phase
from modal_app.runs.batches import Batch
from modal_app.runs.event_spool import Spool, SpoolBrokenError
from modal_app.runs.journal import Journal
from modal_app.runs.log import LogLostError, LogRefusedError, LogWriter

_BEFORE_THE_JOB = (Phase.SANDBOX_STARTING, Phase.SANDBOX_READY, Phase.RUNNING)


class _Log(LogWriter):
    """A log that keeps its batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []

    async def append(self, batch: Batch) -> None:
        self.batches.append((batch.first, batch.last))


def _end(journal: Journal) -> None:
    journal.status(Phase.COMMITTING, "commits")
    journal.status(Phase.TERMINATING, "ends")
    journal.done(result=None, commit=None, sandbox=None)


async def _output(journal: Journal) -> None:
    await journal.stream(Piece(channel="stdout", text="out"))


async def _nothing(journal: Journal) -> None:
    """Print nothing."""


@pytest.mark.parametrize(
    ("job", "batches"), [(_nothing, [(1, 1), (2, 7)]), (_output, [(1, 1), (2, 5), (6, 8)])], ids=["silent", "printing"]
)
async def test_phases_that_follow_each_other_at_once_are_one_batch(
    job: Callable[[Journal], Awaitable[None]], batches: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what comes first, output, and the end are put at once; the phases before them go with them."""
    monkeypatch.setattr("modal_app.runs.journal._LINGER_S", 60.0)
    log = _Log()
    journal = Journal(Spool("0190b1a4-0000-7000-8000-000000000000"), log)
    journal.start(_nobody)
    journal.status(Phase.ACCEPTED, "is accepted")
    while not log.batches:  # noqa: ASYNC110  # the writer's task puts it
        await asyncio.sleep(0)
    for phase in _BEFORE_THE_JOB:
        journal.status(phase, "goes on")
    await job(journal)
    while len(log.batches) < len(batches) - 1:  # noqa: ASYNC110
        await asyncio.sleep(0)
    _end(journal)
    assert await asyncio.wait_for(journal.finish(), 30) is not None
    assert log.batches == batches
    journal.spool.close()


async def test_a_status_that_nothing_follows_is_put_all_the_same() -> None:
    log = _Log()
    journal = Journal(Spool("0190b1a4-0000-7000-8000-000000000000"), log)
    journal.start(_nobody)
    journal.status(Phase.ACCEPTED, "is accepted")
    async with asyncio.timeout(30):
        while len(log.batches) < 2:
            if log.batches and journal.last_seq == 1:
                journal.status(Phase.SANDBOX_STARTING, "starts")
            await asyncio.sleep(0.001)
    assert log.batches == [(1, 1), (2, 2)]
    await journal.aclose()
    journal.spool.close()


def _nobody() -> None:
    """Hear that a log is lost, and do nothing."""


class _Failing(LogWriter):
    """A log that fails at every batch after the first."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def append(self, batch: Batch) -> None:
        if batch.first > 1:
            raise self._error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError("the disk is full"), ErrorCode.INTERNAL),
        (RuntimeError("a fault of the endpoint's own"), ErrorCode.INTERNAL),
        (LogRefusedError("too large"), ErrorCode.TOO_LARGE),
        (LogLostError("another container's"), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_a_log_that_fails_in_whatever_way_leaves_no_reader_and_no_run_waiting(
    error: Exception, code: ErrorCode | None
) -> None:
    """The run's end is not taken for stored, and who has to store it is told why."""
    journal = Journal(Spool("0190b1a4-0000-7000-8000-000000000000"), _Failing(error))
    lost = asyncio.Event()
    journal.start(lost.set)
    journal.status(Phase.ACCEPTED, "is accepted")
    await asyncio.wait_for(journal.spool.reached(1, timeout_s=30), 30)
    assert not lost.is_set()
    journal.error(internal_error(), exit_code=None, sandbox=None)
    assert await asyncio.wait_for(journal.finish(), 30) is None
    with pytest.raises(SpoolBrokenError):
        await asyncio.wait_for(journal.spool.ended(), 30)
    assert lost.is_set()  # the run ends now: nobody would hear of what it does
    assert (journal.failure.code if journal.failure else None) == code
    journal.spool.close()
