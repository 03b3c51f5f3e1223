"""The launcher's Python side: forms of the contract's models, what is wrong by field, calls that do what they say."""

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, get_args

import pytest

from modal_app.contract.requests import ACTIONS, Request, parse_request
from tests.conftest import wait_until
from workbench import Project, Workbench
from workbench.deployment.app_secrets import SECRET_VARIABLE
from workbench.widgets import Launcher
from workbench.widgets.launcher.forms import Form, check, forms
from workbench.widgets.launcher.launch_code import body, calls

USER = "6f1c0a52-52a1-4b5e-9d0e-0d6f0f0c7c11"
PROJECT = "0b1f7a1e-3c8e-4d52-8a53-5a2f5d1f9a10"
FILLED: dict[tuple[str, str], dict[str, Any]] = {
    ("claude", ""): {
        "prompt": "a page\nwith a clock",
        "max_turns": "3",
        "budget_usd": "0.5",
        "allowed_tools": "Bash(git *)\nRead",
        "json_schema": '{"type": "object"}',
        "permission_mode": "plan",
        "project_skills": True,
        "timeout_s": "60",
    },
    ("python", ""): {"code": "print(1)", "args": "a b\nc", "stdin": "in"},
    ("git", "log"): {"limit": "5"},
    ("git", "diff"): {"base": "HEAD"},
    ("git", "commit"): {"message": "first"},
    ("git", "restore"): {"commit": "0123abc", "paths": "a\nb/c"},
    ("files", "read"): {"path": "a"},
    ("files", "write"): {"files": [{"path": "a", "content": "x"}, {"path": "b", "encoding": "base64"}], "message": ""},
    ("files", "delete"): {"path": "a"},
    ("files", "move"): {"path": "a", "to": "b"},
}


def form(action: str, op: str = "") -> Form:
    return next(one for one in forms() if (one.action, one.op) == (action, op))


def errors(action: str, op: str, values: dict[str, Any], *, user: str = USER, project: str = PROJECT) -> dict[str, str]:
    checked = check(form(action, op), user, project, values)
    assert checked.request is None
    return checked.errors


def test_there_is_a_form_for_every_request_and_a_field_for_every_field() -> None:
    """What the contract gains, the launcher has."""
    assert [one.model for one in forms()] == list(get_args(Request))
    assert {one.action for one in forms()} == set(ACTIONS)
    for one in forms():
        told = {field.name for field in one.fields} | {"user_id", "project_id", "action", "op"}
        assert told >= set(one.model.model_fields)
        assert one.help
        assert json.loads(json.dumps(one.drawn()))["action"] == one.action


@pytest.mark.parametrize("one", forms(), ids=lambda one: f"{one.action} {one.op}".strip())
def test_a_filled_form_is_the_request_that_its_call_makes(one: Form) -> None:
    checked = check(one, USER, PROJECT, FILLED.get((one.action, one.op), {}))
    assert checked.errors == {}
    assert checked.request is not None
    assert parse_request(json.dumps(body(checked.request)).encode()) == checked.request


def test_what_is_wrong_is_said_by_the_contract_field_by_field() -> None:
    assert errors("claude", "", {}) == {"prompt": "is required"}
    assert errors("git", "log", {"limit": "many"}) == {"limit": "Input should be a valid integer"}
    assert errors("git", "log", {"limit": "5000"}) == {"limit": "Input should be less than or equal to 1000"}
    assert errors("git", "log", {"limit": "1.5"}) == {"limit": "Input should be a valid integer"}
    assert errors("python", "", {}) == {"": "give either code or path"}
    assert errors("files", "read", {"path": "/etc/passwd"}) == {"path": "a path must be relative to the workspace"}
    assert errors("claude", "", {"prompt": "p", "json_schema": "{"}) == {"json_schema": "is not JSON"}
    assert errors("files", "write", {"files": [{"content": "x"}]}) == {"files": "1.path: a path may not be empty"}
    assert errors("git", "init", {}, user="me", project="") == {
        "user_id": "must be a canonical lower-case UUID",
        "project_id": "must be a canonical lower-case UUID",
    }


def test_hints_are_the_models_own_limits() -> None:
    hints = {field.name: field.hint for field in (*form("git", "log").fields, *form("claude").fields)}
    assert hints["limit"] == "1 to 1000, 50 when empty"
    assert hints["allowed_tools"] == "one a line, at most 64"
    assert form("claude").fields[0].name == "prompt"


@pytest.fixture(scope="module")
def made(wb: Workbench) -> dict[str, str]:
    code = "print('it\\'s', \"here\", '$HOME', '`id`', chr(233))\n"
    checked = check(form("python"), USER, PROJECT, {"code": code})
    assert checked.request is not None
    return calls(checked.request, wb.endpoint.url, target="local", app_name=wb.app_name)


