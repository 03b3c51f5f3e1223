"""What the door lets in: every other body is refused with a code, and nothing of it is repeated in the message."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal_app.contract.caps import (
    MAX_ARGUMENTS_BYTES,
    MAX_CODE_BYTES,
    MAX_FILES,
    MAX_MESSAGE_BYTES,
    MAX_NAME_BYTES,
    MAX_PATH_BYTES,
    MAX_PATH_DEPTH,
    MAX_PROMPT_BYTES,
    MAX_SCHEMA_BYTES,
    MAX_TOOLS,
)
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.paths import check_path
from modal_app.contract.requests import (
    FilesWrite,
    GitCommit,
    PythonRequest,
    dump_request,
    parse_request,
    without_secrets,
)

ID = "0b5c1c9e-7a10-4a53-9f0c-3b6d5a3f1e20"
OWNER = {"user_id": ID, "project_id": ID}


def body(**fields: object) -> bytes:
    return json.dumps({**OWNER, **fields}).encode()


GOOD = [
    {"prompt": "hello"},
    {
        "action": "claude",
        "prompt": "é\n",
        "resume": ID,
        "fork": True,
        "model": "opus",
        "max_turns": 3,
        "budget_usd": 1,
        "json_schema": {"const": None},
        "allowed_tools": ["Bash(git *)"],
        "disallowed_tools": ["WebFetch"],
        "permission_mode": "plan",
        "mcp_config": {"mcpServers": {"a": {"env": None}}},
        "project_skills": True,
    },
    {"action": "python", "code": "print(1)", "args": ["a"], "stdin": "x", "timeout_s": 5},
    {"prompt": "hello", "replay": ID},
    {"action": "prewarm", "with_model": True},
    {"action": "python", "path": "src/main.py"},
    {"action": "git", "op": "init"},
    {"action": "git", "op": "status"},
    {"action": "git", "op": "log", "limit": 1000},
    {"action": "git", "op": "diff", "base": "a" * 40, "head": "HEAD"},
    {"action": "git", "op": "commit", "message": "első"},
    {"action": "git", "op": "restore", "commit": "abcdef0", "paths": ["a b", "ü"]},
    {"action": "files", "op": "list"},
    {"action": "files", "op": "list", "path": "src"},
    {"action": "files", "op": "read", "path": "a"},
    {"action": "files", "op": "write", "files": [{"path": "a", "content": "AAA=", "encoding": "base64"}]},
    {"action": "files", "op": "delete", "path": "a"},
    {"action": "files", "op": "move", "path": "a", "to": "b"},
]

BAD = {
    "no_action": {},
    "code_alone": {"code": "1"},
    "prompt_for_another_action": {"action": "python", "prompt": "hello"},
    "no_prompt": {"action": "claude"},
    "prompt_empty": {"prompt": " \n"},
    "prompt_of_wrong_type": {"prompt": ["a"]},
    "prompt_with_nul": {"prompt": "a\0b"},
    "prompt_too_long": {"prompt": "é" * (MAX_PROMPT_BYTES // 2 + 1)},
    "resume_option": {"prompt": "a", "resume": "--continue"},
    "fork_of_nothing": {"prompt": "a", "fork": True},
    "fork_of_wrong_type": {"prompt": "a", "resume": ID, "fork": 1},
    "model_option": {"prompt": "a", "model": "--dangerously-skip-permissions"},
    "no_turns": {"prompt": "a", "max_turns": 0},
    "turns_text": {"prompt": "a", "max_turns": "3"},
    "no_budget": {"prompt": "a", "budget_usd": 0},
    "schema_of_wrong_type": {"prompt": "a", "json_schema": "{}"},
    "schema_too_long": {"prompt": "a", "json_schema": {"description": "x" * MAX_SCHEMA_BYTES}},
    "tools_of_wrong_type": {"prompt": "a", "allowed_tools": "Bash"},
    "tool_option": {"prompt": "a", "disallowed_tools": ["--verbose"]},
    "too_many_tools": {"prompt": "a", "allowed_tools": ["Bash"] * (MAX_TOOLS + 1)},
    "unknown_permission_mode": {"prompt": "a", "permission_mode": "root"},
    "mcp_of_another_shape": {"prompt": "a", "mcp_config": {"servers": {}}},
    "skills_of_wrong_type": {"prompt": "a", "project_skills": "yes"},
    "unknown_action": {"action": "shell", "code": "x"},
    "action_of_wrong_type": {"action": 3},
    "unknown_op": {"action": "git", "op": "push"},
    "no_op": {"action": "files"},
    "unknown_field": {"action": "python", "code": "1", "root": True},
    "no_program": {"action": "python"},
    "two_programs": {"action": "python", "code": "1", "path": "a"},
    "code_of_wrong_type": {"action": "python", "code": 1},
    "code_with_nul": {"action": "python", "code": "a\0b"},
    "code_too_long": {"action": "python", "code": "x" * (MAX_CODE_BYTES + 1)},
    "argument_with_nul": {"action": "python", "code": "1", "args": ["a\0"]},
    "arguments_too_long": {"action": "python", "code": "1", "args": ["x" * 40_000]},
    "args_of_wrong_type": {"action": "python", "code": "1", "args": "ab"},
    "timeout_zero": {"action": "python", "code": "1", "timeout_s": 0},
    "timeout_text": {"action": "python", "code": "1", "timeout_s": "5"},
    "timeout_bool": {"action": "python", "code": "1", "timeout_s": True},
    "timeout_float": {"action": "python", "code": "1", "timeout_s": 1.5},
    "timeout_endless": {"action": "python", "code": "1", "timeout_s": 10**9},
    "limit_text": {"action": "git", "op": "log", "limit": "5"},
    "limit_too_high": {"action": "git", "op": "log", "limit": 10**6},
    "revision_option": {"action": "git", "op": "diff", "base": "--output=/etc/passwd"},
    "revision_range": {"action": "git", "op": "diff", "base": "HEAD..main"},
    "revision_name": {"action": "git", "op": "restore", "commit": "main"},
    "message_empty": {"action": "git", "op": "commit", "message": "  "},
    "message_with_nul": {"action": "git", "op": "commit", "message": "a\0"},
    "nothing_to_write": {"action": "files", "op": "write", "files": []},
    "too_many_files": {
        "action": "files",
        "op": "write",
        "files": [{"path": str(number), "content": ""} for number in range(MAX_FILES + 1)],
    },
    "same_path_twice": {
        "action": "files",
        "op": "write",
        "files": [{"path": "a", "content": ""}, {"path": "a", "content": ""}],
    },
    "file_and_directory": {
        "action": "files",
        "op": "write",
        "files": [{"path": "a", "content": ""}, {"path": "a/b", "content": ""}],
    },
    "not_base64": {"action": "files", "op": "write", "files": [{"path": "a", "content": "?", "encoding": "base64"}]},
    "unknown_encoding": {"action": "files", "op": "write", "files": [{"path": "a", "content": "", "encoding": "x"}]},
    "move_into_itself": {"action": "files", "op": "move", "path": "a", "to": "a/b"},
}
BAD_PATHS = {
    "empty": "",
    "absolute": "/etc/passwd",
    "parent": "..",
    "parent_inside": "a/../../b",
    "reserved": ".workbench-0123456789ab/file",
    "dot": "./a",
    "doubled": "a//b",
    "trailing": "a/",
    "nul": "a\0b",
    "newline": "a\nb",
    "too_long": "a/" * MAX_PATH_BYTES + "b",
    "long_name": "x" * 256,
    "too_deep": "/".join("a" * 40),
}
BAD_IDS = {
    "upper": ID.upper(),
    "braces": f"{{{ID}}}",
    "urn": f"urn:uuid:{ID}",
    "bare": ID.replace("-", ""),
    "traversal": "../" + ID[3:],
    "newline": ID + "\n",
    "number": 7,
    "null": None,
    "wide": ID.replace("0", "\uff10"),
}


@pytest.mark.parametrize("fields", GOOD, ids=lambda fields: "-".join(str(v) for v in list(fields.values())[:2]))
def test_a_request_survives_the_wire(fields: dict[str, object]) -> None:
    request = parse_request(body(**fields))
    assert parse_request(dump_request(request)) == request


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_follow_the_contract_is_refused(name: str) -> None:
    with pytest.raises(ContractError) as caught:
        parse_request(body(**BAD[name]))
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("name", BAD_PATHS)
def test_a_path_that_could_leave_the_workspace_is_refused(name: str) -> None:
    with pytest.raises(ContractError):
        parse_request(body(action="files", op="read", path=BAD_PATHS[name]))


@pytest.mark.parametrize(
    ("fields", "sizes"),
    [
        ({"action": "python", "code": "x" * (MAX_CODE_BYTES + 7)}, (MAX_CODE_BYTES + 7, MAX_CODE_BYTES)),
        ({"prompt": "é" * MAX_PROMPT_BYTES}, (2 * MAX_PROMPT_BYTES, MAX_PROMPT_BYTES)),
        ({"prompt": "x", "allowed_tools": [f"T{n}(x)" for n in range(MAX_TOOLS + 1)]}, (MAX_TOOLS,)),
        ({"action": "git", "op": "commit", "message": "m" * 20_000}, (20_000, MAX_MESSAGE_BYTES)),
        ({"action": "files", "op": "read", "path": "x" * 256}, (256, MAX_NAME_BYTES)),
        ({"action": "files", "op": "read", "path": "/".join("a" * 40)}, (40, MAX_PATH_DEPTH)),
        (
            {"action": "files", "op": "read", "path": "a/" * MAX_PATH_BYTES + "b"},
            (2 * MAX_PATH_BYTES + 1, MAX_PATH_BYTES),
        ),
        ({"action": "python", "code": "1", "args": ["x" * 40_000]}, (MAX_ARGUMENTS_BYTES,)),
    ],
    ids=["code", "prompt", "tools", "message", "name", "depth", "path", "arguments"],
)
def test_what_is_over_a_limit_is_told_with_the_limit(fields: dict[str, object], sizes: tuple[int, ...]) -> None:
    """ "May be N bytes long" reads as if it had to be."""
    with pytest.raises(ContractError) as caught:
        parse_request(body(**fields))
    assert "at most" in caught.value.message
    for size in sizes:
        assert str(size) in caught.value.message


@pytest.mark.parametrize("field", ["user_id", "project_id"])
@pytest.mark.parametrize("name", BAD_IDS)
def test_an_id_that_is_not_canonical_is_refused(field: str, name: str) -> None:
    with pytest.raises(ContractError, match=field):
        parse_request(body(action="git", op="log", **{field: BAD_IDS[name]}))


@pytest.mark.parametrize("raw", [b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b'{"a":"\\ud800"}', b"[" * 100_000])
def test_what_is_not_a_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(ContractError) as caught:
        parse_request(raw)
    assert caught.value.status == 400


def test_a_refusal_names_the_field_and_never_the_value() -> None:
    """A body may hold what belongs in no log."""
    with pytest.raises(ContractError) as caught:
        parse_request(body(action="python", code="1", args=["hush-hush\0"]))
    assert "args.0" in caught.value.message
    assert "hush" not in caught.value.message


def test_defaults_and_types() -> None:
    python = parse_request(body(action="python", code="1"))
    assert isinstance(python, PythonRequest)
    assert (python.args, python.stdin, python.timeout_s) == ((), "", None)
    commit = parse_request(body(action="git", op="commit", message=" m \n"))
    assert isinstance(commit, GitCommit)
    assert commit.message == "m"
    write = parse_request(body(action="files", op="write", files=[{"path": "a", "content": "é"}]))
    assert isinstance(write, FilesWrite)
    assert write.files[0].data() == "é".encode()


@given(st.text(max_size=60))
def test_a_path_that_passes_stays_below_its_root(path: str) -> None:
    """Whatever the characters: what passes is relative, has no empty, `.` or `..` component, no control character."""
    try:
        check_path(path)
    except (ValueError, UnicodeEncodeError):
        return
    parts = path.split("/")
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(parts)
    assert not any(character < " " for character in path)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(raw: bytes) -> None:
    with pytest.raises(ContractError):
        parse_request(raw)


def test_what_a_server_proves_itself_with_is_not_kept() -> None:
    servers = {"a": {"command": "sh", "env": {"KEY": "secret"}}, "b": {"url": "u", "headers": {"X": ["secret"]}}}
    request = parse_request(body(prompt="go", mcp_config={"mcpServers": servers}))
    kept = dump_request(without_secrets(request))
    assert b"secret" not in kept
    assert json.loads(kept)["mcp_config"]["mcpServers"]["a"]["command"] == "sh"
    assert parse_request(kept) == without_secrets(request)
    other = parse_request(body(prompt="go"))
    assert without_secrets(other) is other
