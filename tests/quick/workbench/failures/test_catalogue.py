"""The catalogue: every mode is there, whole, and is found by the words of who meets it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from workbench.cli import app
from workbench.deployment.targets import Target
from workbench.failures.catalogue import FAMILIES, UnknownFailureError, catalogue, find, search
from workbench.failures.experiments import EXPERIMENTS
from workbench.failures.sides import Hardened, Naive
from workbench.local_cloud import FaultRule
from workbench.runs.project import Project

NAMES = {
    "streaming": (
        "buffering-hop wrong-stream-headers proxy-compression idle-cut 303-after-150s reader-gone slow-reader "
        "reader-returns output-without-newline stream-ended-without-exit-code line-too-long split-character "
        "job-buffers-its-output"
    ),
    "model": (
        "tool-json-invalid model-stream-truncated model-429 model-529 model-500 model-hangs-before-headers "
        "model-hangs-mid-stream model-refusal permission-denied stall error-dressed-as-success stdin-left-open "
        "full-context-resume"
    ),
    "persistence": (
        "missing-commit commit-acknowledged-and-lost commit-fails volume-busy two-writers volume-full "
        "name-cannot-be-committed stale-git-lock"
    ),
    "time": "process-timeout sandbox-times-out-first upstream-times-out-first 24h-limit",
    "life": (
        "create-fails dead-before-first-command dies-mid-run dies-in-commit container-preempted platform-away-40s "
        "cloud-restarted leaked-sandbox duplicate-submit cold-start-over-budget out-of-memory deploy-under-a-run "
        "grandchild-holds-the-pipe"
    ),
    "security": (
        "secret-wrong secret-missing secret-rotated path-traversal another-tenants-run fork-bomb egress "
        "secret-probed-from-inside planted-config"
    ),
}


def test_every_mode_is_there() -> None:
    there = catalogue()
    assert set(there) == {name for names in NAMES.values() for name in names.split()}
    for family, names in NAMES.items():
        assert all(there[name].family.startswith(family) for name in names.split())
    assert {one.family for one in there.values()} == set(FAMILIES)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("missing-comit", "missing-commit"),
        ("Missing Commit", "missing-commit"),
        ("out of memory", "out-of-memory"),
        ("pathtraversal", "path-traversal"),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones(asked: str, meant: str) -> None:
    with pytest.raises(UnknownFailureError, match=f"did you mean .*{meant}"):
        find(asked)


def test_a_name_that_is_near_nothing_is_told_where_they_are() -> None:
    with pytest.raises(UnknownFailureError, match="workbench failures list"):
        find("qqqqqq")


def test_an_alias_is_as_good_as_a_name() -> None:
    for one in catalogue().values():
        for alias in one.aliases:
            assert find(alias.upper()).aliases, alias


def test_modes_are_found_by_what_stands_on_the_screen() -> None:
    assert "303-after-150s" in {one.name for one in search(["303"])}
    assert "two-writers" in {one.name for one in search(["last", "write"])} or search(["writers"])
    assert search(["qqqqq", "zzzz"]) == []
    assert {one.family for one in search([], family="time")} == {"time"}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("2026-11-02 ERROR FileNotFoundError: [Errno 2] No such file or directory: 'out/report.csv'", "missing-commit"),
        ("worker said: API Error: Request rejected (429), giving up", "model-429"),
        ("the secret is right but I get 401", "secret-wrong"),
        ("why is everything appearing at once at the very end of my job's stream?", "buffering-hop"),
    ],
)
def test_a_line_that_was_copied_finds_what_fits_best(line: str, name: str) -> None:
    assert name in [one.name for one in search(line.split())]
    assert len(search(line.split())) <= 5


def test_what_looks_alike_points_to_each_other() -> None:
    """The most useful line of a page is the other cause of the same symptom."""
    assert {"job-buffers-its-output", "proxy-compression"} & set(find("buffering-hop").looks_like)


def test_every_experiment_is_of_a_mode_and_its_rules_are_sound(tmp_path: Path) -> None:
    assert set(EXPERIMENTS) <= set(catalogue())
    target = Target("local", tmp_path)
    for experiment in EXPERIMENTS.values():
        for side in (Naive(target), Hardened(target)):
            for rule in experiment.rules(side, Project.new()):
                assert FaultRule(**rule, app=side.app_name).given()["app"] == side.app_name


def test_the_command_lists_shows_and_names_what_is_near() -> None:
    run = CliRunner().invoke
    listed = run(app, ["failures", "list", "--json", "--family", "persistence"])
    assert {one["name"] for one in json.loads(listed.output)} == set(NAMES["persistence"].split())
    assert "commit_failed" in run(app, ["failures", "show", "commit-acknowledged-and-lost"]).output
    table = run(app, ["failures", "list"]).output
    assert all(family in table for family in FAMILIES)
    wrong = run(app, ["failures", "show", "missing-comit"])
    assert (wrong.exit_code, "did you mean missing-commit" in wrong.output) == (1, True)
    assert run(app, ["failures", "list", "--family", "tme"]).exit_code == 2
    assert run(app, ["failures", "list", "qqqqq"]).exit_code == 1
    assert run(app, ["failures", "run"]).exit_code == 2
