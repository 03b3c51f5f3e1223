"""A recording answers as the endpoint does: its bytes, its times, its credentials, and nothing else."""

import hashlib
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from modal_app.contract import sse
from modal_app.contract.events import ErrorEvent
from modal_app.contract.proof import EventFacts
from modal_app.contract.requests import dump_request
from tests.quick.workbench.test_recordings import ASKED, RECORDING, RUN_ID, STREAM
from tests.support.commands import WORKBENCH
from workbench import (
    AsyncClient,
    NotServedError,
    Project,
    Recording,
    RequestRefusedError,
    ServedRecording,
    make_request,
    serve,
)
from workbench.runs.client import EventStream

HOUR_MS = 3_600_000
BODY = dump_request(ASKED)


@pytest.fixture(autouse=True)
def _no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKBENCH_SECRET", raising=False)


@pytest.fixture
def served() -> Iterator[ServedRecording]:
    """The recording of `test_recordings`, served fast."""
    with serve(RECORDING, speed=100) as one:
        yield one


@pytest.fixture
def http(served: ServedRecording) -> Iterator[httpx.Client]:
    """A client of no particular kind, with the secret."""
    headers = {"X-Modal-Secret": served.endpoint.secret.get_secret_value(), "Accept": "text/event-stream"}
    with httpx.Client(base_url=served.endpoint.url, headers=headers, trust_env=False) as client:
        yield client


