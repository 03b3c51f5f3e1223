"""Which tier a test belongs to, which tests share a worker, and in which order they run.

A test's tier is the folder that it is in: `tests/quick`, `tests/standard` or `tests/nightly`; its marker follows from
it. Tests of one file run on one worker, and so do those of each of ROOMS, whose fixtures cost more than its tests.
What is in a folder `alone` comes last, and while one of its tests runs no other does.
"""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

TIERS = ("quick", "standard", "nightly")
ALONE = "alone"
GATE_VARIABLE = "WORKBENCH_TEST_GATE"  # the directory of the locks that the workers of one run share
# The longest first: whoever begins with them leaves short ones for the end, and both workers end together.
ROOMS = {
    "claude": ("standard/claude/", "standard/notebooks/"),  # the image with the Claude CLI is built once
    "browser": ("standard/browser/",),
    "soak": ("standard/soak/",),
    "nextjs": ("standard/nextjs/",),  # the application is built once
    "plugin": ("standard/workbench/test_pytest_plugin.py",),  # sessions of pytest with clouds of their own
    "parity": ("standard/workbench/test_parity.py",),  # every row on two clouds
}


def tier_of(nodeid: str) -> str | None:
    """The tier of a test by its id, None outside of the tiers' folders."""
    parts = nodeid.partition("::")[0].split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "tests" and parts[1] in TIERS else None


def is_alone(nodeid: str) -> bool:
    """Whether a test needs the machine for itself."""
    return ALONE in nodeid.partition("::")[0].split("/")[:-1]


def scope_of(nodeid: str) -> str:
    """What a test shares its worker with."""
    if is_alone(nodeid):
        return ALONE
    path = nodeid.partition("::")[0].removeprefix("tests/")
    return next((room for room, folders in ROOMS.items() if path.startswith(folders)), path)


def _place(nodeid: str) -> int:
    places = [*ROOMS, "", ALONE]
    scope = scope_of(nodeid)
    return places.index(scope if scope in places else "")


class Scopes(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Hands out the tests of a scope to one worker, in the order of their collection."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scopes:
    """Give xdist the scopes."""
    config.option.loadscopereorder = False
    return Scopes(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier, and put the longest scopes first and those that run alone last."""
    for item in items:
        if tier := tier_of(item.nodeid):
            item.add_marker(getattr(pytest.mark, tier))
        if is_alone(item.nodeid):
            item.add_marker(pytest.mark.alone)
    items.sort(key=lambda item: _place(item.nodeid))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Run a test beside others, or alone when it needs that; no test's own time begins before."""
    gate = os.environ.get(GATE_VARIABLE)
    if gate is None:
        return (yield)
    with (Path(gate) / "turn").open("w") as turn, (Path(gate) / "machine").open("w") as machine:
        fcntl.flock(turn, fcntl.LOCK_EX)  # who waits for the machine is not overtaken
        fcntl.flock(machine, fcntl.LOCK_EX if is_alone(item.nodeid) else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        return (yield)
