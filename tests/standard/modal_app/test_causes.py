"""Codes of the table that have no other home: for each, something that really happens, seen through the endpoint."""

import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from modal_app.contract.errors import ERRORS, ErrorCode
from modal_app.contract.events import DoneEvent, ErrorEvent
from tests.conftest import deployed, live_sandboxes, wait_until
from tests.support.paths import ROOT
from workbench import Project, Workbench
from workbench.local_cloud.process.state_directory import Running

JSON = {"Accept": "application/json"}
HOG = "held = []\nwhile True: held.append(b'x' * (64 << 20))\n"
# The test of each code in which a real cause produces it through the endpoint.
CAUSES = {
    "modal_app/test_bad_input.py": {
        ErrorCode.UNAUTHORIZED: "test_without_the_secret_nothing_is_even_read",
        ErrorCode.INVALID_REQUEST: "test_what_is_not_a_json_object",
        ErrorCode.TOO_LARGE: "test_a_body_that_is_too_long",
    },
    "modal_app/test_actions.py": {
        ErrorCode.NOT_FOUND: "test_what_cannot_be_done_is_told",
        ErrorCode.SANDBOX_UNAVAILABLE: "test_files_that_cannot_be_read_now_can_be_read_later",
    },
    "modal_app/test_openapi.py": {
        ErrorCode.METHOD_NOT_ALLOWED: "test_another_method_has_a_code_and_names_the_right_ones",
        ErrorCode.PROCESS_FAILED: "test_json_answers_are_as_they_are_described",
    },
    "modal_app/runs/test_keeping.py": {
        ErrorCode.GONE: "test_a_run_that_is_no_longer_kept_is_gone",
    },
    "modal_app/runs/test_one_execution.py": {
        ErrorCode.PROJECT_BUSY: "test_a_busy_project_names_its_run",
        ErrorCode.IDEMPOTENCY_CONFLICT: "test_the_same_key_with_another_body_is_a_conflict",
        ErrorCode.CANCELLED: "test_one_who_waits_can_be_cancelled",
    },
    "modal_app/runs/test_capacity.py": {
        ErrorCode.OVER_CAPACITY: "test_more_runs_than_fit_are_refused_until_one_has_ended",
    },
    "modal_app/test_git.py": {
        ErrorCode.PROCESS_TIMEOUT: "test_a_write_set_whose_git_does_not_end_leaves_nothing_behind",
    },
    "modal_app/test_causes.py": {
        ErrorCode.RUN_TIMEOUT: "test_a_sandbox_that_comes_too_late_for_its_run",
        ErrorCode.OUT_OF_MEMORY: "test_a_job_that_uses_up_its_memory",
        ErrorCode.STREAM_LOST: "test_an_archive_that_cannot_be_read",
        ErrorCode.INTERNAL: "test_a_run_whose_record_was_made_and_its_answer_lost",
    },
    "claude/endpoint/test_claude_action.py": {
        ErrorCode.STALLED: "test_a_job_that_shows_no_life_ends_with_all_that_it_has_started",
        ErrorCode.CONTEXT_FULL: "test_a_session_that_no_longer_fits_has_a_name_of_its_own",
    },
    "modal_app/runs/test_slow_readers.py": {
        ErrorCode.OUTPUT_LIMIT: "test_more_output_than_a_run_may_have_ends_it_and_what_was_streamed_stays",
    },
    "claude/endpoint/test_claude_faults.py": {
        ErrorCode.MODEL_ERROR: "test_a_job_ends_as_it_must_whatever_the_model_does",
        ErrorCode.MODEL_RATE_LIMITED: "test_a_job_ends_as_it_must_whatever_the_model_does",
        ErrorCode.MODEL_OVERLOADED: "test_a_job_ends_as_it_must_whatever_the_model_does",
        ErrorCode.MODEL_REFUSED: "test_a_job_ends_as_it_must_whatever_the_model_does",
        ErrorCode.MODEL_INVALID_OUTPUT: "test_a_job_ends_as_it_must_whatever_the_model_does",
        ErrorCode.PERMISSION_DENIED: "test_a_job_ends_as_it_must_whatever_becomes_of_it",
    },
    "modal_app/test_endpoint.py": {
        ErrorCode.SANDBOX_LOST: "test_a_sandbox_that_is_ended_from_outside_is_told_as_lost",
    },
    "faults/test_kills.py": {
        ErrorCode.CONTAINER_LOST: "test_a_container_that_is_killed_leaves_no_sandbox_and_the_client_is_told",
    },
    "modal_app/test_commits.py": {
        ErrorCode.COMMIT_FAILED: "test_the_job_s_own_files_are_named_with_the_reason",
    },
}


