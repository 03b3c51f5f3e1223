"""Faults by rule: what matches, what happens then, and that the stock SDK meets what it would meet on Modal."""

import os
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator

import httpx
import modal
import pytest
from pydantic import ValidationError

from tests.conftest import wait_until
from tests.support import warm
from tests.support.commands import Cli
from tests.support.paths import APPS
from workbench import ControlError, ControlUnavailableError, FaultRule, Project, Workbench, connect
from workbench.cloud_control.controls import Clock, Faults
from workbench.local_cloud.faults.rules import Faults as Rules
from workbench.local_cloud.faults.rules import Subject
from workbench.local_cloud.process.state_directory import Running

pytestmark = pytest.mark.timeout(180)
APP = APPS / "echo.py"


@pytest.fixture
def faults(wb: Workbench) -> Iterator[Faults]:
    yield wb.faults
    wb.faults.clear()


@pytest.fixture
def clock(wb: Workbench) -> Clock:
    return wb.clock


@pytest.fixture
def sandbox(cloud: Running) -> Iterator[modal.Sandbox]:
    app = modal.App.lookup("faults", create_if_missing=True)
    sandbox = modal.Sandbox.create(app=app, name=f"faulty-{uuid.uuid4().hex[:8]}", timeout=600)
    yield sandbox
    sandbox.terminate(wait=True)


def read(sandbox: modal.Sandbox, size: int) -> int:
    return len(sandbox.exec("head", "-c", str(size), "/dev/zero", text=False).stdout.read())


# -- which calls a rule matches ---------------------------------------------------------------------------------------


def test_a_rule_means_the_creation_of_one_sandbox_by_its_name(cloud: Running, faults: Faults) -> None:
    """So that two people who provoke at once do not meet."""
    app = modal.App.lookup("faults", create_if_missing=True)
    mine = f"mine-{uuid.uuid4().hex[:8]}"
    faults.add(rpc="SandboxCreate*", sandbox=f"{mine}*", status="FAILED_PRECONDITION")
    for name in (None, "somebody-elses"):
        modal.Sandbox.create(app=app, name=name, timeout=60).terminate(wait=True)
    with pytest.raises(modal.exception.Error, match="injected by a fault rule"):
        modal.Sandbox.create(app=app, name=f"{mine}-1", timeout=60)
    assert [(one.matched, one.injected) for one in faults.rules()] == [(1, 1)]


def test_a_rule_fires_at_its_nth_match_and_at_most_so_often() -> None:
    rules = Rules(time.time)
    rules.add(FaultRule(rpc="Task*", nth=3, delay_s=1))
    rules.add(FaultRule(rpc="TaskExecWait", times=2, status="INTERNAL"))
    fired = [len(rules.draw("call", name, Subject)) for name in ("TaskExecWait",) * 5 + ("AppList",)]
    assert fired == [1, 1, 1, 0, 0, 0]
    assert [(one.matched, one.injected) for one in rules.rules()] == [(5, 1), (5, 2)]


def test_chance_is_repeatable_by_its_seed() -> None:
    def play(seed: int) -> list[int]:
        rules = Rules(time.time)
        rules.add(FaultRule(probability=0.3, seed=seed, delay_s=1))
        return [len(rules.draw("call", "AppList", Subject)) for _ in range(200)]

    assert play(1) == play(1) != play(2)
    assert 30 < sum(play(1)) < 90


