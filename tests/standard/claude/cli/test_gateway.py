"""The gateway in front of the scripted model: the real CLI passes, hostile clients do not, the key is nowhere."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog.testing
from pydantic import SecretStr

from modal_app.actions.claude_stream import ClaudeStream
from modal_app.actions.claude_verdict import Verdict
from modal_app.contract.claude_options import ClaudeOptions
from modal_app.model_gateway.gateway import create_gateway
from modal_app.model_gateway.gateway_settings import GatewaySettings, Limits
from modal_app.model_gateway.recording import Exchange, Replay
from modal_app.model_gateway.run_tokens import RunClaims, mint
from tests.standard.claude.cli.conftest import Calls
from tests.support.claude import cli
from tests.support.servers import served
from workbench.scripted_model import Fault, Script, ScriptedModel, Tool, Turn

KEY = SecretStr("sk-the-real-key-of-the-service")
TOKENS = SecretStr("the-secret-that-signs-tokens")
BODY = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
DOCUMENT = (
    b"%PDF-1.1\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj "
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\ntrailer<</Root 1 0 R>>"
)
HELLO = Script.of(Turn(text="one two three four", pace_ms=5))


def settings(model: ScriptedModel, **more: Any) -> GatewaySettings:
    values = {"upstream_url": model.url, "upstream_key": KEY, "token_secret": TOKENS, **more}
    return GatewaySettings(**values)


def token(run_id: str = "run-1", lasts_s: float = 600, **more: Any) -> SecretStr:
    return mint(TOKENS, RunClaims(run_id, int(time.time() + lasts_s), **more))


def client(url: str, shown: SecretStr) -> httpx.AsyncClient:
    headers = {"x-api-key": shown.get_secret_value()}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=20, trust_env=False)


def verdict(ended: cli.Ended) -> Verdict:
    stream = ClaudeStream(clock=lambda: 0.0)
    stream.feed(ended.stdout)
    stream.finish()
    return stream.verdict(ended.returncode)


class Kept:
    """A recording in memory."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []

    async def __call__(self, run_id: str, exchange: Exchange) -> None:
        """Keep one."""
        self.exchanges.append(exchange)


def page(workspace: Path) -> Script:
    write = Tool(name="Write", input={"file_path": str(workspace / "index.html"), "content": "<h1>hi</h1>\n"})
    return Script.of(Turn(text="I write.", tools=(write,)), Turn(text="Done."))


async def test_a_job_recorded_through_the_gateway_runs_again_without_the_model(call: Calls, workspace: Path) -> None:
    """The same files, no service, no key; and a job that asks something else is told where it departs."""
    kept, target = Kept(), workspace / "index.html"
    options = ClaudeOptions("a page please")
    with structlog.testing.capture_logs() as logs:
        async with (
            ScriptedModel(page(workspace), key=KEY) as model,
            served(create_gateway(settings(model), record=kept)) as url,
        ):
            nowhere = settings(model)
            first = await cli.run(call(url, token(), options), workspace)
        assert verdict(first).error is None, first.stdout.decode()
        assert [asked.accepted for asked in model.asked] == [True, True]
        target.unlink()
        replays = {"run-2": Replay(kept.exchanges), "run-3": Replay(kept.exchanges)}
        again_kept = Kept()

        async def replay_of(run_id: str, replay_id: str) -> Replay:
            assert replay_id == "the-recording"
            return replays[run_id]

        gateway = create_gateway(nowhere, replay_of=replay_of, record=again_kept)
        async with served(gateway) as url:
            told = token("run-2", replay="the-recording")
            again = await cli.run(call(url, told, options), workspace)
            assert [(one.answer, one.whole) for one in again_kept.exchanges] == [
                (one.answer, one.whole) for one in kept.exchanges
            ]
            told = token("run-3", replay="the-recording")
            other = await cli.run(call(url, told, ClaudeOptions("something else")), workspace)
    assert verdict(again).error is None, again.stdout.decode()
    assert target.read_text() == "<h1>hi</h1>\n"
    assert (replays["run-2"].left, replays["run-3"].left) == (0, 2)
    error = verdict(other).error
    assert error is not None
    assert "departs from exchange 1 of the recording at messages[0]" in error.message
    told = repr(logs) + repr(kept.exchanges) + (first.stdout + again.stdout + other.stdout).decode()
    for secret in (KEY, TOKENS, token()):
        assert secret.get_secret_value() not in told
    assert "a page please" not in repr(logs)