def test_every_code_has_a_cause() -> None:
    assert {code for tests in CAUSES.values() for code in tests} == set(ErrorCode)
    for path, tests in CAUSES.items():
        text = (ROOT / "tests/standard" / path).read_text()
        assert [name for name in tests.values() if not re.search(rf"def {name}\(", text)] == [], path


# -- memory -----------------------------------------------------------------------------------------------------------

HOGS = {
    "itself": HOG,
    "in a program that it waits for": f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {HOG!r}])\n",
    "in a program that it has left": (
        f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {HOG!r}], start_new_session=True)\n"
        "time.sleep(600)\n"
    ),
    "in files that are in memory": "f = open('/dev/shm/f', 'wb')\n" + HOG,
}


@pytest.mark.parametrize("how", ["itself", "in a program that it has left"])  # `workbench test --all` has them all
def test_a_job_that_uses_up_its_memory(wb: Workbench, http: httpx.Client, project: Project, how: str) -> None:
    uses_up_its_memory(wb, http, project, how)


def uses_up_its_memory(wb: Workbench, http: httpx.Client, project: Project, how: str) -> None:
    run = wb.launch(project, "python", code=f"open('before', 'w').write('1')\nprint('on', flush=True)\n{HOGS[how]}")
    end = run.wait(90)
    assert isinstance(end, ErrorEvent)
    assert (end.code, end.recoverable, end.exit_code) == ("out_of_memory", False, 137), end
    assert re.search(r"more memory than the \d{3,} MiB that its sandbox may use", end.message), end.message
    assert run.text() == "on\n"
    assert end.sandbox is not None
    assert end.sandbox.terminated
    assert live_sandboxes() == []
    answer = http.get(f"/generate/{run.run_id}", headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (ERRORS[ErrorCode.OUT_OF_MEMORY].status, "out_of_memory")
    assert all(check.ok for check in wb.runs.verify(str(run.run_id), wait_s=30))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os; os.kill(os.getpid(), 9)", "process_failed"),
        ("import sys; sys.exit(137)", "process_failed"),
        ("bytearray(1 << 50)", "process_failed"),
    ],
    ids=["a signal", "an exit code", "an error of Python's"],
)
def test_what_only_looks_like_it_is_something_else(wb: Workbench, project: Project, code: str, expected: str) -> None:
    end = wb.launch(project, "python", code=code).wait(90)
    assert isinstance(end, ErrorEvent)
    assert end.code == expected, end


def test_a_job_that_kills_all_that_it_can_does_not_reach_what_belongs_to_root(wb: Workbench, project: Project) -> None:
    """The job's user is not that of the sandbox's first program, unless sandboxes share this machine's system."""
    end = wb.launch(project, "python", code="import os; os.kill(-1, 9); print('on')").wait(90)
    assert isinstance(end, DoneEvent) or (isinstance(end, ErrorEvent) and end.code == "sandbox_lost"), end


# -- time -------------------------------------------------------------------------------------------------------------

SHORT = {
    "WORKBENCH_TIMEOUT_PROCESS_S": "4",
    "WORKBENCH_TIMEOUT_COMMIT_S": "2",
    "WORKBENCH_TIMEOUT_SANDBOX_S": "7",
}