def test_a_rule_matches_by_app_sandbox_and_path() -> None:
    rules = Rules(time.time)
    rules.add(FaultRule(app="one", sandbox="run-*", path="/projects/*", delay_s=1))
    of = Subject(app="one", sandbox_id="sb-1", sandbox_name="run-7", path="/projects/a")
    assert rules.draw("call", "X", lambda: of)
    for other in (Subject("two", "sb-1", "run-7", path="/projects/a"), Subject("one", "sb-1", "x", path="/projects/a")):
        assert not rules.draw("call", "X", lambda other=other: other)
    assert not rules.draw("commit", "X", lambda: of)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"status": "OK"},
        {"status": "NONSENSE"},
        {"at": "nowhere", "delay_s": 1},
        {"at": "commit", "rpc": "X", "lose": True},
        {"at": "web", "status": "INTERNAL"},
        {"at": "call", "lose": True},
        {"delay_s": -1},
        {"delay_s": float("nan")},
        {"probability": 1.5, "delay_s": 1},
        {"nth": 0, "delay_s": 1},
        {"unknown": 1, "delay_s": 1},
        {"rpc": "x" * 1000, "delay_s": 1},
    ],
    ids=str,
)
def test_a_rule_that_makes_no_sense_is_refused_here_and_by_the_cloud(faults: Faults, fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FaultRule(**fields)
    with pytest.raises(ControlError):
        faults.add(**fields)
    assert faults.rules() == []


def test_only_who_shows_the_token_controls_the_cloud(cloud: Running, wb: Workbench) -> None:
    before = wb.clock.offset_s()
    for method, path in (("GET", "/faults"), ("POST", "/faults"), ("DELETE", "/faults"), ("POST", "/clock")):
        refused = httpx.request(method, cloud.http_url + path, json={"seconds": 5}, trust_env=False)
        assert refused.status_code == 401
    assert wb.clock.offset_s() == before


def test_elsewhere_there_are_no_controls() -> None:
    with connect("https://example.invalid/") as elsewhere, pytest.raises(ControlUnavailableError, match="local"):
        _ = elsewhere.faults


# -- what the stock SDK meets -----------------------------------------------------------------------------------------


def test_a_dropped_stream_is_resumed_byte_by_byte(faults: Faults, sandbox: modal.Sandbox) -> None:
    faults.add(at="stream", rpc="TaskExecStdioRead", after_messages=1, status="UNAVAILABLE", times=3)
    assert read(sandbox, 3_000_000) == 3_000_000
    assert [one.injected for one in faults.rules()] == [3]


def test_a_lost_answer_does_not_start_a_program_twice(faults: Faults, sandbox: modal.Sandbox) -> None:
    faults.add(at="answer", rpc="TaskExecStart", status="UNAVAILABLE", times=1, sandbox="faulty-*")
    assert sandbox.exec("sh", "-c", "echo once >> /tmp/count; cat /tmp/count").stdout.read() == "once\n"
    [happened] = faults.happened()[-1:]
    assert (happened.at, happened.what, happened.subject["sandbox_id"]) == (
        "answer",
        "TaskExecStart",
        sandbox.object_id,
    )


def test_a_call_whose_answer_is_lost_is_not_done_twice(faults: Faults, cloud: Running) -> None:
    """The SDK asks again with the same key, as it does after any broken connection."""
    with modal.Queue.ephemeral() as queue, modal.Dict.ephemeral() as store:
        faults.add(at="answer", rpc="QueuePut", status="UNAVAILABLE", times=2)
        queue.put_many(["a", "b"])
        assert queue.len() == 2
        faults.add(at="answer", rpc="QueueGet", status="UNAVAILABLE", times=1)
        assert [queue.get(), queue.get()] == ["a", "b"]
        faults.add(at="answer", rpc="DictUpdate", status="UNAVAILABLE", times=1)
        assert store.put("lock", "me", skip_if_exists=True)
        faults.add(at="answer", rpc="DictPop", status="UNAVAILABLE", times=1)
        assert store.pop("lock") == "me"
        assert all(one.injected for one in faults.rules())


def test_a_status_reaches_the_caller(faults: Faults, sandbox: modal.Sandbox) -> None:
    with (
        faults.injected(rpc="TaskExecStart", status="PERMISSION_DENIED"),
        pytest.raises(modal.exception.Error, match="injected by a fault rule"),
    ):
        sandbox.exec("true")
    assert sandbox.exec("true").wait() == 0


def test_a_killed_exec_a_killed_sandbox_and_used_up_memory(faults: Faults, sandbox: modal.Sandbox) -> None:
    faults.add(rpc="TaskExecWait", kill="exec", times=1)
    assert sandbox.exec("sleep", "600").wait() == 137
    faults.add(rpc="TaskExecStart", exhaust="memory", times=1)
    with pytest.raises(modal.exception.Error):
        sandbox.exec("sleep", "600")
    sandbox.wait(raise_on_termination=False)
    assert sandbox.returncode == 137


def test_a_rule_for_one_sandbox_spares_the_others(faults: Faults, sandbox: modal.Sandbox) -> None:
    faults.add(rpc="TaskExecStart", status="INTERNAL", sandbox="somebody-else")
    assert sandbox.exec("true").wait() == 0


def test_a_run_whose_output_is_lost_is_not_done(faults: Faults, wb: Workbench, project: Project) -> None:
    """Whichever read of the run it is: an end of the stream would be a lie, when the program has printed more.

    The first one is of the command that proves the sandbox alive: another sandbox takes its place.
    """
    text = "x" * 100_000
    faults.add(at="stream", rpc="TaskExecStdioRead", delay_s=0.001)
    assert wb.launch(project, "python", code=f"print('{text}')").wait().type == "done"
    [counted] = faults.rules()
    faults.clear()
    ends = []
    for nth in range(1, counted.matched + 1):
        with faults.injected(at="stream", rpc="TaskExecStdioRead", status="DATA_LOSS", nth=nth):
            run = wb.launch(project, "python", code=f"print('{text}')")
            end = run.wait()
        ends.append(end.code if end.type == "error" else end.type)
    assert ends == ["done", "stream_lost", "stream_lost", "commit_failed"]


def test_a_job_of_which_the_platform_lets_go_is_not_called_dead(
    faults: Faults, wb: Workbench, project: Project
) -> None:
    """Its sandbox lived, and was ended for want of a better end: the run says so, and can be tried again."""
    with faults.injected(rpc="TaskExecWait", argv="*/tmp/job.py*", status="FAILED_PRECONDITION"):
        end = wb.launch(project, "python", code="import time; print(1, flush=True); time.sleep(1)").wait()
    assert end.type == "error"
    assert (end.code, end.recoverable) == ("stream_lost", True)
    assert end.sandbox is not None
    assert end.sandbox.terminated


def test_a_slow_reader_gets_everything(faults: Faults, sandbox: modal.Sandbox, clock: Clock) -> None:
    faults.add(at="stream", rpc="TaskExecStdioRead", bytes_per_s=400_000, times=1)
    started = time.monotonic()
    assert read(sandbox, 400_000) == 400_000
    assert time.monotonic() - started > 0.5


# -- commits ----------------------------------------------------------------------------------------------------------


def test_a_lost_commit_is_acknowledged_and_not_there(faults: Faults, wb: Workbench, project: Project) -> None:
    """This is what proof must find out: the job wrote, `sync` said yes, and nobody else ever sees the file."""
    faults.add(at="commit", path=f"*{project.project_id}", lose=True)
    wb.launch(project, "python", code="open('note', 'w').write('x')").wait()
    assert "note" not in wb.volume(project).tree()
    faults.clear()
    assert wb.launch(project, "python", code="open('note', 'w').write('x')").wait().type == "done"
    assert "note" in wb.volume(project).tree()


def test_a_commit_on_a_full_disk_fails_and_loses_nothing_already_there(
    faults: Faults, wb: Workbench, project: Project
) -> None:
    assert wb.launch(project, "python", code="open('old', 'w').write('1')").wait().type == "done"
    faults.add(at="commit", path=f"*{project.project_id}", status="RESOURCE_EXHAUSTED")
    end = wb.launch(project, "python", code="open('new', 'w').write('2')").wait()
    assert (end.type, end.code) == ("error", "commit_failed")
    assert end.sandbox is not None
    assert end.sandbox.terminated  # it has ended, though its last commit failed, too
    faults.clear()
    assert wb.volume(project).read_text("old") == "1"


# -- web functions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def web(modal_cli: Cli, cloud: Running) -> Iterator[httpx.Client]:
    modal_cli("secret", "create", "echo-secret", "WORD=hush", "--force")
    modal_cli("deploy", str(APP))
    with httpx.Client(base_url=str(modal.Function.from_name("echo", "web").get_web_url()), timeout=60) as client:
        client.get("/")
        yield client


def test_web_responses_are_refused_cut_buffered_and_slowed(faults: Faults, web: httpx.Client) -> None:
    with faults.injected(at="web", app="echo", http_status=503):
        assert web.get("/").status_code == 503
    with faults.injected(at="web", app="echo", path="/stream", cut_after_s=0.2):
        with pytest.raises(httpx.RemoteProtocolError):
            web.get("/stream", params={"count": 100})
        assert web.get("/").status_code == 200
    with (
        faults.injected(at="web", app="echo", buffer_bytes=10_000),
        web.stream("GET", "/stream", params={"count": 5}) as response,
    ):
        assert list(response.iter_raw()) == [b"".join(b"data: %d\n\n" % number for number in range(5))]
    with faults.injected(at="web", app="echo", kill="container", times=1), pytest.raises(httpx.HTTPError):
        web.get("/stream", params={"count": 100}).raise_for_status()
    assert web.get("/").status_code == 200


def test_a_silent_connection_is_cut_and_a_lively_one_is_not(faults: Faults, web: httpx.Client) -> None:
    with faults.injected(at="web", app="echo", path="/stream", idle_cut_s=0.5):
        assert web.get("/stream", params={"count": 20}).text.endswith("data: 19\n\n")  # it lasts for a second
        with pytest.raises(httpx.RemoteProtocolError):
            web.get("/stream", params={"count": 2, "pause_s": 30})


def test_a_response_arrives_in_pieces_of_a_size(faults: Faults, web: httpx.Client) -> None:
    """Whoever reads it must put lines, events and characters together again."""
    with (
        faults.injected(at="web", app="echo", slice_bytes=3, buffer_bytes=10_000),
        web.stream("GET", "/stream", params={"count": 5}) as response,
    ):
        pieces = list(response.iter_raw())
    assert b"".join(pieces) == b"".join(b"data: %d\n\n" % number for number in range(5))
    assert max(map(len, pieces)) == 3


# -- how long, and for whom -------------------------------------------------------------------------------------------


def test_a_rule_for_a_program_spares_the_others_of_its_sandbox(faults: Faults, sandbox: modal.Sandbox) -> None:
    with faults.injected(rpc="TaskExecStart", argv="*the-job*", status="FAILED_PRECONDITION") as rule_id:
        assert sandbox.exec("true").wait() == 0
        with pytest.raises(modal.exception.Error, match="injected"):
            sandbox.exec("echo", "the-job").wait()
        assert sandbox.exec("true").wait() == 0
    [rule] = [one for one in faults.ended() if one.rule_id == rule_id]
    assert (rule.matched, rule.ended) == (1, "removed")


def test_what_a_program_prints_is_lost_for_that_program_alone(faults: Faults, sandbox: modal.Sandbox) -> None:
    with faults.injected(at="stream", rpc="TaskExecStdioRead", argv="*the-job*", status="DATA_LOSS"):
        assert sandbox.exec("echo", "other").stdout.read() == "other\n"
        with pytest.raises(modal.exception.Error):
            sandbox.exec("echo", "the-job").stdout.read()


def test_a_rule_is_over_when_the_cloud_s_clock_says_so(faults: Faults, clock: Clock) -> None:
    rule_id = faults.add(rpc="AppList", status="UNAVAILABLE", for_s=3600)
    clock.advance(3601)
    assert faults.rules() == []
    assert [(one.rule_id, one.ended) for one in faults.ended()][-1] == (rule_id, "over")


OWNER = """
import sys, workbench
with workbench.connect().faults.injected(rpc="AppList", delay_s=1, lease_s=1.5) as rule_id:
    print(rule_id, flush=True)
    sys.stdin.read()
"""


def test_the_rules_of_a_killed_process_go_with_it(faults: Faults) -> None:
    """A kernel that is killed in the middle of an experiment leaves no rule to anybody else."""
    command = warm.words("-c", OWNER, env=os.environ)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        rule_id = owner.stdout.readline().strip()
        assert [one.rule_id for one in faults.rules()] == [rule_id]
        owner.kill()
    wait_until(lambda: faults.rules() == [], "the rule is still in force")
    assert [(one.rule_id, one.ended) for one in faults.ended()][-1] == (rule_id, "not renewed")


# -- time -------------------------------------------------------------------------------------------------------------


def test_limits_of_minutes_and_days_are_skipped_through(clock: Clock, cloud: Running) -> None:
    app = modal.App.lookup("faults", create_if_missing=True)
    five_minutes = modal.Sandbox.create("sleep", "infinity", app=app, timeout=300)
    idle = modal.Sandbox.create(app=app, timeout=24 * 3600, idle_timeout=3600)
    a_day = modal.Sandbox.create("sleep", "infinity", app=app, timeout=24 * 3600)
    clock.advance(301)
    with pytest.raises(modal.exception.SandboxTimeoutError):
        five_minutes.wait()
    assert five_minutes.returncode == 124
    assert a_day.poll() is None
    clock.advance(3600)
    idle.wait(raise_on_termination=False)
    clock.advance(24 * 3600)
    with pytest.raises(modal.exception.SandboxTimeoutError):
        a_day.wait()


def test_a_scheduled_function_runs_when_the_clock_says_so(clock: Clock, modal_cli: Cli) -> None:
    modal_cli("deploy", str(APP.with_name("calls.py")))
    try:
        notes = modal.Dict.from_name("calls-notes", create_if_missing=True)
        before = notes.get("ticks", 0)
        time.sleep(2)  # the schedule has been seen
        for expected in (before + 1, before + 2):
            clock.advance(6 * 3600 + 1)
            wait_until(lambda expected=expected: notes.get("ticks", 0) >= expected, "the function did not run")
        assert notes["ticks"] == before + 2
    finally:
        modal_cli("app", "stop", "calls", "--yes")


def test_an_answer_that_takes_longer_than_150_seconds_sends_the_client_to_poll(web: httpx.Client, clock: Clock) -> None:
    timer = threading.Timer(1.0, lambda: clock.advance(151))
    timer.start()
    redirected = web.get("/sleep/why%3Fnow", params={"seconds": 4})
    timer.join()
    assert redirected.status_code == 303
    assert "/sleep/why%3Fnow?__modal_function_call_id=" in redirected.headers["location"]
    assert web.get(redirected.headers["location"]).json() == "slept"