def frames(answer: httpx.Response) -> bytes:
    """What was streamed, without heartbeats."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-run-id"] == RUN_ID
    return answer.content.replace(b": heartbeat\n\n", b"")


def test_the_recorded_bytes_come_from_the_event_on_that_is_asked_for(http: httpx.Client) -> None:
    assert frames(http.post("/generate", content=BODY)) == STREAM
    for after in range(1, 4):
        rest = frames(http.get(f"/generate/{RUN_ID}", headers={"Last-Event-ID": str(after)}))
        assert rest == STREAM[STREAM.index(b"id: %d\n" % (after + 1)) :]
    assert http.get(f"/generate/{RUN_ID}", headers={"Last-Event-ID": "4"}).status_code == 204
    for beyond in ("5", "999999", "x"):
        refused = http.get(f"/generate/{RUN_ID}", headers={"Last-Event-ID": beyond})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("secret", ["", "wrong", "0" * 43])
def test_a_wrong_secret_gets_nothing(http: httpx.Client, secret: str) -> None:
    for method, path in (("POST", "/generate"), ("GET", f"/generate/{RUN_ID}"), ("DELETE", f"/generate/{RUN_ID}")):
        answer = http.request(method, path, headers={"X-Modal-Secret": secret})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert RUN_ID not in answer.text


def test_requests_are_held_to_the_contract(http: httpx.Client) -> None:
    for body in (b"", b"[]", b'{"action":"python"}'):
        assert http.post("/generate", content=body).status_code == 400
    assert http.get(f"/generate/{RUN_ID}").status_code == 404, "nothing has begun it"
    assert http.post("/generate", content=BODY, headers={"Last-Event-ID": "1"}).status_code == 400
    keyed = {"Idempotency-Key": "one"}
    assert frames(http.post("/generate", content=BODY, headers=keyed)) == STREAM
    assert frames(http.post("/generate", content=BODY, headers=keyed)) == STREAM
    joined = http.post("/generate", content=BODY, headers=keyed | {"Last-Event-ID": "4"})
    assert joined.status_code == 204
    other = dump_request(ASKED.model_copy(update={"prompt": "another"}))
    assert http.post("/generate", content=other, headers=keyed).json()["code"] == "idempotency_conflict"
    assert http.get(f"/generate/{RUN_ID}?user_id={Project.new().user_id}").status_code == 404
    assert http.put("/generate", content=BODY).status_code == 405


def test_it_is_begun_anew_by_each_request(http: httpx.Client) -> None:
    for _ in range(3):
        assert frames(http.post("/generate", content=BODY)) == STREAM
    ended = http.delete(f"/generate/{RUN_ID}").json()
    assert (ended["cancelled"], ended["outcome"]) == (False, "done")


def lasting() -> Recording:
    """The recording with an hour between its last two events."""
    end = RECORDING.events[-1].model_copy(update={"elapsed_ms": HOUR_MS})
    stream = b"".join(map(sse.frame, [*RECORDING.events[:-1], end]))
    facts = EventFacts(last_seq=4, bytes=len(stream), sha256=hashlib.sha256(stream).hexdigest())
    return Recording(RECORDING.bundle.model_copy(update={"events": facts}), stream, ASKED)


def test_a_client_that_breaks_off_has_not_read_it() -> None:
    """Also when all of it was there already: it comes back for the rest."""
    with serve(RECORDING, speed=100) as one:
        headers = {"X-Modal-Secret": one.endpoint.secret.get_secret_value()}
        with httpx.Client(base_url=one.endpoint.url, headers=headers, trust_env=False) as client:
            key = {"Idempotency-Key": "the-same"}
            assert frames(client.post("/generate", content=BODY, headers=key))
            assert one.wait_read(10)
            one._read.clear()
            refused = client.post("/generate", content=BODY, headers=key | {"Last-Event-ID": "nonsense"})
            assert refused.status_code == 400
            assert not one.wait_read(0)
            assert frames(client.post("/generate", content=BODY, headers=key))
            assert one.wait_read(10)


async def test_what_was_recorded_later_comes_later_and_cancel_ends_it() -> None:
    with serve(lasting(), speed=100) as served:
        async with AsyncClient(served.endpoint) as client, client.stream(ASKED) as events:
            seen = []
            async for received in events:
                seen.append(received.event)
                if received.event.seq == 3:
                    await refused_as_busy(client)
                    await client.cancel(RUN_ID)
            assert tuple(seen[:3]) == RECORDING.events[:3]
            assert isinstance(seen[3], ErrorEvent)
            assert seen[3].outcome == "cancelled"
            async with client.stream(ASKED) as again:
                async for received in again:
                    if received.event.seq == 3:
                        break
    # the block ends although the run is under way


async def refused_as_busy(client: AsyncClient) -> None:
    """Another request is told that the run is under way."""
    with pytest.raises(RequestRefusedError) as caught:
        async with client.stream(make_request(Project.new(), "python", code="1")) as events:
            assert isinstance(events, EventStream)
    assert (caught.value.status, caught.value.code, caught.value.recoverable) == (409, "project_busy", True)


def test_the_secret_is_the_callers_the_environments_or_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(RECORDING) as one, serve(RECORDING) as other:
        assert one.secret_is_new
        assert one.endpoint.secret != other.endpoint.secret
        assert one.endpoint.secret.get_secret_value() not in repr(one)
        assert one.endpoint.url.startswith("http://127.0.0.1:")
    monkeypatch.setenv("WORKBENCH_SECRET", "from-the-environment")
    with serve(RECORDING) as served:
        assert (served.secret_is_new, served.endpoint.secret.get_secret_value()) == (False, "from-the-environment")
    with serve(RECORDING, secret=SecretStr("given-by-the-caller")) as served:
        assert served.endpoint.secret.get_secret_value() == "given-by-the-caller"


@pytest.mark.parametrize("secret", ["short", "with white space at its end ", "naïve-but-long-enough"])
def test_a_secret_that_the_endpoint_would_not_take_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(NotServedError, match="WORKBENCH_SECRET") as caught, serve(RECORDING, secret=SecretStr(secret)):
        pass
    assert secret not in str(caught.value)


@pytest.mark.parametrize("speed", [0, -1, 0.01, 101, float("nan"), float("inf")])
def test_a_speed_out_of_bounds_is_refused(speed: float) -> None:
    with pytest.raises(NotServedError, match="speed"), serve(RECORDING, speed=speed):
        pass


def test_a_port_that_is_taken_is_told_and_one_that_was_used_is_free_again() -> None:
    with serve(RECORDING) as served:
        port = int(served.endpoint.url.rpartition(":")[2])
        with pytest.raises(NotServedError, match="--port"), serve(RECORDING, port=port):
            pass
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_the_command_serves_until_it_is_read_or_interrupted(tmp_path: Path) -> None:
    RECORDING.save(tmp_path / "run.zip")
    for once in (True, False):
        command = [*WORKBENCH, "runs", "serve", str(tmp_path / "run.zip"), "--speed", "100", "--json"]
        with subprocess.Popen([*command, *["--once"][:once]], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            assert (told["run_id"], told["events"]) == (RUN_ID, 4)
            headers = {"X-Modal-Secret": told["secret"], "Accept": "text/event-stream"}
            answer = httpx.post(f"{told['url']}/generate", content=BODY, headers=headers, trust_env=False)
            assert frames(answer) == STREAM
            if not once:
                process.send_signal(signal.SIGINT)
            assert process.wait(30) == (0 if once else 130)
            assert process.stdout.read() == "", "the secret is printed once, and nothing else"
        with pytest.raises(httpx.ConnectError):
            httpx.get(told["url"], trust_env=False)
