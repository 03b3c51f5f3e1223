"""One look of the sweeper asks for each record and each owner once, however many runs and sandboxes they have."""

import asyncio
from typing import Any, cast

import pytest

from modal_app.runs.ownership import Pulse
from modal_app.runs.run_records import Records
from modal_app.runs.sweeper import Look


class Asked:
    """Records and beats that count how often they are asked for. The first `failures` questions about owners fail."""

    def __init__(self, *, failures: int = 0) -> None:
        self.records: list[str] = []
        self.owners: list[str] = []
        self._failures = failures

    async def get(self, run_id: str) -> None:
        """A run without a record."""
        self.records.append(run_id)

    async def is_dead(self, owner: str) -> bool:
        """Owners whose names begin with "dead" are."""
        self.owners.append(owner)
        await asyncio.sleep(0)
        if len(self.owners) <= self._failures:
            raise ConnectionError
        return owner.startswith("dead")

    def look(self) -> Look:
        """A look at them."""
        return Look(cast("Records", cast("Any", self)), cast("Pulse", cast("Any", self)))


async def test_an_owner_of_many_runs_is_looked_at_once() -> None:
    asked = Asked()
    look = asked.look()
    found = await asyncio.gather(*(look.is_dead(owner) for owner in ("dead-1", "alive", "dead-1", "alive") * 100))
    assert found == [True, False, True, False] * 100
    assert sorted(asked.owners) == ["alive", "dead-1"]
    assert await asked.look().is_dead("alive") is False
    assert asked.owners.count("alive") == 2  # another look sees anew


async def test_a_record_is_read_once_also_one_that_is_missing() -> None:
    asked = Asked()
    look = asked.look()
    for run_id in ("a", "b", "a", "b", "a"):
        assert await look.record(run_id) is None
    assert asked.records == ["a", "b"]


async def test_a_question_that_failed_is_asked_again() -> None:
    asked = Asked(failures=1)
    look = asked.look()
    with pytest.raises(ConnectionError):
        await look.is_dead("dead-1")
    assert await look.is_dead("dead-1") is True
    assert asked.owners == ["dead-1", "dead-1"]


async def test_whoever_stops_waiting_takes_no_answer_away() -> None:
    asked = Asked()
    look = asked.look()
    first, second = asyncio.create_task(look.is_dead("dead-1")), asyncio.create_task(look.is_dead("dead-1"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is True
    assert asked.owners == ["dead-1"]