async def test_no_token_but_the_runs_own_opens_anything() -> None:
    async with ScriptedModel(HELLO, key=KEY) as model:
        alive = {"run-1"}

        async def is_live(run_id: str) -> bool:
            return run_id in alive

        async with served(create_gateway(settings(model), is_live=is_live)) as url:
            good = token().get_secret_value()
            payload, signature = good.split(".")[1], token("run-2").get_secret_value().split(".")[2]
            wrong = [
                "",
                KEY.get_secret_value(),
                token(lasts_s=-1).get_secret_value(),
                token("run-2").get_secret_value(),
                mint(SecretStr("a-secret-of-somebody"), RunClaims("run-1", 2**40)).get_secret_value(),
                f"wb1.{payload}.{signature}",
                good[:-1] + ("A" if good[-1] != "A" else "B"),
            ]
            answers = set()
            for shown in wrong:
                for path in ("/v1/messages", "/v1/nothing"):
                    async with client(url, SecretStr(shown)) as web:
                        answer = await web.post(path, json=BODY)
                        answers.add((answer.status_code, answer.text))
            assert len(answers) == 1, "the answer does not tell what was wrong, nor which paths there are"
            assert {status for status, _ in answers} == {401}
            assert model.asked == []
            async with client(url, SecretStr(good)) as web:
                assert (await web.post("/v1/messages", json=BODY)).status_code == 200
                assert (await web.get("/v1/messages")).status_code == 404
                assert (await web.post("/v1/files", json=BODY)).status_code == 404
                alive.clear()
                assert (await web.post("/v1/messages", json=BODY)).status_code == 401, "a token dies with its run"


async def test_words_stream_through_as_they_come() -> None:
    slow = Script.of(Turn(text="one two three four", pace_ms=150))
    async with ScriptedModel(slow, key=KEY) as model, served(create_gateway(settings(model))) as url:
        arrived = []
        async with (
            client(url, token()) as web,
            web.stream("POST", "/v1/messages?beta=true", json={**BODY, "stream": True}) as answer,
        ):
            async for chunk in answer.aiter_raw():
                arrived += [time.monotonic()] * chunk.count(b"text_delta")
    assert len(arrived) == 4
    assert arrived[-1] - arrived[0] > 0.3


@pytest.mark.parametrize(
    ("limits", "statuses", "reason"),
    [
        ({"requests": 2}, [200, 200, 403], "requests"),
        ({"tokens": 1}, [200, 403, 403], "tokens"),
        ({"requests_per_minute": 1}, [200, 429, 429], "rate"),
        ({"request_bytes": 50}, [413, 413, 413], "request_bytes"),
        ({"total_bytes": 1}, [200, 403, 403], "bytes"),
    ],
)
async def test_a_run_stops_at_its_limits(limits: dict[str, int], statuses: list[int], reason: str) -> None:
    with structlog.testing.capture_logs() as logs:
        async with (
            ScriptedModel(HELLO, key=KEY) as model,
            served(create_gateway(settings(model, limits=Limits(**limits)))) as url,
            client(url, token()) as web,
            client(url, token("run-2")) as other,
        ):
            answers = [await web.post("/v1/messages", json=BODY) for _ in statuses]
            assert (await other.post("/v1/messages", json=BODY)).status_code == statuses[0]
    assert [answer.status_code for answer in answers] == statuses
    assert reason in [entry.get("reason") for entry in logs]
    assert (answers[-1].headers.get("retry-after") is not None) == (statuses[-1] == 429)


async def test_a_token_may_set_its_run_lower_limits() -> None:
    async with (
        ScriptedModel(HELLO, key=KEY) as model,
        served(create_gateway(settings(model))) as url,
        client(url, token(max_requests=1)) as web,
    ):
        assert [(await web.post("/v1/messages", json=BODY)).status_code for _ in range(2)] == [200, 403]


