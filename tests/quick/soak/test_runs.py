"""The checks of `workbench soak runs` can fail."""

import time
from dataclasses import replace

import pytest

from modal_app.contract.errors import ErrorCode
from modal_app.contract.events import Commit, DoneEvent, ErrorEvent, Event, Phase, StatusEvent, StreamEvent
from workbench.soak.disturbances import Disturbances
from workbench.soak.run_cases import HARMS, Case
from workbench.soak.soak_failures import SoakFailedError

SEED = 7


def test_a_seed_chooses_every_kind_of_harm() -> None:
    assert {Case.choose(SEED, number).harm for number in range(200)} == set(HARMS)
    assert [Case.choose(SEED, number) for number in range(50)] == [Case.choose(SEED, number) for number in range(50)]


def case(exit_code: int = 0) -> Case:
    return Case(0, "nothing", 0.0, None, job_seed=3, lines=4, pause_s=0, exit_code=exit_code, readers=1)


def story(text: str, end: str = "done", exit_code: int | None = None) -> list[Event]:
    common = {"run_id": "r", "at_ms": 1, "elapsed_ms": 1}
    events: list[Event] = [
        StatusEvent(seq=1, phase=Phase.ACCEPTED, message="m", **common),
        StreamEvent(seq=2, channel="stdout", text=text, **common),
    ]
    if end == "done":
        return [*events, DoneEvent(seq=3, commit=Commit(committed=True, elapsed_ms=1), **common)]
    code = ErrorCode(end)
    return [*events, ErrorEvent(seq=3, code=code, message="m", recoverable=True, exit_code=exit_code, **common)]


def test_what_a_run_may_end_in_passes() -> None:
    output = case().output
    assert case().check(story(output), 1) == "done"
    assert case().check(story(output[:7], "container_lost"), 0, disturbed=True) == "container_lost"
    killed = replace(case(), harm="a container is killed")
    assert killed.check(story(output[:7], "container_lost"), 0) == "container_lost"
    assert case(3).check(story(output, "process_failed", 3), 1) == "process_failed"


@pytest.mark.parametrize(
    ("exit_code", "events", "executions", "why"),
    [
        (0, story(case().output), 2, "executed 2 times"),
        (0, story(case().output), 0, "is not there"),
        (0, story(case().output[:-1]), 1, "are not the job's"),
        (3, story(case().output), 1, "exit code is 3"),
        (0, story("other", "sandbox_lost"), 1, "no beginning"),
        (3, story(case().output, "process_failed", 4), 1, "exit code 4"),
        (0, story("", "internal"), 1, "internal"),
        (0, story("", "container_lost"), 0, "container_lost"),
        (0, story("", "sandbox_unavailable"), 0, "sandbox_unavailable"),
        (0, story("", "commit_failed"), 1, "commit_failed"),
        (0, story("", "run_timeout"), 1, "run_timeout"),
    ],
)
def test_what_a_run_may_not_end_in_is_told(exit_code: int, events: list[Event], executions: int, why: str) -> None:
    with pytest.raises(SoakFailedError, match=why):
        case(exit_code).check(events, executions)


def test_only_what_went_on_meanwhile_is_an_excuse() -> None:
    disturbances = Disturbances()
    before = time.monotonic()
    with disturbances.one():
        during = time.monotonic()
        assert disturbances.touch(during, during)
        assert not disturbances.touch(before - 2, before - 1)
    after = time.monotonic()
    assert disturbances.touch(before, after)
    assert disturbances.touch(during, after + 1)
    assert not disturbances.touch(after + 1, after + 2)
