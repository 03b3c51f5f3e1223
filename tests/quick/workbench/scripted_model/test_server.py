"""The server: the real service's own client talks to it, faults are faults on the wire, nothing survives it."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import anthropic
import httpx
import pytest
from anthropic import AsyncAnthropic
from pydantic import SecretStr

from workbench.scripted_model import Fault, Script, ScriptedModel, Tool, Turn
from workbench.scripted_model.__main__ import KEY_VARIABLE

BODY = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
DEADLINE_S = 20
SCRIPT = Script.of(Turn(thinking="hm", text="Hello you", tools=(Tool(name="Write", input={"a": 1}),)), Turn(text="Bye"))


def client(model: ScriptedModel, key: str | None = None, **more: object) -> AsyncAnthropic:
    shown = key or model.key.get_secret_value()
    return AsyncAnthropic(base_url=model.url, api_key=shown, max_retries=0, timeout=DEADLINE_S, **more)  # type: ignore[arg-type]  # keywords of tests


def http(model: ScriptedModel, timeout_s: float = DEADLINE_S) -> httpx.AsyncClient:
    headers = {"x-api-key": model.key.get_secret_value()}
    return httpx.AsyncClient(base_url=model.url, headers=headers, timeout=timeout_s, trust_env=False)


async def test_the_services_own_client_streams_a_conversation() -> None:
    async with ScriptedModel(SCRIPT) as model, client(model) as api:
        async with api.messages.stream(
            model="m", max_tokens=10, messages=[{"role": "user", "content": "hi"}]
        ) as stream:
            said = [text async for text in stream.text_stream]
            message = await stream.get_final_message()
        assert said == ["Hello ", "you"]
        assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
        assert message.stop_reason == "tool_use"
        following = await api.messages.create(
            model="m",
            max_tokens=10,
            messages=[
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "Hello you"},
                {"role": "user", "content": "ok"},
            ],
        )
        assert [block.type for block in following.content] == ["text"]
        counted = await api.messages.count_tokens(model="m", messages=[{"role": "user", "content": "hi"}])
        assert counted.input_tokens > 0
    assert [asked.path for asked in model.asked] == ["/v1/messages", "/v1/messages", "/v1/messages/count_tokens"]
    assert model.key.get_secret_value() not in repr(model.asked)


async def test_both_ways_to_show_a_key_are_checked() -> None:
    async with ScriptedModel(SCRIPT, key=SecretStr("k" * 20)) as model:
        async with client(model, "wrong") as api:
            with pytest.raises(anthropic.AuthenticationError):
                await api.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "hi"}])
        async with httpx.AsyncClient(base_url=model.url, trust_env=False) as plain:
            assert (await plain.post("/v1/messages", json=BODY)).status_code == 401
            right = {"authorization": "Bearer " + "k" * 20}
            assert (await plain.post("/v1/messages", json=BODY, headers=right)).status_code == 200
    assert [asked.accepted for asked in model.asked] == [False, False, True]


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 529])
async def test_a_status_comes_with_the_services_error(status: int) -> None:
    fault = Fault(status=status, retry_after_s=7, message="told so")
    async with ScriptedModel(Script.of(Turn(text="x", fault=fault))) as model, client(model) as api:
        with pytest.raises(anthropic.APIStatusError, match="told so") as caught:
            await api.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "hi"}])
    assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (status, "7")


async def test_first_faults_pass() -> None:
    async with (
        ScriptedModel(Script.of(Turn(text="x", first=(Fault(status=529, times=2),)))) as model,
        http(model) as web,
    ):
        assert [(await web.post("/v1/messages", json=BODY)).status_code for _ in range(4)] == [529, 529, 200, 200]


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("eof_mid_stream", "ends"),
        ("close_mid_stream", "breaks"),
        ("error_mid_stream", "ends"),
        ("invalid_sse", "ends"),
        ("hang_mid_stream", "hangs"),
        ("pings_forever", "pings"),
    ],
)
async def test_a_stream_fails_as_the_script_says(kind: str, end: str) -> None:
    turn = Turn(text="one two three four", pace_ms=30, fault=Fault(kind=kind, after_deltas=2))  # type: ignore[arg-type]  # parametrized
    got = bytearray()
    seen = ""
    async with ScriptedModel(Script.of(turn)) as model, http(model, 1) as web:
        try:
            async with asyncio.timeout(2), web.stream("POST", "/v1/messages", json={**BODY, "stream": True}) as answer:
                async for chunk in answer.aiter_raw():
                    got += chunk
            seen = "ends"
        except httpx.RemoteProtocolError:
            seen = "breaks"
        except httpx.ReadTimeout:
            seen = "hangs"
        except TimeoutError:
            seen = "pings"
        whole = await web.post("/v1/messages", json=BODY)
    assert seen == end
    assert got.count(b"text_delta") == 2
    assert b"message_stop" not in got
    assert (b"event: error" in got) == (kind == "error_mid_stream")
    assert whole.json()["content"][0]["text"] == "one two three four", "only streams break in the middle"


async def test_hanging_and_resetting_before_headers() -> None:
    script = Script.of(
        Turn(text="x", first=(Fault(kind="reset_before_headers"),), fault=Fault(kind="hang_before_headers"))
    )
    async with ScriptedModel(script) as model:
        async with http(model, 1) as web:
            with pytest.raises(httpx.ReadError):
                await web.post("/v1/messages", json=BODY)
            with pytest.raises(httpx.ReadTimeout):
                await web.post("/v1/messages", json=BODY)
        async with http(model) as web:
            hanging = asyncio.create_task(web.post("/v1/messages", json=BODY))
            while len(model.asked) < 3:  # noqa: ASYNC110  # the server tells nobody what it was asked
                await asyncio.sleep(0.01)
            started = time.monotonic()
            await model.aclose()
            assert (await hanging).status_code == 504
            assert time.monotonic() - started < 5, "closing ends what hangs"
    await model.aclose()


async def test_what_is_not_a_message_is_refused() -> None:
    async with ScriptedModel(SCRIPT) as model, http(model) as web:
        for content in (b"{", b"[]", b"[" * 100_000, b'{"messages": 1}'):
            assert (await web.post("/v1/messages", content=content)).status_code == 400
        assert (await web.get("/v1/models")).status_code == 404
        assert (await web.get("/v1/messages")).status_code == 405
        three = [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}] * 3
        over = await web.post("/v1/messages", json={**BODY, "messages": three})
    assert "has 2 turns, turn 4" in over.json()["error"]["message"]
    assert [asked.method for asked in model.asked][-3:] == ["GET", "GET", "POST"]


def test_it_serves_this_machine_alone() -> None:
    with pytest.raises(ValueError, match="loopback"):
        ScriptedModel(SCRIPT, host="0.0.0.0")


@pytest.mark.parametrize("how", ["signal", "eof"])
def test_it_runs_as_a_child_that_ends_with_its_owner(tmp_path: Path, how: str) -> None:
    script = tmp_path / "script.yaml"
    script.write_text("turns: [{text: hello, fault: hang_mid_stream}]")
    key = "k" * 20
    child = subprocess.Popen(
        [sys.executable, "-m", "workbench.scripted_model", str(script), *(["--until-eof"] if how == "eof" else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, KEY_VARIABLE: key},
    )
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        told = json.loads(child.stdout.readline())
        assert told.keys() == {"url"}, "a key that was given is not repeated"
        headers = {"x-api-key": key}
        with httpx.stream("POST", f"{told['url']}/v1/messages", json=BODY, headers=headers, timeout=20) as answer:
            assert answer.status_code == 200
        child.terminate() if how == "signal" else child.stdin.close()
        assert child.wait(timeout=20) == 0
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        child.stdin.close()


def test_a_wrong_script_ends_the_child_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("turns: [{txt: a}]")
    done = subprocess.run(
        [sys.executable, "-m", "workbench.scripted_model", str(tmp_path / "s.yaml")],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"txt" in done.stderr
    assert b"Traceback" not in done.stderr


async def test_without_a_control_key_nobody_lends_a_script() -> None:
    async with ScriptedModel(SCRIPT) as model, http(model) as web:
        for shown in ("Bearer ", "Bearer None", f"Bearer {model.key.get_secret_value()}"):
            answer = await web.get("/answers", headers={"authorization": shown.strip()})
            assert (answer.status_code, "not part of" in answer.text) == (404, True)