@pytest.mark.parametrize(("status", "seen"), [(401, 403), (403, 403), (429, 429), (500, 500), (529, 529), (402, 502)])
async def test_an_error_of_the_service_comes_without_the_key(status: int, seen: int) -> None:
    said = f"the key {KEY.get_secret_value()} is bad"
    script = Script.of(Turn(fault=Fault(status=status, message=said, retry_after_s=3)))
    with structlog.testing.capture_logs() as logs:
        async with (
            ScriptedModel(script, key=KEY) as model,
            served(create_gateway(settings(model))) as url,
            client(url, token()) as web,
        ):
            answer = await web.post("/v1/messages", json=BODY)
    assert answer.status_code == seen
    assert KEY.get_secret_value() not in answer.text + repr(answer.headers) + repr(logs)
    assert answer.json()["type"] == "error"


async def test_a_key_that_the_service_repeats_does_not_pass() -> None:
    key = KEY.get_secret_value()
    kept = Kept()
    script = Script.of(Turn(text=("the key is ", f" {key}!")))
    async with (
        ScriptedModel(script, key=KEY) as model,
        served(create_gateway(settings(model), record=kept)) as url,
        client(url, token()) as web,
    ):
        whole = await web.post("/v1/messages", json=BODY)
        streamed = await web.post("/v1/messages", json={**BODY, "stream": True})
    assert key not in whole.text + streamed.text + repr(kept.exchanges)
    assert "[redacted]" in whole.text
    assert "[redacted]" in streamed.text


@pytest.mark.parametrize(
    ("kind", "outcome", "told"),
    [
        ("pings_forever", "idle", b"timeout_error"),
        ("hang_mid_stream", "idle", b"timeout_error"),
        ("close_mid_stream", "upstream_broke", b""),
        ("eof_mid_stream", "upstream_cut", b""),
    ],
)
async def test_a_stream_that_dies_ends_and_is_counted(kind: Any, outcome: str, told: bytes) -> None:
    script = Script.of(Turn(text="one two three", pace_ms=20, fault=Fault(kind=kind, after_deltas=2)))
    with structlog.testing.capture_logs() as logs:
        async with (
            ScriptedModel(script, key=KEY) as model,
            served(create_gateway(settings(model, idle_s=0.6))) as url,
            client(url, token()) as web,
        ):
            answer = await web.post("/v1/messages", json={**BODY, "stream": True})
    assert answer.content.count(b"text_delta") == 2
    assert (b"event: error" in answer.content) == bool(told)
    assert told in answer.content
    (entry,) = [entry for entry in logs if entry["event"] == "model.exchange"]
    assert entry["outcome"] == outcome
    assert entry["tokens"] > 0


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # a log has no event to wait for
            await asyncio.sleep(0.02)


async def test_a_reader_that_leaves_takes_its_question_to_the_service_along() -> None:
    script = Script.of(Turn(text="one two three", fault=Fault(kind="pings_forever", after_deltas=1)))
    with structlog.testing.capture_logs() as logs:
        async with (
            ScriptedModel(script, key=KEY) as model,
            served(create_gateway(settings(model))) as url,
            client(url, token()) as web,
        ):
            async with web.stream("POST", "/v1/messages", json={**BODY, "stream": True}) as answer:
                assert await anext(answer.aiter_raw())
            await _until(lambda: any(entry["event"] == "model.exchange" for entry in logs))
    assert [entry["outcome"] for entry in logs if entry["event"] == "model.exchange"] == ["reader_left"]


async def test_a_service_that_is_not_there_or_silent_is_told_as_such() -> None:
    hang = Script.of(Turn(fault=Fault(kind="hang_before_headers")))
    async with (
        ScriptedModel(hang, key=KEY) as model,
        served(create_gateway(settings(model, headers_s=0.5))) as url,
        client(url, token()) as web,
    ):
        gone = settings(model)
        assert (await web.post("/v1/messages", json=BODY)).status_code == 504
    async with served(create_gateway(gone)) as url, client(url, token()) as web:
        assert (await web.post("/v1/messages", json=BODY)).status_code == 502