def test_no_call_holds_the_secret(wb: Workbench, made: dict[str, str]) -> None:
    for text in made.values():
        assert wb.endpoint.secret.get_secret_value() not in text
    assert SECRET_VARIABLE in made["curl"]
    assert SECRET_VARIABLE in made["TypeScript"]


@pytest.mark.parametrize("language", ["curl", "TypeScript", "Python"])
def test_a_call_does_what_it_says(wb: Workbench, made: dict[str, str], language: str, tmp_path: Path) -> None:
    """As it stands, in a process of its own that has the secret in its environment."""
    script = tmp_path / "call.mjs"
    script.write_text(made[language])
    command = {
        "curl": ["sh", str(script)],
        "TypeScript": [shutil.which("node") or "", str(script)],
        "Python": [sys.executable, "-c", f"{made[language]}print(run.text(), run.state.condition)\nwb.close()"],
    }[language]
    if not command[0]:
        pytest.skip("Node.js is not installed")
    env = {**os.environ, SECRET_VARIABLE: wb.endpoint.secret.get_secret_value()}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert "$HOME `id` é" in done.stdout
    assert "done" in done.stdout


def test_a_form_is_launched_without_blocking_and_its_run_is_shown(wb: Workbench, project: Project) -> None:
    launcher = Launcher(wb)
    ids = {"user_id": project.user_id, "project_id": project.project_id}
    index = [one.action for one in forms()].index("python")
    message = {"type": "launch", "form": index, "project": ids, "values": {}}
    launcher._on_message(launcher, message, [])
    wait_until(lambda: launcher.errors == {"": "give either code or path"}, "what is missing was not told")
    assert launcher.runs == []
    launcher._on_message(launcher, {**message, "values": {"code": "print('hi')"}}, [])
    wait_until(lambda: launcher.view is not None and launcher.view.condition == "done", "the run was not launched")
    assert launcher.runs[0].text() == "hi\n"
    assert set(launcher.calls) == {"curl", "TypeScript", "Python"}
    assert launcher.launched == ["python"]
    assert {**ids, "name": ""} in launcher.offered
    assert "done" in launcher._repr_mimebundle_()[0]["text/plain"]
    assert launcher.launch(project, "git", op="status").wait(60).type in ("done", "error")
    assert launcher.launched == ["python", "git status"]
    launcher._on_message(launcher, {"type": "choose", "index": 0}, [])
    wait_until(lambda: launcher.chosen == 0, "the first run was not chosen")
    launcher.close()


def test_used_projects_are_found_in_the_archives(wb: Workbench, project: Project) -> None:
    """They need no store of their own."""
    run = wb.launch(project, "python", code="1")
    assert run.wait(60).type == "done"
    assert all(check.ok for check in run.checks(60))
    launcher = Launcher(wb)
    launcher._on_message(launcher, {"type": "hello"}, [])
    wanted = {"user_id": project.user_id, "project_id": project.project_id, "name": ""}
    wait_until(lambda: wanted in launcher.offered, "the project was not offered")
    launcher.close()


def test_a_new_project_is_one_that_nobody_has_used(wb: Workbench) -> None:
    launcher = Launcher(wb, action="claude")
    before = launcher.draft["project"]
    launcher._on_message(launcher, {"type": "new_project"}, [])
    wait_until(lambda: launcher.draft["project"] != before, "there is no new project")
    assert forms()[launcher.draft["form"]].action == "claude"
    launcher.close()


def test_a_project_is_chosen_by_its_name(wb: Workbench) -> None:
    """The name stands for ids, which stay visible, and which every other widget of this user finds by it."""
    launcher = Launcher(wb)
    mine, other = launcher.project, f"other {uuid.uuid4()}"
    name = f"mine {uuid.uuid4()}"
    launcher._on_message(launcher, {"type": "name", "name": name}, [])
    wait_until(lambda: wb.labels.name_of(mine) == name, "the project was not named")
    launcher._on_message(launcher, {"type": "name", "name": other}, [])
    wait_until(lambda: launcher.project != mine, "no other project was begun")
    assert wb.labels.project(other) == launcher.project
    again = Launcher(wb)
    again._on_message(again, {"type": "name", "name": name}, [])
    wait_until(lambda: again.project == mine, "the project was not found by its name")
    wait_until(lambda: name in [one["name"] for one in again.offered], "the name is not offered")
    again._on_message(again, {"type": "name", "name": "two\nlines"}, [])
    wait_until(lambda: "printable" in again.problem, "nobody said what is wrong with the name")
    assert again.project == mine
    for one in (launcher, again):
        one.close()
    for given in (name, other):
        wb.labels.forget_project(given)
