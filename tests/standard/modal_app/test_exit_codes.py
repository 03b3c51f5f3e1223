"""A run has one exit code: its terminal event, its archive and the endpoint's log tell the same."""

import json
from typing import Any

import pytest

from modal_app.contract.events import TERMINAL
from tests.conftest import wait_until
from tests.support.commands import Cli
from workbench import Project, Workbench

# What is run in a project that is a repository with one file; how it ends, and with which exit code.
RUNS: dict[str, tuple[dict[str, Any], str, int | None]] = {
    "a question of which the answer is no": ({"action": "git", "op": "init"}, "done", 0),
    "nothing to commit": ({"action": "git", "op": "commit", "message": "m"}, "done", 0),
    "something to commit": (
        {"action": "files", "op": "write", "files": [{"path": "b", "content": "1"}], "message": "m"},
        "done",
        0,
    ),
    "no commit of that name": ({"action": "git", "op": "restore", "commit": "deadbeef"}, "not_found", None),
    "a path that git does not know": (
        {"action": "git", "op": "restore", "commit": "HEAD", "paths": ["nothing"]},
        "process_failed",
        1,
    ),
    "a change that is refused": ({"action": "files", "op": "delete", "path": "nothing"}, "not_found", None),
    "no program": ({"action": "files", "op": "read", "path": "a"}, "done", 0),
    "a program that fails": ({"action": "python", "code": "exit(7)"}, "process_failed", 7),
    "a program that is killed": ({"action": "python", "code": "import os; os.abort()"}, "process_failed", 134),
    "a program that does not end": (
        {"action": "python", "code": "import time; time.sleep(60)", "timeout_s": 1},
        "process_timeout",
        None,
    ),
    "files that no volume takes": ({"action": "python", "code": "open(b'\\xff', 'w')"}, "commit_failed", 0),
}


@pytest.fixture(scope="module")
def project(wb: Workbench) -> Project:
    """A project that is a repository."""
    made = Project.new()
    files = [{"path": "a", "content": "1"}]
    assert wb.launch(made, "files", op="write", files=files, message="first").wait(60).type == "done"
    return made


@pytest.mark.parametrize("name", RUNS)
def test_event_archive_and_log_tell_the_same(wb: Workbench, modal_cli: Cli, project: Project, name: str) -> None:
    fields, outcome, exit_code = RUNS[name]
    run = wb.launch(project, **fields)
    end = run.wait(60)
    assert isinstance(end, TERMINAL)
    assert (end.outcome, end.exit_code) == (outcome, exit_code), end
    assert all(check.ok for check in wb.runs.verify(str(run.run_id), wait_s=30)), wb.runs.verify(str(run.run_id))
    process = wb.runs.get(str(run.run_id)).bundle.process
    assert process is None or process.exit_code == exit_code

    told: list[dict[str, Any]] = []

    def logged() -> bool:
        lines = [line for line in modal_cli("app", "logs", "endpoint-tests").splitlines() if str(run.run_id) in line]
        told[:] = [json.loads(line[line.index("{") :]) for line in lines if '"run.end"' in line]
        return bool(told)

    wait_until(logged, "the run's end is not in the log")
    assert [(one["outcome"], one["exit_code"]) for one in told] == [(outcome, exit_code)]