async def test_what_reaches_past_the_sandbox_never_reaches_the_service() -> None:
    async with (
        ScriptedModel(HELLO, key=KEY) as model,
        served(create_gateway(settings(model))) as url,
        client(url, token()) as web,
    ):
        fetch = {**BODY, "tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]}
        assert (await web.post("/v1/messages", json=fetch)).status_code == 403
        assert (await web.post("/v1/messages", content=b"[" * 100_000)).status_code == 400
        sent = {"x-forwarded-for": "1.2.3.4", "cookie": "a=b", "anthropic-version": "2023-06-01"}
        assert (await web.post("/v1/messages", json=BODY, headers=sent)).status_code == 200
    (asked,) = model.asked
    assert asked.accepted
    assert asked.headers["anthropic-version"] == "2023-06-01"
    assert not {"cookie", "x-forwarded-for"} & set(asked.headers)
    assert token().get_secret_value() not in json.dumps(dict(asked.headers))


async def test_pictures_documents_and_found_tools_of_the_cli_pass(call: Calls, workspace: Path) -> None:
    """What is refused is refused by a list of what is known: the CLI's own must all be on it."""
    (workspace / "a.png").write_bytes(PICTURE)
    (workspace / "a.pdf").write_bytes(DOCUMENT)
    read = [Tool(name="Read", input={"file_path": str(workspace / name)}) for name in ("a.png", "a.pdf")]
    search = Tool(name="ToolSearch", input={"query": "select:WebFetch"})
    turns = [Turn(text="I look.", tools=(tool,)) for tool in (*read, search)]
    refused = [Turn(text="No.", stop="refusal"), Turn(text="Yes.")]
    options = ClaudeOptions("go", allowed_tools=("Read", "ToolSearch"))
    with structlog.testing.capture_logs() as logs:
        async with (
            ScriptedModel(Script.of(*turns, *refused), key=KEY) as model,
            served(create_gateway(settings(model))) as url,
        ):
            ended = await cli.run(call(url, token(), options), workspace)
    assert verdict(ended).error is None, ended.stdout.decode()
    assert [log for log in logs if log["event"] == "model.refused"] == []
    sent = json.dumps([asked.body for asked in model.asked])
    assert '"type": "image"' in sent
    assert '"type": "document"' in sent


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("user-agent", "é".encode(), 400),
        ("x-app", "日本".encode(), 400),
        ("anthropic-version", b"2023\xff", 400),
        ("x-claude-code-session-id", b"\xa0", 400),
        ("anthropic-beta", "é".encode(), 400),
        ("anthropic-beta", b"nobody-knows-it", 403),
        ("anthropic-beta", b"effort-2025-11-24, mcp-client-2025-11-20", 403),
        ("accept", "é".encode(), 200),
        ("cookie", b"\xff", 200),
    ],
)
async def test_a_header_is_passed_on_as_text_or_refused(header: str, value: bytes, status: int) -> None:
    """Never an error of the gateway's own, which would look like one of the service's; others are dropped unread."""
    async with (
        ScriptedModel(HELLO, key=KEY) as model,
        served(create_gateway(settings(model))) as url,
        client(url, token()) as web,
    ):
        answer = await web.post("/v1/messages", json=BODY, headers=[(header.encode(), value)])
    assert answer.status_code == status, answer.text
    assert len(model.asked) == (status == 200)
    if status != 200:
        assert answer.json()["error"]["message"].startswith(f"{header}: ")


async def test_a_token_that_is_no_text_opens_nothing() -> None:
    async with (
        ScriptedModel(HELLO, key=KEY) as model,
        served(create_gateway(settings(model))) as url,
        httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as web,
    ):
        for sent in ((b"x-api-key", b"wb1.\xe9.\xe9"), (b"authorization", b"Bearer wb1.\xe9.\xe9")):
            assert (await web.post("/v1/messages", json=BODY, headers=[sent])).status_code == 401
    assert model.asked == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"upstream_url": "http://elsewhere.example"},
        {"upstream_url": "https://user:password@elsewhere.example"},
        {"upstream_url": "ftp://elsewhere.example"},
        {"upstream_key": SecretStr("short")},
        {"token_secret": SecretStr("with spaces and more")},
    ],
    ids=str,
)
def test_settings_that_would_give_the_key_away_are_refused(wrong: dict[str, Any]) -> None:
    values = {"upstream_url": "https://a.example", "upstream_key": KEY, "token_secret": TOKENS, **wrong}
    with pytest.raises(ValueError, match="must") as caught:
        GatewaySettings(**values)
    assert "short" not in str(caught.value)


def test_an_empty_secret_from_before_a_rotation_is_none() -> None:
    values = {"upstream_url": "https://a.example", "upstream_key": KEY, "token_secret": TOKENS}
    assert GatewaySettings(**values, token_secret_previous=SecretStr("")).token_secrets == (TOKENS,)
