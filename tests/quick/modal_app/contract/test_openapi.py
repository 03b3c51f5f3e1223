"""The contract for other languages: what the documents say is what the endpoint does."""

import json
import re
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from modal_app.contract.claude_messages import CLAUDE_MESSAGE
from modal_app.contract.errors import ERRORS, ErrorCode
from modal_app.contract.openapi import errors, json_schema, openapi
from tests.quick.modal_app.contract.test_requests import BAD, BAD_IDS, GOOD, ID, OWNER
from tests.support.commands import cli
from tests.support.paths import RECORDED

# What JSON Schema has no words for: NUL, bytes, fields that depend on each other, what the CLI's options may be.
BEYOND = {
    *("arguments_too_long", "code_too_long", "prompt_too_long", "schema_too_long"),
    *("argument_with_nul", "code_with_nul", "message_with_nul", "prompt_with_nul", "prompt_empty", "message_empty"),
    *("same_path_twice", "file_and_directory", "not_base64", "move_into_itself"),
    *("fork_of_nothing", "model_option", "tool_option", "mcp_of_another_shape"),
}


@cache
def checked(name: str) -> Draft202012Validator:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator({**schema, "anyOf": [{"$ref": f"#/$defs/{name}"}]})


@pytest.fixture(scope="module")
def body() -> Draft202012Validator:
    return checked("GenerateRequest")


@pytest.mark.parametrize("fields", GOOD, ids=lambda fields: "-".join(str(v) for v in list(fields.values())[:2]))
def test_what_the_endpoint_takes_follows_the_schema(fields: dict[str, Any], body: Draft202012Validator) -> None:
    body.validate({**OWNER, **fields})


@pytest.mark.parametrize("name", sorted(BAD.keys() - BEYOND))
def test_the_schema_refuses_what_it_has_words_for(name: str, body: Draft202012Validator) -> None:
    assert not body.is_valid({**OWNER, **BAD[name]})


@pytest.mark.parametrize("name", sorted(BEYOND))
def test_nothing_is_said_to_be_beyond_it_that_is_not(name: str, body: Draft202012Validator) -> None:
    assert body.is_valid({**OWNER, **BAD[name]})


# `$` of Python's patterns, which this validator uses, lets a newline follow; the specification's does not.
@pytest.mark.parametrize("name", sorted(BAD_IDS.keys() - {"newline"}))
def test_the_schema_knows_ids(name: str, body: Draft202012Validator) -> None:
    assert not body.is_valid({"user_id": ID, "project_id": BAD_IDS[name], "action": "git", "op": "log"})


def test_the_table_of_codes_is_the_one_of_python() -> None:
    told = openapi()["components"]["schemas"]["ErrorTable"]
    rows = {
        code: {name: facts["const"] for name, facts in row["properties"].items()}
        for code, row in told["properties"].items()
    }
    assert rows == errors() == {str(code): vars(info) for code, info in ERRORS.items()}
    assert set(told["required"]) == {str(code) for code in ErrorCode}
    checked("ErrorTable").validate(errors())


@pytest.mark.parametrize(
    "refusal",
    [
        {"error": "m", "code": "project_busy"},
        {"error": "m", "code": "busy", "recoverable": True},
        {"error": "m", "code": "project_busy", "recoverable": "yes"},
        {"error": "m", "code": "project_busy", "recoverable": True, "run_id": None},
    ],
)
def test_a_refusal_says_all_of_itself(refusal: dict[str, Any]) -> None:
    checked("Refusal").validate({"error": "m", "code": "project_busy", "recoverable": True, "run_id": ID})
    assert not checked("Refusal").is_valid(refusal)


@pytest.mark.parametrize("field", ["commit", "sandbox", "usage", "timings", "exit_code"])
def test_what_is_not_known_of_a_run_is_left_out_and_never_null(field: str) -> None:
    stamp = {"run_id": ID, "seq": 2, "at_ms": 1, "elapsed_ms": 1}
    end = {**stamp, "type": "error", "code": "cancelled", "message": "m", "recoverable": True}
    checked("RunErrorEvent").validate(end)
    checked("FailedRun").validate({**end, "error": "m"})
    assert not checked("FailedRun").is_valid(end)
    assert not checked("RunErrorEvent").is_valid({**end, field: None})


def test_who_tries_again_is_told_of_the_key() -> None:
    document = openapi()
    assert "new key" in json.dumps(document["paths"]["/generate"]["post"]["parameters"])
    for name in ("Refusal", "RunErrorEvent"):
        told = document["components"]["schemas"][name]["properties"]["recoverable"]["description"]
        assert "repeated with a new one" in told


def test_references_lead_somewhere() -> None:
    document = openapi()
    found = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert found <= document["components"]["schemas"].keys()
    assert "RunEvent" in found


def test_the_command_prints_the_documents() -> None:
    assert json.loads(cli("contract", "openapi").stdout) == openapi()
    assert json.loads(cli("contract", "json-schema").stdout) == json_schema()
    assert json.loads(cli("contract", "errors").stdout) == errors()
    assert "export type GenerateRequest" in cli("contract", "typescript").stdout
    assert cli("contract", "corba").returncode == 2


def test_what_an_event_always_has_is_required() -> None:
    """Readers in TypeScript need no `?? ""` for what always comes, and none is told to be null."""
    stamp = {"run_id": ID, "seq": 2, "at_ms": 1, "elapsed_ms": 1}
    text = {**stamp, "type": "stream", "channel": "stdout", "text": "a"}
    checked("RunEvent").validate(text)
    for event, field in ((text, "text"), (text, "channel"), (text, "seq")):
        assert not checked("RunEvent").is_valid({name: value for name, value in event.items() if name != field})
    commit = {"committed": True, "elapsed_ms": 1, "changed": 0, "compared": 0}
    for field in commit:
        assert not checked("Commit").is_valid({name: value for name, value in commit.items() if name != field})
    assert checked("Usage").schema["$defs"]["Usage"]["required"] == [
        *("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost_usd", "turns")
    ]


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDED.glob("*.jsonl")))
def test_lines_of_the_cli_are_as_they_are_described(name: str) -> None:
    """Every line that the real CLI wrote in the recordings, as the endpoint passes it on."""
    described = checked("ClaudeMessage")
    for line in (RECORDED / f"{name}.jsonl").read_bytes().splitlines():
        value = json.loads(line) if line.startswith(b"{") and line.endswith(b"}") else {}
        if value.get("type") in {"assistant", "user", "stream_event", "result", "system"}:
            kept = {key: item for key, item in value.items() if item is not None or key == "parent_tool_use_id"}
            assert list(described.iter_errors(kept)) == []
            CLAUDE_MESSAGE.validate_python(value)
