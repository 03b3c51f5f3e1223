"""The clock of one app: two people who move clocks do not meet, and whoever is killed leaves none ahead."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import modal
import pytest

from tests.conftest import wait_until
from tests.support import warm
from tests.support.commands import Cli, cli
from tests.support.paths import APPS
from workbench import ControlError, Workbench
from workbench.cloud_control.controls import Clock, CloudControl
from workbench.local_cloud.process.state_directory import Running
from workbench.widgets.failures import Failures

pytestmark = pytest.mark.timeout(180)
HOUR_S = 3600.0
MINE, OTHERS = "clock-mine", "clock-others"


@pytest.fixture
def clock(cloud: Running) -> Iterator[Clock]:
    """The clock of an app of the test's own; afterwards nothing is ahead, and the app is stopped."""
    for name in (MINE, OTHERS):
        modal.App.lookup(name, create_if_missing=True)
    clock = Clock(CloudControl(cloud.http_url, cloud.env()))
    clock.set_back()  # others have moved it
    yield clock.of(MINE)
    assert clock.offset_s() == 0  # no test here has moved that of everybody
    for name in (MINE, OTHERS):
        cli("cloud", "clock", "set-back", "--app", name)


def sleeping(app_name: str, **limits: int) -> modal.Sandbox:
    return modal.Sandbox.create("sleep", "infinity", app=modal.App.lookup(app_name), **limits)


def test_limits_of_its_sandboxes_are_reached_and_nobody_elses(clock: Clock) -> None:
    mine, others = (sleeping(name, timeout=300) for name in (MINE, OTHERS))
    idle = modal.Sandbox.create(app=modal.App.lookup(MINE), timeout=24 * 3600, idle_timeout=600)
    clock.advance(301)
    with pytest.raises(modal.exception.SandboxTimeoutError):
        mine.wait()
    assert others.poll() is None
    clock.advance(301)
    idle.wait(raise_on_termination=False)
    assert others.poll() is None
    others.terminate(wait=True)


def test_a_process_is_ended_by_the_clock_of_its_sandboxs_app(clock: Clock) -> None:
    mine, others = (sleeping(name, timeout=24 * 3600) for name in (MINE, OTHERS))
    processes = [one.exec("sleep", "60", timeout=600) for one in (mine, others)]
    clock.advance(601)
    assert processes[0].wait() != 0
    assert processes[1].poll() is None
    for one in (mine, others):
        one.terminate(wait=True)


def test_its_schedules_go_by_it_also_when_it_was_set_back(wb: Workbench, modal_cli: Cli) -> None:
    """What is due by a clock that was ahead is not late by one that no longer is."""
    modal_cli("deploy", str(APPS / "calls.py"))
    try:
        notes = modal.Dict.from_name("calls-notes", create_if_missing=True)
        before = notes.get("ticks", 0)
        time.sleep(2)  # the schedule has been seen
        with wb.clock.of("calls").advanced(6 * HOUR_S + 1):
            wait_until(lambda: notes.get("ticks", 0) == before + 1, "the function did not run")
        assert wb.clock.of("calls").offset_s() == wb.clock.offset_s()
        time.sleep(2)  # as above
        wb.clock.of("calls").advance(6 * HOUR_S + 1)
        wait_until(lambda: notes["ticks"] == before + 2, "the function did not run again")
    finally:
        modal_cli("app", "stop", "calls", "--yes")


@pytest.mark.parametrize(("moved", "status"), [("echo", 303), (OTHERS, 200)])
def test_its_web_functions_go_by_it(wb: Workbench, clock: Clock, modal_cli: Cli, moved: str, status: int) -> None:
    modal_cli("secret", "create", "echo-secret", "WORD=hush", "--force")
    modal_cli("deploy", str(APPS / "echo.py"))
    try:
        with httpx.Client(base_url=str(modal.Function.from_name("echo", "web").get_web_url()), timeout=60) as web:
            web.get("/")
            timer = threading.Timer(1.0, lambda: wb.clock.of(moved).advance(151))
            timer.start()
            assert web.get("/sleep", params={"seconds": 4}).status_code == status
            timer.join()
    finally:
        modal_cli("app", "stop", "echo", "--yes")


def test_a_rule_that_names_the_app_ends_by_its_clock_and_every_other_by_the_clouds(wb: Workbench, clock: Clock) -> None:
    with ExitStack() as stack:
        for app in (MINE, OTHERS, f"{MINE}*", ""):
            fields = {"app": app} if app else {}
            stack.enter_context(wb.faults.injected(at="commit", status="INTERNAL", sandbox="none", for_s=60, **fields))
        clock.advance(61)
        assert [one.rule.app for one in wb.faults.rules()] == [OTHERS, f"{MINE}*", ""]


