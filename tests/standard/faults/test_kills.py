"""Whatever dies first, nothing of a run survives it: client, container, cloud, each killed while a job streams."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import modal
import psutil
import pytest

from modal_app.contract.events import ErrorEvent
from tests.conftest import FAST, live_sandboxes, processes_of, wait_until
from tests.support import warm
from workbench import Project, Run, StreamLostError, Workbench, connect
from workbench.local_cloud.process.state_directory import State

TALKING = "import time\nfor n in range(10**6): print('tick', n, flush=True); time.sleep(0.05)"
pytestmark = pytest.mark.timeout(180)


def talking(wb: Workbench, project: Project) -> Run:
    run = wb.launch(project, "python", code=TALKING)
    wait_until(lambda: run.state.bytes["stdout"] > 0, "the job did not speak")
    return run


def test_a_client_that_is_killed_leaves_no_sandbox(wb: Workbench, project: Project) -> None:
    """The client is a process of its own, killed without a chance to say goodbye."""
    content = {"user_id": project.user_id, "project_id": project.project_id, "action": "python", "code": TALKING}
    command = ["curl", "-sN", f"{wb.endpoint.url}/generate", "-H", "@-", "-d", json.dumps(content)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as curl:
        assert curl.stdin is not None
        assert curl.stdout is not None
        curl.stdin.write(f"X-Modal-Secret: {wb.endpoint.secret.get_secret_value()}\n".encode())
        curl.stdin.close()
        for line in curl.stdout:
            if b'"tick' in line or b'"text":"tick' in line:
                break
        assert live_sandboxes()
        curl.kill()
    wait_until(lambda: live_sandboxes() == [], "the sandbox outlived the client")


def test_a_container_that_is_killed_leaves_no_sandbox_and_the_client_is_told(
    wb: Workbench, state: State, project: Project
) -> None:
    run = talking(wb, project)
    container = _container_of(wb, state)
    container.kill()
    end = run.wait(90)
    assert isinstance(end, ErrorEvent)
    assert (end.code, end.recoverable) == ("container_lost", True)
    assert run.reconnects > 0
    wait_until(lambda: live_sandboxes() == [], "the sandbox outlived its endpoint")
    again = wb.launch(project, "python", code="print('again')")
    assert again.wait(60).type == "done"


def _container_of(wb: Workbench, state: State) -> psutil.Process:
    """The Python of the container that serves the endpoint: the app has others, for its schedule and gateway."""
    function = modal.Function.from_name(wb.app_name, "generate")
    function.hydrate()
    started = [json.loads(line) for line in state.log.read_text().splitlines() if "container.started" in line]
    tasks = {line["task_id"] for line in started if line["function_id"] == function.object_id}
    for process in psutil.process_iter(["cmdline"]):
        if "modal._container_entrypoint" in (process.info["cmdline"] or ()):
            with suppress(psutil.Error):
                if process.environ().get("MODAL_TASK_ID") in tasks:
                    return process
    raise AssertionError("the endpoint has no container")


def test_a_cloud_that_is_killed_leaves_nothing(
    wb: Workbench, own_state: State, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_and_leaves_nothing(wb, own_state, project, monkeypatch, signal.SIGKILL)


def ends_and_leaves_nothing(
    wb: Workbench, own_state: State, project: Project, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """End a cloud under a run by a signal: nothing of it is left, and the next one knows what became of the run."""
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    try:
        with connect("local", state_dir=own_state.root, patience_s=2) as own:
            own.deploy()
            run = talking(own, project)
            assert processes_of(own_state)
            running = own_state.running()
            assert running is not None
            os.kill(running.pid, number)
            with pytest.raises(StreamLostError):
                _wait_for_the_end(run)
            wait_until(lambda: processes_of(own_state) == [], "a process outlived the cloud")
            wait_until(lambda: not _runs(own_state), "a run directory outlived the cloud")
            assert [line for line in Path("/proc/mounts").read_text().splitlines() if str(own_state.root) in line] == []
        with connect("local", state_dir=own_state.root, patience_s=2) as own:
            own.deploy()
            assert own.launch(project, "python", code="print(1)", wait_s=60).wait(90).type == "done"
            assert own.attach(run.run_id).wait(60).type == "error"
    finally:
        wb.target.point_sdk()


def _wait_for_the_end(run: Run) -> None:
    end = run.wait(90)
    if isinstance(end, ErrorEvent):  # a cloud that is told to stop may let the endpoint say goodbye
        raise StreamLostError(end.code, run_id=end.run_id, last_seq=end.seq)


def _runs(state: State) -> list[Path]:
    runs = state.root / "run"
    return list(runs.iterdir()) if runs.exists() else []


def test_a_workbench_that_is_killed_leaves_no_sandbox(wb: Workbench, project: Project) -> None:
    """The engineer's own kernel dies."""
    code = (
        "import sys, workbench\n"
        "wb = workbench.connect('local', app_name='endpoint-tests')\n"
        f"run = wb.launch(workbench.Project({project.user_id!r}, {project.project_id!r}), 'python', code={TALKING!r})\n"
        "for event in run.follow():\n"
        "    if event.type == 'stream': print('on', flush=True)\n"
    )
    with subprocess.Popen(warm.words("-c", code, env=os.environ), stdout=subprocess.PIPE) as kernel:
        assert kernel.stdout is not None
        assert kernel.stdout.readline() == b"on\n"
        assert live_sandboxes()
        kernel.kill()
    wait_until(lambda: live_sandboxes() == [], "the sandbox outlived the kernel")


def test_ctrl_c_in_the_shell_cancels_the_run(wb: Workbench, project: Project) -> None:
    command = [sys.executable, "-m", "workbench", "run", "python", "-c", TALKING, "--app-name", wb.app_name]
    command += ["--user", project.user_id, "--project", project.project_id]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it may be ignored where the tests run
    ) as shell:
        assert shell.stdout is not None
        for line in shell.stdout:
            if b"tick" in line:
                break
        shell.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert shell.wait(60) == 130
        assert time.monotonic() - started < 60
    assert live_sandboxes() == []
