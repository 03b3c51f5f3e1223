"""A cloud that was started before an upgrade, or by a newer workbench, is told as that by whatever asks it."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

import workbench
from workbench import ControlError
from workbench.cloud_control.controls import Clock, CloudControl, Faults
from workbench.errors import WorkbenchError
from workbench.files.history import HistoryAbsentError, HistoryClient, HistoryError
from workbench.local_cloud.process import daemon
from workbench.local_cloud.process.state_directory import Running, State

RESTART = r"(?s)another version than this workbench.*`workbench cloud stop`.*`workbench cloud start`"
DIFFERENT = (
    ("process/clock_routes.py", "    lease_s: float |", "    lent_for_s: float |"),
    ("process/clock_routes.py", "advance.lease_s", "advance.lent_for_s"),
    ("process/clock_routes.py", 'told["apps"] =', 'told["of_apps"] ='),
    ("process/control_routes.py", 'Route("/coverage"', 'Route("/rpcs"'),
    ("process/control_routes.py", '"happened":', '"injected":'),
    ("faults/rules.py", "lease_s", "lent_for_s"),
    ("volumes/history_routes.py", "/{volume}/diff", "/{volume}/changes"),
    ("volumes/history_routes.py", "/{volume}/content", "/{volume}/files"),
)
UNTOLD = (("process/cloud.py", "headers=[(VERSION_HEADER, code_digest())],", ""),)
ASKED: dict[str, Callable[["Asking"], object]] = {
    "a field that it does not know": lambda cloud: cloud.clock.advanced(5).__enter__(),
    "a rule with such a field": lambda cloud: cloud.faults.injected(at="commit", sandbox="x", lose=True).__enter__(),
    "an answer without a part": lambda cloud: cloud.clock.ahead(),
    "another one": lambda cloud: cloud.faults.happened(),
    "a route that it has not": lambda cloud: cloud.control.coverage(),
    "one of a volume": lambda cloud: cloud.history.diff("", base=1, head=2),
    "a file of a volume": lambda cloud: cloud.history.content("note.txt", commit=1),
}


class Asking:
    """What asks one cloud."""

    def __init__(self, running: Running) -> None:
        self.control = CloudControl(running.http_url, running.env())
        self.clock, self.faults = Clock(self.control), Faults(self.control)
        self.history = HistoryClient(running.http_url, running.env(), "some-volume")


@pytest.fixture(scope="module", params=["a newer one", "one that says nothing of its version"])
def other(request: pytest.FixtureRequest) -> Iterator[Asking]:
    """A running cloud of other code, in a state directory of its own."""
    with tempfile.TemporaryDirectory(prefix="workbench-other-") as name, pytest.MonkeyPatch.context() as patch:
        top, state = Path(name), State(Path(name) / "state")
        top.chmod(0o711)
        of_other_code(top, DIFFERENT + (UNTOLD if "nothing" in request.param else ()))
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # what is compiled lies beside the sources of ours
        try:
            with contextlib.chdir(top):  # where `python -m` looks first
                running, _ = daemon.start(state)
            yield Asking(running)
        finally:
            daemon.stop(state)


def of_other_code(top: Path, edits: Iterable[tuple[str, str, str]]) -> None:
    """Make a package of links to ours, with copies of the edited files in it."""
    package = Path(workbench.__file__).parent
    shutil.copytree(package, top / "workbench", copy_function=os.symlink, ignore=shutil.ignore_patterns("labextension"))
    for name, old, new in edits:
        path = top / "workbench" / "local_cloud" / name
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{name} has another text now: {old}"
        path.unlink()
        path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("what", ASKED)
def test_a_cloud_of_another_version_is_told_as_that_and_how_it_is_replaced(other: Asking, what: str) -> None:
    with pytest.raises((ControlError, HistoryError), match=RESTART) as refused:
        ASKED[what](other)
    assert not isinstance(refused.value, HistoryAbsentError)


def test_what_both_understand_goes_on(other: Asking) -> None:
    assert other.clock.offset_s() == 0.0
    rule_id = other.faults.add(at="commit", sandbox="nobody's", lose=True)
    assert [one.rule_id for one in other.faults.rules()] == [rule_id]
    assert other.faults.clear() == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda cloud: cloud.faults.remove("fr-none"),
        lambda cloud: cloud.faults.remove("a/b"),
        lambda cloud: cloud.clock.of("no-such-app").advance(1),
        lambda cloud: cloud.clock.advance(-1),
        lambda cloud: cloud.history.commits("", limit=1),
    ],
)
def test_a_refusal_of_the_same_version_speaks_of_no_other(cloud: Running, ask: Callable[[Asking], object]) -> None:
    with pytest.raises(WorkbenchError) as refused:
        ask(Asking(cloud))
    assert "version" not in str(refused.value)