@pytest.fixture(scope="module")
def short(cloud: Running) -> Iterator[Workbench]:
    """The endpoint with little time for each run."""
    with deployed("short-runs", SHORT) as workbench:
        yield workbench


@pytest.mark.parametrize("rpc", ["SandboxCreateV2"])  # `workbench test --all` has more of them
def test_a_sandbox_that_comes_too_late_for_its_run(short: Workbench, project: Project, rpc: str) -> None:
    comes_too_late(short, project, rpc)


def comes_too_late(short: Workbench, project: Project, rpc: str) -> None:
    """Whatever the platform is late with: the run ends in its own time, and nothing of it stays."""
    assert isinstance(short.launch(project, "python", code="print(1)").wait(60), DoneEvent)
    with short.faults.injected(rpc=rpc, app="short-runs", delay_s=9):
        run = short.launch(project, "python", code="print(1)")
        end = run.wait(90)
    assert isinstance(end, ErrorEvent)
    assert (end.code, end.recoverable) == ("run_timeout", True), end
    wait_until(lambda: live_sandboxes("short-runs") == [], "a sandbox was left")


# -- what is known of a run -------------------------------------------------------------------------------------------


def test_an_archive_that_cannot_be_read(wb: Workbench, http: httpx.Client, project: Project) -> None:
    """How the run ended is not known here and now; it is again when the platform is back."""
    run = wb.launch(project, "python", code="exit(3)")
    run.wait(60)
    assert wb.runs.verify(str(run.run_id), wait_s=30)
    with wb.faults.injected(rpc="VolumeGetFile*", status="PERMISSION_DENIED"):
        lost = http.get(f"/generate/{run.run_id}", headers=JSON)
    assert (lost.status_code, lost.json()["code"]) == (502, "stream_lost"), lost.text
    assert (lost.json()["run_id"], lost.json()["recoverable"]) == (run.run_id, True)
    assert http.get(f"/generate/{run.run_id}", headers=JSON).json()["code"] == "process_failed"


def test_a_run_whose_record_was_made_and_its_answer_lost(wb: Workbench, http: httpx.Client) -> None:
    """Nobody executes it: it is ended as what it is, and the key finds that end."""
    ends = (_lost_in_the_middle(wb, http, nth) for nth in (3, 4, 3, 4))  # a beat of the container may come between
    assert "internal" in ends


def _lost_in_the_middle(wb: Workbench, http: httpx.Client, nth: int) -> str:
    project = Project.new()
    asked: dict[str, Any] = {"user_id": project.user_id, "project_id": project.project_id, "action": "files"}
    headers = {**JSON, "Idempotency-Key": project.project_id}
    with wb.faults.injected(at="answer", rpc="DictUpdate", app="endpoint-tests", nth=nth, status="PERMISSION_DENIED"):
        http.post("/generate", json={**asked, "op": "list"}, headers=headers)
    time.sleep(2)
    answer: dict[str, Any] = http.post("/generate", json={**asked, "op": "list"}, headers=headers).json()
    return str(answer.get("code"))


@pytest.mark.parametrize("status", ["FAILED_PRECONDITION", "PERMISSION_DENIED", "INVALID_ARGUMENT"])
def test_a_sandbox_that_is_refused_is_told_with_its_cause(wb: Workbench, project: Project, status: str) -> None:
    """The platform's own words may hold anything: its kind of error is told, the rest is in the endpoint's log."""
    with wb.faults.injected(at="call", rpc="SandboxCreate*", status=status):
        end = wb.launch(project, "python", code="print(1)").wait(60)
    assert isinstance(end, ErrorEvent)
    assert end.code is ErrorCode.SANDBOX_UNAVAILABLE
    assert re.fullmatch(r"no sandbox could be started: the platform answered \w+; .*", end.message), end.message
