"""Failure modes happen to the obvious endpoint and not to ours, and nothing is green that has not happened."""

import dataclasses
import json
from pathlib import Path

import pytest

import modal_app
from tests.conftest import stop_apps
from tests.support.commands import cli
from workbench import Project, Workbench
from workbench.cloud_control.controls import ControlUnavailableError
from workbench.failures import lab as module
from workbench.failures import standing
from workbench.failures.experiments import EXPERIMENTS, NotProvokedError, Outcome
from workbench.failures.lab import FailureLab
from workbench.failures.results import FailureResult, FaultNeverFiredError
from workbench.session import connect

pytestmark = pytest.mark.timeout(180)
# The notebooks of failures show some of each family; `workbench test --all` has them all.
CHOSEN = ("path-traversal", "dies-mid-run")


@pytest.mark.parametrize("name", CHOSEN)
def test_a_mode_happens_to_the_obvious_endpoint_and_not_to_ours(wb: Workbench, name: str) -> None:
    is_shown(wb.failures, name)


def test_a_mode_that_moves_a_clock_moves_that_of_its_own_apps_and_takes_it_back(wb: Workbench) -> None:
    whole, own = wb.clock.offset_s(), wb.clock.of(wb.app_name).offset_s()
    ahead = wb.clock.ahead()
    is_shown(wb.failures, "303-after-150s")
    assert (wb.clock.offset_s(), wb.clock.of(wb.app_name).offset_s(), wb.clock.ahead()) == (whole, own, ahead)


@pytest.mark.parametrize("name", ["duplicate-submit", "stale-git-lock"])
def test_a_slow_commit_spares_nobody(wb: Workbench, name: str) -> None:
    """What the naive endpoint leaves to the end of its sandboxes may be kept late: the next job comes after it."""
    with wb.faults.injected(at="commit", app="failure-lab-naive", delay_s=3):
        is_shown(wb.failures, name)


def test_many_are_shown_at_once_and_what_is_not_so_is_looked_at_alone(
    wb: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = EXPERIMENTS["create-fails"]
    seen: list[module.Side] = []

    def late(side: module.Side, project: Project) -> Outcome:
        seen.append(side)
        outcome = once.act(side, project)
        return outcome if len(seen) > 2 else dataclasses.replace(outcome, fired={"it came in time": 0})

    monkeypatch.setitem(EXPERIMENTS, "create-fails", dataclasses.replace(once, act=late))
    names = ["commit-fails", "create-fails", "path-traversal", "stale-git-lock"]
    results = list(wb.failures.run_many(names))
    assert sorted(one.name for one in results) == names
    assert all(one.shown for one in results), [str(one) for one in results if not one.shown]
    assert results[-1].name == "create-fails"
    assert len(seen) == 4
    assert wb.faults.rules() == []


def test_apps_that_stand_as_they_would_be_deployed_are_used_by_every_session(wb: Workbench) -> None:
    wb.failures.run("commit-fails").require()
    steps: list[str] = []
    with connect("local") as another:
        another.failures.run("commit-fails", on_step=steps.append).require()
        assert [one for one in steps if "deploying" in one] == []
        stop_apps("failure-lab-hardened")
    with connect("local") as another:  # one of them stands no longer
        another.failures.run("commit-fails", on_step=steps.append).require()
        assert [one.split(" as ")[0] for one in steps if "deploying" in one] == [
            "deploying the naive endpoint",
            "deploying the hardened endpoint",
        ]
    wb.failures._sides = None


@pytest.mark.parametrize("change", ["code", "environment", "cloud"])
def test_apps_that_would_be_others_now_are_deployed_anew(
    wb: Workbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: str
) -> None:
    before = standing.mark(wb.target, has_claude=False)
    assert standing.mark(wb.target, has_claude=False) == before
    target = wb.target
    if change == "code":
        (tmp_path / "more.py").write_text("x = 1\n")
        monkeypatch.setattr(modal_app, "__path__", [*modal_app.__path__, str(tmp_path)])
    elif change == "environment":
        monkeypatch.setenv("WORKBENCH_TIMEOUT_COMMIT_S", "61")
    else:
        target = dataclasses.replace(target, cloud_pid=1)
    assert standing.mark(target, has_claude=False) != before


def is_shown(lab: FailureLab, name: str) -> None:
    result = lab.run(name)
    assert (result.status, result.verdict, result.shown) == ("completed", result.promise, True), str(result)
    assert all(rule.injected for side in (result.naive, result.hardened) if side for rule in side.fired)
    assert len(EXPERIMENTS[name].rules(*_any(lab))) <= len(result.hardened.fired if result.hardened else ())
    assert result.require() is result
    assert FailureResult.model_validate_json(result.model_dump_json()) == result


def _any(lab: FailureLab) -> tuple[module.Side, Project]:
    return module.Naive(lab._target), Project.new()


def test_a_fault_that_never_fires_makes_the_result_invalid(wb: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Green because nothing was injected would be the worst result of all."""
    never = dataclasses.replace(
        EXPERIMENTS["commit-fails"],
        rules=lambda side, project: ({"at": "commit", "sandbox": "nobody's", "status": "INTERNAL"},),
    )
    monkeypatch.setitem(EXPERIMENTS, "commit-fails", never)
    result = wb.failures.run("commit-fails")
    assert (result.status, result.verdict, result.shown) == ("invalid", None, False)
    assert "never fired at the naive endpoint" in result.why
    with pytest.raises(FaultNeverFiredError, match="never fired"):
        result.require()


def test_an_endpoint_that_is_ill_without_the_fault_makes_it_invalid(
    wb: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    well = module._well

    def ill(side: module.Side) -> module.Observation:
        return well(side) if side.name == "naive" else side.run(Project.new(), "exit(3)")

    monkeypatch.setattr(module, "_well", ill)
    result = wb.failures.run("path-traversal")
    assert (result.status, "without any fault" in result.why) == ("invalid", True)


def test_the_launching_can_be_left_to_the_user(wb: Workbench) -> None:
    project = Project.new()
    with wb.failures.provoked("commit-fails", project) as side:
        assert side.run(project, "open('x', 'w')").code == "commit_failed"
        assert side.run(Project.new(), "open('x', 'w')").ended == "done"  # nobody else is meant
    assert side.run(project, "open('x', 'w')").ended == "done"
    assert wb.faults.rules() == []


def test_what_cannot_be_shown_is_said(wb: Workbench) -> None:
    with pytest.raises(NotProvokedError, match="failures show slow-reader"):
        wb.failures.run("slow-reader")
    with connect(wb.endpoint.url) as far, pytest.raises(ControlUnavailableError):
        far.failures.run("commit-fails")


def test_the_command_tells_verdicts_and_takes_everything_back(wb: Workbench, tmp_path: Path) -> None:
    done = cli("failures", "run", "create-fails", "--json", "--keep", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["verdict"], result["shown"]) == ("told", True)
    assert "now with it" in done.stderr
    again = cli("failures", "verify", str(tmp_path / "kept" / "create-fails.json"), "--json")
    assert (again.returncode, json.loads(again.stdout)) == (0, result)
    taken_back = json.loads(cli("failures", "reset", "--json").stdout)["taken_back"]
    assert {"app failure-lab-naive", "app failure-lab-hardened"} <= set(taken_back)
    assert "nothing was left" in cli("failures", "reset").stdout
    wb.failures._sides = None
