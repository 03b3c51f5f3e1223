"""What a run was asked: kept without secrets, shown safely, filled into a form, asked again only when it is whole."""

import hashlib
import json
from typing import Any

import pytest

from modal_app.contract.errors import ContractError
from modal_app.contract.requests import REDACTED, Request, dump_request, parse_request, without_secrets
from tests.quick.modal_app.contract.test_requests import GOOD, body
from tests.quick.workbench.test_recordings import RECORDING
from workbench import ArchivedRun, Project
from workbench.runs.inputs import asked, described, is_whole
from workbench.widgets.launcher.forms import check, forms, values_of

SECRET = "hunter2-in-the-input"
WITH_SECRETS: dict[str, dict[str, Any]] = {
    "stdin": {"action": "python", "code": "1", "stdin": SECRET},
    "stdin of a file": {"action": "python", "path": "a.py", "stdin": f"{SECRET}\n" * 3},
    "files": {"action": "files", "op": "write", "files": [{"path": "a", "content": SECRET}]},
    "base64": {
        "action": "files",
        "op": "write",
        "files": [{"path": "b", "content": "aHVudGVyMi1pbi10aGUtaW5wdXQ=", "encoding": "base64"}],
        "message": "all",
    },
    "env": {"prompt": "go", "mcp_config": {"mcpServers": {"a": {"command": "sh", "env": {"KEY": SECRET}}}}},
    "headers": {"prompt": "go", "mcp_config": {"mcpServers": {"a": {"url": "u", "headers": {"X": [SECRET]}}}}},
}


def archived(request: Request) -> ArchivedRun:
    """A run that was asked this, as its archive has it."""
    bundle = RECORDING.bundle.model_copy(update={"body_sha256": hashlib.sha256(dump_request(request)).hexdigest()})
    kept = dump_request(without_secrets(request))
    return ArchivedRun(bundle.run_id, bundle, RECORDING.stream, request=kept)


@pytest.mark.parametrize("fields", GOOD, ids=lambda fields: "-".join(str(v) for v in list(fields.values())[:2]))
def test_a_request_can_be_filled_in_as_it_was(fields: dict[str, Any]) -> None:
    request = parse_request(body(**fields))
    form = next(one for one in forms() if isinstance(request, one.model))
    checked = check(form, request.user_id, request.project_id, values_of(form, request))
    assert checked.errors == {}
    assert checked.request == request


@pytest.mark.parametrize("name", WITH_SECRETS)
def test_what_may_be_secret_is_not_kept_and_such_a_run_is_not_run_again_without_it(name: str) -> None:
    request = parse_request(body(**WITH_SECRETS[name]))
    run = archived(request)
    for secret in (SECRET, "aHVudGVyMi1pbi10aGUtaW5wdXQ="):
        assert secret.encode() not in run.request
    assert run.asked is not None
    assert REDACTED in described(run.asked)
    with pytest.raises(ContractError, match=r"stdin|files|mcp_config") as caught:
        run.again()
    assert "is not kept" in caught.value.message
    form = next(one for one in forms() if isinstance(request, one.model))
    assert REDACTED not in json.dumps([v for k, v in values_of(form, run.asked).items() if k != "mcp_config"])


@pytest.mark.parametrize(
    "fields",
    [
        {"action": "python", "code": "print(1)\nprint(2)", "args": ["a", "b"], "timeout_s": 5},
        {"action": "git", "op": "commit", "message": "first"},
        {"prompt": "write a page", "max_turns": 3},
        {"action": "prewarm"},
    ],
)
def test_what_is_whole_is_asked_again_in_its_project_or_another(fields: dict[str, Any]) -> None:
    request = parse_request(body(**fields))
    run = archived(request)
    assert run.again() == request
    other = Project.new()
    again = run.again(other)
    assert (again.user_id, again.project_id) == (other.user_id, other.project_id)
    assert again.model_copy(update={"user_id": request.user_id, "project_id": request.project_id}) == request


def test_an_archive_that_says_something_else_than_was_asked_is_not_believed() -> None:
    request = parse_request(body(action="python", code="print(1)"))
    run = archived(request)
    forged = ArchivedRun(run.run_id, run.bundle, run.stream, request=run.request.replace(b"print(1)", b"print(2)"))
    with pytest.raises(ContractError, match="is not kept"):
        forged.again()
    for data in (b"", b"{", b"[]", b"\xff", b'{"action": "python"}', b"null" * 1000):
        assert asked(data) is None
        with pytest.raises(ContractError, match="is not kept"):
            ArchivedRun(run.run_id, run.bundle, run.stream, request=data).again()


def test_a_replay_is_not_asked_again() -> None:
    request = parse_request(body(prompt="go", replay=Project.new().project_id))
    assert is_whole(request, archived(request).bundle.body_sha256)
    with pytest.raises(ContractError, match="replay the recording"):
        archived(request).again()


def test_it_is_shown_without_what_drives_a_terminal_and_bounded() -> None:
    shown = described(parse_request(body(action="python", code="print('\x1b[2J')\n# \u202e" + "x" * 100_000)))
    assert "action: python\ncode:\nprint(" in shown
    assert all(one.isprintable() or one in "\n\t" for one in shown)
    assert "characters more" in shown
    assert described(parse_request(body(action="git", op="init"))) == "action: git\nop: init"
