"""`workbench test` runs the folders of its tier, and refuses what it cannot run."""

import os
import re
import sys

import pytest
from typer.testing import CliRunner

from workbench.cli import app, tests_command

QUICK, STANDARD, NIGHTLY = "tests/quick", "tests/standard", "tests/nightly"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that would have taken this process's place."""
    found: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, command: found.append(command))
    monkeypatch.setattr(os, "chdir", lambda _: None)
    monkeypatch.setattr(tests_command, "prepare", lambda _: None)
    return found


DEFAULT = str(min(3, (os.cpu_count() or 1) + 1))


@pytest.mark.parametrize(
    ("arguments", "folders", "workers"),
    [
        (["--quick"], [QUICK], DEFAULT),
        ([], [QUICK, STANDARD], DEFAULT),
        (["--all"], [QUICK, STANDARD, NIGHTLY], DEFAULT),
        (["--all", "--workers", "5"], [QUICK, STANDARD, NIGHTLY], "5"),
        (["--", "-k", "volumes"], [QUICK, STANDARD], DEFAULT),
        (["--quick", "--", "-k", "workbench", "--basetemp", "/tmp/x"], [QUICK], DEFAULT),
        (["--", "--pdb"], [QUICK, STANDARD], None),
        (["--workers", "0"], [QUICK, STANDARD], None),
    ],
    ids=[
        "quick",
        "standard",
        "all",
        "five workers",
        "a part",
        "words that are folders",
        "a debugger",
        "in this process",
    ],
)
def test_a_tier_has_the_tests_of_those_below_it(
    arguments: list[str], folders: list[str], workers: str | None, started: list[list[str]]
) -> None:
    done = CliRunner().invoke(app, ["test", *arguments])
    assert done.exit_code == 0, done.output
    [command] = started
    assert command[:3] == [sys.executable, "-m", "pytest"]
    assert [word for word in command if word.startswith("tests/")] == folders
    assert (command[command.index("-n") + 1] if "-n" in command else None) == workers
    assert re.fullmatch(r"--randomly-seed=\d+", command[-1])


def test_files_and_tests_take_the_place_of_a_tier(started: list[list[str]]) -> None:
    one = "tests/quick/workbench/test_tests.py::test_files_and_tests_take_the_place_of_a_tier"
    assert CliRunner().invoke(app, ["test", "--", one, "-x"]).exit_code == 0
    assert [word for word in started[0][3:-3] if not word.startswith(("-p", "no:"))] == [one, "-x"]


def test_the_order_is_a_shuffled_one_and_a_seed_repeats_it(started: list[list[str]]) -> None:
    for arguments in ([], [], ["--seed", "7"], ["--random"], ["--random"]):
        assert CliRunner().invoke(app, ["test", *arguments]).exit_code == 0
    assert all(command[-3:-1] == ["-p", "randomly"] for command in started)
    one, same, given, new, other = (command[-1] for command in started)
    assert (same, given) == (one, "--randomly-seed=7")
    assert len({one, new, other}) == 3


def test_two_tiers_at_once_are_refused(started: list[list[str]]) -> None:
    done = CliRunner().invoke(app, ["test", "--quick", "--all"])
    assert (done.exit_code, started) == (2, [])
    assert "ask for one" in done.output


def test_without_the_packages_of_the_tests_it_says_what_brings_them(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tests_command, "_GROUP", ("xdist", "no_such_package"))
    done = CliRunner().invoke(app, ["test"])
    assert (done.exit_code, started) == (2, [])
    assert "no_such_package missing" in done.output
    assert "uv run workbench test" in done.output
