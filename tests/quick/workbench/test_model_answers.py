"""Answers of the model are given from Python, to one's own prompts alone, and end with whoever gave them."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import wait_until
from workbench.deployment.model_answers import Answers, Model
from workbench.deployment.model_backing import ModelUnavailableError, Scripted, scripted_model
from workbench.deployment.targets import Target
from workbench.scripted_model import Script, ScriptError, Turn, parse_script


def ask(service: Scripted, prompt: str, **more: Any) -> httpx.Response:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": prompt}], **more}
    headers = {"x-api-key": service.key}
    return httpx.post(f"{service.url}/v1/messages", json=body, headers=headers, trust_env=False, timeout=20)


def words(answer: httpx.Response) -> str:
    return "".join(block.get("text", "") for block in answer.json()["content"])


def asked(answers: Answers) -> list[tuple[int, bool, bool, str | None]]:
    return [(one.turn, one.streams, one.told, one.fault) for one in answers.asked]


def test_one_line_gives_answers_and_says_what_was_asked(service: Scripted) -> None:
    model = Model(lambda: service)
    with (
        model.answers(text="mine", first=[{"status": 529, "retry_after_s": 3}]) as mine,
        model.answers("theirs", "and more") as theirs,
    ):
        failed = ask(service, mine.prompt("hello"))
        assert (failed.status_code, failed.headers["retry-after"]) == (529, "3")
        assert words(ask(service, theirs.prompt("hello"))) == "theirs"
        assert words(ask(service, mine.prompt("hello"))) == "mine"
        assert words(ask(service, "hello")).startswith("I write a page")  # nobody else is meant
        assert asked(mine) == [(0, False, False, "status"), (0, False, True, None)]
        assert (mine.struck(), mine.struck("status"), theirs.struck()) == (1, 1, 0)
        struck = mine.asked[0]
        assert struck.fault_at_s is not None
        assert struck.fault_at_s >= struck.at_s
    assert asked(theirs) == [(0, False, True, None)]
    gone = ask(service, mine.prompt("hello"))
    assert (gone.status_code, "in force no longer" in gone.text) == (400, True)


@pytest.mark.parametrize(
    ("turn", "seen"),
    [
        ({"text": "one two three", "fault": {"kind": "eof_mid_stream", "after_deltas": 2}}, "eof_mid_stream"),
        ({"text": "one two three", "fault": {"kind": "invalid_sse", "after_deltas": 0}}, "invalid_sse"),
        ({"text": "one two", "fault": {"kind": "error_mid_stream", "after_deltas": 2}}, None),  # it has two deltas
        ({}, None),
        ({"thinking": "hm"}, None),
    ],
    ids=["cut", "at once", "behind the end", "an empty answer", "reasoning only"],
)
def test_a_fault_counts_where_it_strikes_and_not_where_it_was_asked_for(
    service: Scripted, turn: dict[str, Any], seen: str | None
) -> None:
    with Model(lambda: service).answers(turn) as answers:
        ask(service, answers.prompt("hello"), stream=True)
        assert asked(answers) == [(0, True, seen is None, seen)]


@pytest.mark.parametrize(
    ("turns", "fields", "script", "where"),
    [
        ((), {}, None, "one of these alone"),
        (("a",), {"text": "b"}, None, "one of these alone"),
        (("a",), {}, Script.of(Turn(text="b")), "one of these alone"),
        ((), {"txt": "b"}, None, "txt"),
        ((), {"fault": 42}, None, "fault"),
        (("a", {"tools": [{"raw_input": "{"}]}), {}, None, "turns.1.tools.0.name"),
        (({"fault": "eof_in_stream"},), {}, None, "fault.kind"),
    ],
)
def test_what_is_no_script_is_refused_by_its_field(
    service: Scripted, turns: Any, fields: Any, script: Script | None, where: str
) -> None:
    model = Model(lambda: service)
    with pytest.raises(ScriptError, match=where), model.answers(*turns, script=script, **fields):
        pass


def test_yaml_says_the_same(service: Scripted) -> None:
    script = parse_script("turns: [{text: of yaml}]\nafterwards: {text: later}")
    with Model(lambda: service).answers(script=script) as answers:
        assert words(ask(service, answers.prompt("hello"))) == "of yaml"


GIVER = """
import os, sys, time
from workbench.deployment.model_answers import Model
from workbench.deployment import model_answers
from workbench.deployment.model_backing import Scripted
model_answers.LEASE_S = 1.0
with Model(lambda: Scripted(*sys.argv[1:])).answers("given") as answers:
    print(answers.marker, flush=True)
    time.sleep(600)
"""


def test_a_kernel_that_is_killed_leaves_no_answers(service: Scripted) -> None:
    command = [sys.executable, "-c", GIVER, service.url, service.key, service.control]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as giver:
        assert giver.stdout is not None
        marker = giver.stdout.readline().decode().strip()
        assert words(ask(service, marker)) == "given"
        os.kill(giver.pid, signal.SIGKILL)
        wait_until(lambda: ask(service, marker).status_code == 400, "the answers are gone", 20)


@pytest.mark.parametrize("shown", ["", "Bearer", "Bearer wrong", "Bearer {key}", "Basic {control}", "{control}"])
def test_only_the_control_key_opens_the_answers(service: Scripted, shown: str) -> None:
    """The key of the model is in every gateway; it must not be enough to say what the model answers."""
    with Model(lambda: service).answers("given") as answers:
        for method, path in (
            ("GET", "/answers"),
            ("POST", "/answers"),
            ("GET", f"/answers/{answers.marker}"),
            ("DELETE", f"/answers/{answers.marker}"),
            ("POST", f"/answers/{answers.marker}/renewal"),
        ):
            refused = httpx.request(
                method,
                service.url + path,
                json={"script": {"turns": [{}]}, "lease_s": 9},
                headers={
                    "authorization": shown.format(key=service.key, control=service.control),
                    "x-api-key": service.key,
                },
                trust_env=False,
            )
            assert (refused.status_code, answers.marker in refused.text) == (401, False), (method, path)
        assert words(ask(service, answers.prompt("hello"))) == "given"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b'{"script": {}}', b'{"script": {"turns": [{}]}, "lease_s": 1e9}'], ids=range(5)
)
def test_a_loan_that_is_none_is_refused(service: Scripted, body: bytes) -> None:
    headers = {"authorization": f"Bearer {service.control}"}
    refused = httpx.post(f"{service.url}/answers", content=body, headers=headers, trust_env=False)
    assert (refused.status_code, bool(refused.json()["error"])) == (400, True)


def test_a_model_that_is_gone_is_told(tmp_path: Path, process: "subprocess.Popen[bytes]") -> None:
    service = scripted_model(Target("local", tmp_path / "endpoints", cloud_pid=process.pid))
    process.kill()
    process.wait()

    def gone() -> bool:
        try:
            ask(service, "hello")
        except httpx.HTTPError:
            return True
        return False

    wait_until(gone, "the scripted model is gone", 20)
    with pytest.raises(ModelUnavailableError, match="does not answer"), Model(lambda: service).answers("given"):
        pass