def test_a_rule_delays_by_the_clock_of_the_app_that_it_meets(wb: Workbench, clock: Clock) -> None:
    with wb.faults.injected(rpc="SandboxCreate*", app="clock-*", delay_s=HOUR_S, times=1):
        timer = threading.Timer(1.0, lambda: clock.advance(HOUR_S))
        timer.start()
        modal.Sandbox.create(app=modal.App.lookup(MINE), timeout=60).terminate(wait=True)
        timer.join()


def test_what_belongs_to_no_app_goes_by_the_whole_clouds(clock: Clock) -> None:
    queue = modal.Queue.from_name("clock-queue", create_if_missing=True)
    queue.put("kept", partition="p", partition_ttl=600)
    clock.advance(24 * HOUR_S)
    assert queue.get(partition="p", block=False) == "kept"
    modal.Queue.objects.delete("clock-queue")


OWNER = """
import sys, workbench
from workbench.cloud_control import controls

controls.LEASE_S = 1.5
with workbench.connect().clock.of("clock-mine").advanced(3600):
    print("moved", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_leaves_no_clock_ahead(clock: Clock) -> None:
    before = clock.offset_s()
    command = warm.words("-c", OWNER, env=os.environ)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "moved\n"
        time.sleep(3)  # it is renewed
        assert clock.offset_s() == before + HOUR_S
        owner.kill()
    wait_until(lambda: clock.offset_s() == before, "the clock is still ahead")


def test_two_who_move_the_clock_of_the_same_app_take_back_what_is_theirs(clock: Clock) -> None:
    with ExitStack() as outer, clock.advanced(HOUR_S):
        with clock.advanced(60):
            assert clock.offset_s() == HOUR_S + 60
            outer.enter_context(clock.advanced(5))
        assert clock.offset_s() == HOUR_S + 5
        clock.set_back()
        assert clock.offset_s() == 0
    assert clock.offset_s() == 0


def test_an_app_that_does_not_run_has_no_clock(wb: Workbench, clock: Clock, modal_cli: Cli) -> None:
    clock.advance(60)
    [app_id] = [one.app_id for one in wb.clock.ahead() if one.app == MINE]
    by_id = wb.clock.of(app_id)
    assert by_id.offset_s() == 60
    modal_cli("app", "stop", MINE, "--yes")
    for gone in (clock, by_id, wb.clock.of("never-deployed"), wb.clock.of("ap-unknown"), wb.clock.of("../x")):
        with pytest.raises(ControlError, match=r"runs in environment 'main'|not found"):
            gone.advance(60)
    modal.App.lookup(MINE, create_if_missing=True)
    assert clock.offset_s() == wb.clock.offset_s()
    with pytest.raises(ControlError, match="app"):
        wb.clock.of("").advance(60)


def test_the_command_moves_and_shows_and_takes_back_one_apps_clock(clock: Clock) -> None:
    whole = json.loads(cli("cloud", "clock", "show", "--json").stdout)["offset_s"]
    assert cli("cloud", "clock", "advance", "90s", "--app", MINE, "--json").returncode == 0
    shown = json.loads(cli("cloud", "clock", "show", "--json").stdout)
    assert shown["offset_s"] == whole
    assert [(one["app"], one["offset_s"]) for one in shown["apps"] if one["app"] == MINE] == [(MINE, whole + 90)]
    assert f"{MINE} (ap-" in cli("cloud", "clock", "show").stdout
    assert json.loads(cli("cloud", "clock", "set-back", "--app", MINE, "--json").stdout)["offset_s"] == whole
    unknown = cli("cloud", "clock", "advance", "90s", "--app", "never-deployed")
    assert (unknown.returncode, "modal app list" in unknown.stderr) == (1, True)


def test_the_panel_moves_the_clock_of_its_sessions_app_unless_the_whole_clouds_is_chosen(
    wb: Workbench, clock: Clock
) -> None:
    tab = Failures(wb)
    whole, own = wb.clock.offset_s(), wb.clock.of(wb.app_name)
    tab.handle({"type": "advance", "seconds": 30, "whole": False}, [])
    tab.settle()
    assert (own.offset_s(), wb.clock.offset_s()) == (whole + 30, whole)
    assert (tab.app, tab.app_ahead_s, tab.ahead_s) == (wb.app_name, whole + 30, whole)
    tab.handle({"type": "set-back", "whole": False}, [])
    tab.settle()
    assert (own.offset_s(), tab.app_ahead_s) == (whole, whole)
    tab.close()
