"""How the tests run: tiers by folder, two workers, some alone and last, and what is told meanwhile and at the end."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import order
from tests.support.paths import ROOT
from tests.support.places import outside

CONFTEST = 'pytest_plugins = ["tests.support.order", "tests.support.places", "tests.support.progress"]\n'
NOTING = """
import json, os, tempfile, time, pytest
@pytest.mark.parametrize("number", range(4))
def test_{name}(number, request):
    began = time.time()
    time.sleep(0.15)
    kept = [one.name for one in request.node.iter_markers() if one.name in ("quick", "standard", "alone")]
    note = [{name!r}, began, time.time(), tempfile.gettempdir(), os.environ["WORKBENCH_SANDBOX_UIDS"], kept]
    with open({notes!r}, "a") as file:
        file.write(json.dumps(note) + chr(10))
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[list[Any]]]:
    """What a run of a small suite on two workers printed, and its tests' notes in the order of their ends."""
    root = tmp_path_factory.mktemp("suite")
    notes = root / "notes"
    (root / "conftest.py").write_text(CONFTEST)
    (root / "pytest.ini").write_text("[pytest]\nmarkers =\n  quick\n  standard\n  alone\n")
    for path in ("quick/test_one", "standard/test_two", "standard/alone/test_lonely"):
        file = root / "tests" / f"{path}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(NOTING.format(name=Path(path).name.removeprefix("test_"), notes=str(notes)))
    (root / "tests" / "quick" / "test_failing.py").write_text("def test_it(): assert 1 == 2\n")
    unused = ("-p", "no:nbval", "-p", "no:hypothesispytest")  # they take longer to be imported than all else
    command = [sys.executable, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", *unused, "tests"]
    env = {**outside(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout, [json.loads(line) for line in notes.read_text().splitlines()]


def test_what_needs_the_machine_alone_runs_last_and_nothing_runs_beside_it(
    ran: tuple[str, list[list[Any]]],
) -> None:
    notes = ran[1]
    assert [note[0] for note in notes[-4:]] == ["lonely"] * 4
    began = min(note[1] for note in notes if note[0] == "lonely")
    assert max(note[2] for note in notes if note[0] != "lonely") <= began


def test_each_worker_has_its_own_directory_and_user_ids(ran: tuple[str, list[list[Any]]]) -> None:
    places = {(note[3], note[4]) for note in ran[1] if note[0] != "lonely"}
    assert len(places) == len({place for place, _ in places}) == len({uids for _, uids in places}) == 2
    assert not any(Path(place).exists() for place, _ in places)


def test_the_folder_of_a_test_is_its_tier(ran: tuple[str, list[list[Any]]]) -> None:
    kept = {(str(note[0]), marker) for note in ran[1] for marker in note[5]}
    assert kept == {("one", "quick"), ("two", "standard"), ("lonely", "standard"), ("lonely", "alone")}


def test_a_failure_is_told_at_once_and_how_to_run_it_alone(ran: tuple[str, list[list[Any]]]) -> None:
    said = ran[0]
    assert said.index("FAILED tests/quick/test_failing.py::test_it (call)") < said.index("= FAILURES =")
    assert "uv run workbench test -- tests/quick/test_failing.py::test_it" in said
    assert re.search(r"1 failed, 12 passed", said)


def test_every_test_of_the_project_is_in_a_tier() -> None:
    """A file outside of the folders would be run by nobody."""
    outside_of_tiers = [
        path for path in (ROOT / "tests").rglob("test_*.py") if order.tier_of(path.relative_to(ROOT).as_posix()) is None
    ]
    assert outside_of_tiers == []
