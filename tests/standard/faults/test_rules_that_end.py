"""A rule that ends something fires only where that runs: what counts as fired has had an effect."""

import uuid
from collections.abc import Iterator

import modal
import pytest

from tests.conftest import wait_until
from workbench import Project, Workbench
from workbench.cloud_control.controls import Faults
from workbench.local_cloud.process.state_directory import Running

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def faults(wb: Workbench) -> Iterator[Faults]:
    yield wb.faults
    wb.faults.clear()


@pytest.fixture
def sandbox(cloud: Running) -> Iterator[modal.Sandbox]:
    app = modal.App.lookup("faults", create_if_missing=True)
    sandbox = modal.Sandbox.create(app=app, name=f"ended-{uuid.uuid4().hex[:8]}", timeout=600)
    yield sandbox
    sandbox.terminate(wait=True)


def counts(faults: Faults) -> list[tuple[int, int]]:
    return [(one.matched, one.injected) for one in faults.rules()]


@pytest.mark.parametrize("how", [{"preempt": True}, {"kill": "container"}], ids=str)
@pytest.mark.parametrize("at", ["call", "answer", "stream"])
def test_a_sandbox_s_calls_take_no_container_away(
    faults: Faults, sandbox: modal.Sandbox, at: str, how: dict[str, object]
) -> None:
    faults.add(at=at, sandbox="ended-*", **how)
    assert sandbox.exec("echo", "one").stdout.read() == "one\n"
    assert sandbox.poll() is None
    assert counts(faults) == [(0, 0)]
    assert faults.happened() == [] or faults.happened()[-1].subject["sandbox_id"] != sandbox.object_id


def test_a_program_that_has_ended_is_not_killed_once_more(faults: Faults, sandbox: modal.Sandbox) -> None:
    done = sandbox.exec("true")
    done.wait()
    faults.add(rpc="TaskExec*", kill="exec", times=1, argv="sleep *")
    ended = sandbox.exec("true")
    assert (ended.stdout.read(), ended.wait()) == ("", 0)
    assert counts(faults) == [(0, 0)]
    assert sandbox.exec("sleep", "1000").wait() != 0
    assert counts(faults) == [(1, 1)]


def test_a_stream_at_whose_end_its_program_has_ended_has_met_no_fault(faults: Faults, sandbox: modal.Sandbox) -> None:
    """The rule waits for a message that never comes."""
    faults.add(at="stream", rpc="TaskExecStdioRead", kill="exec", after_messages=1000, argv="sh *")
    program = sandbox.exec("sh", "-c", "echo one; exit 3")
    assert program.stdout.read() == "one\n"
    assert program.wait() == 3
    wait_until(lambda: counts(faults) == [(0, 0)], "the rule counts as fired")


def test_a_container_that_calls_about_a_sandbox_is_the_one_that_a_rule_takes_away(
    faults: Faults, wb: Workbench, project: Project
) -> None:
    """It is the endpoint's container that asks for the sandbox's end."""
    faults.add(at="call", rpc="SandboxTerminate*", app=wb.app_name, preempt=True, grace_s=20, times=1)
    assert wb.launch(project, "python", code="print(1)").wait().type == "done"
    assert counts(faults) == [(1, 1)]
    assert [one.what.startswith("SandboxTerminate") for one in faults.happened()[-1:]] == [True]


@pytest.mark.parametrize("how", [{"kill": "sandbox"}, {"kill": "sandbox", "delay_s": 0.1}, {"lose": True}], ids=str)
def test_who_is_killed_in_the_commit_that_follows_its_end_commits_nothing(
    faults: Faults, cloud: Running, how: dict[str, object]
) -> None:
    """A sandbox that has ended is there no more, but its files are still to be kept."""
    app = modal.App.lookup("faults", create_if_missing=True)
    with modal.Volume.ephemeral() as volume:
        name = f"committing-{uuid.uuid4().hex[:8]}"
        faults.add(at="commit", sandbox=name, **how)
        sandbox = modal.Sandbox.create(app=app, name=name, volumes={"/files": volume}, timeout=600)
        sandbox.exec("sh", "-c", "echo kept > /files/note").wait()
        sandbox.terminate(wait=True)
        [(matched, injected)] = counts(faults)
        assert matched == injected >= 1
        assert [entry.path for entry in volume.listdir("/")] == []


def test_a_sandbox_that_commits_is_no_container(faults: Faults, cloud: Running) -> None:
    app = modal.App.lookup("faults", create_if_missing=True)
    with modal.Volume.ephemeral() as volume:
        name = f"committing-{uuid.uuid4().hex[:8]}"
        faults.add(at="commit", sandbox=name, kill="container")
        sandbox = modal.Sandbox.create(app=app, name=name, volumes={"/files": volume}, timeout=600)
        sandbox.exec("sh", "-c", "echo kept > /files/note").wait()
        sandbox.terminate(wait=True)
        assert counts(faults) == [(0, 0)]
        assert [entry.path for entry in volume.listdir("/")] == ["note"]
