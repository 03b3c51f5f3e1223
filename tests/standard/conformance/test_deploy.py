"""The unmodified SDK and CLI deploy an ordinary app here, and it behaves as on Modal."""

import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import modal
import pytest

from tests.conftest import wait_until
from tests.support.commands import Cli
from tests.support.paths import APPS
from workbench.local_cloud.process.state_directory import State

APP = APPS / "echo.py"


@pytest.fixture(scope="module")
def url(modal_cli: Cli) -> Iterator[str]:
    modal_cli("secret", "create", "echo-secret", "WORD=hush", "--force")
    said = modal_cli("deploy", str(APP))
    found = re.search(r"http://127\.0\.0\.1:\d+", said)
    assert found, said
    yield found.group()
    modal_cli("app", "stop", "echo", "--yes")


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def test_a_container_gets_its_image_and_secrets_and_no_token(client: httpx.Client) -> None:
    assert client.get("/").json() == {"secret": "hush", "colour": "blue", "token": False}


def test_bodies_and_headers_arrive(client: httpx.Client) -> None:
    answer = client.post("/echo", content="é" * 100_000, headers={"x-word": "yes"}).json()
    assert answer == {"body": "é" * 100_000, "header": "yes"}


def test_a_response_larger_than_one_message_arrives_whole(client: httpx.Client) -> None:
    assert len(client.get("/large", params={"size": 50_000_000}).content) == 50_000_000


def test_a_stream_arrives_piece_by_piece(client: httpx.Client) -> None:
    with client.stream("GET", "/stream", params={"count": 5}) as response:
        pieces = list(response.iter_raw())
    assert b"".join(pieces) == b"".join(b"data: %d\n\n" % number for number in range(5))
    assert len(pieces) > 1


def test_a_container_that_dies_breaks_the_stream_and_the_next_request_gets_another(client: httpx.Client) -> None:
    with pytest.raises(httpx.RemoteProtocolError), client.stream("GET", "/die") as response:
        for _ in response.iter_raw():
            pass
    assert client.get("/").status_code == 200


def test_writes_are_visible_outside_after_commit_and_not_before(client: httpx.Client) -> None:
    volume = modal.Volume.from_name("echo-data")
    client.get("/write", params={"text": "one", "commit": True})
    assert b"".join(volume.read_file("note.txt")) == b"one"
    client.get("/write", params={"text": "two", "commit": False})
    assert b"".join(volume.read_file("note.txt")) == b"one"


def test_a_container_reloads_unless_it_has_a_file_open(client: httpx.Client) -> None:
    """On Modal the reload fails as busy; here the refusal also names who holds what."""
    volume = modal.Volume.from_name("echo-data")
    client.get("/write", params={"text": "old", "commit": True})
    with volume.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"new"), "/note.txt")
    refused = client.get("/reload", params={"hold": True}).json()["refused"]
    assert "open files preventing the operation" in refused
    assert "has open /data/note.txt" in refused
    assert client.get("/reload", params={"hold": False}).json() == {"text": "new"}


def test_a_container_s_reload_commits_its_own_writes_first(client: httpx.Client) -> None:
    volume = modal.Volume.from_name("echo-data")
    client.get("/write", params={"text": "kept", "commit": True})
    client.get("/write", params={"text": "written since", "commit": False})
    assert b"".join(volume.read_file("note.txt")) == b"kept"
    assert client.get("/reload", params={"hold": False}).json() == {"text": "written since"}
    assert b"".join(volume.read_file("note.txt")) == b"written since"


def test_the_stock_commands_list_apps_and_show_logs(modal_cli: Cli, client: httpx.Client) -> None:
    client.get("/")
    assert "echo" in modal_cli("app", "list")
    assert "a line in the log" in modal_cli("app", "logs", "echo")


def test_functions_are_called_and_their_errors_come_back(url: str) -> None:
    double = modal.Function.from_name("echo", "double")
    assert double.remote(21) == 42
    assert list(double.map([1, 2, 3])) == [2, 4, 6]
    with pytest.raises(ValueError, match="not today"):
        modal.Function.from_name("echo", "fail").remote()


def test_another_host_name_is_refused(client: httpx.Client) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_an_unknown_token_is_refused(modal_cli: Cli, cloud: object) -> None:
    bad = Cli({"MODAL_TOKEN_ID": "ak-wrong", "MODAL_TOKEN_SECRET": "as-wrong"})
    assert "does not know this token" in bad("app", "list", check=False)


KEPT_WARM = """
import modal

app = modal.App("kept-warm", image=modal.Image.debian_slim())


@app.function(min_containers=1)
def one() -> int:
    return 1
"""


def test_a_stopped_app_has_no_container_however_warm_it_was_kept(modal_cli: Cli, tmp_path: Path) -> None:
    source = tmp_path / "kept_warm.py"
    source.write_text(KEPT_WARM)
    modal_cli("deploy", str(source))
    function = modal.Function.from_name("kept-warm", "one")
    assert function.remote() == 1
    assert _containers(modal_cli) == 1
    modal_cli("app", "stop", "kept-warm", "--yes")
    with pytest.raises(modal.exception.Error, match="The app is stopped"):
        function.remote()  # this handle was made before
    assert _containers(modal_cli) == 0


CRASHING = """
import os, modal

app = modal.App("crashing", image=modal.Image.debian_slim())
if os.environ.get("MODAL_IS_REMOTE") == "1":
    raise RuntimeError("broken")


@app.function(min_containers=1)
def one() -> int:
    return 1
"""


def test_a_container_that_ends_as_it_starts_is_not_replaced_again_and_again(
    state: State, modal_cli: Cli, tmp_path: Path
) -> None:
    """A function that is kept warm and cannot be imported would take a processor for itself; mended, it works."""
    source = tmp_path / "crashing.py"
    source.write_text(CRASHING)
    modal_cli("deploy", str(source))
    function = modal.Function.from_name("crashing", "one")
    function.hydrate()

    def starts() -> int:
        lines = [json.loads(line) for line in state.log.read_text().splitlines() if "container.started" in line]
        return sum(line["function_id"] == function.object_id for line in lines)

    wait_until(lambda: starts() >= 2, "it is not replaced at all")
    time.sleep(5)
    assert starts() <= 4  # after pauses of 1, 2 and 4 s; without them there were two a second
    with pytest.raises(RuntimeError, match="broken"):
        function.remote()
    source.write_text(CRASHING.replace("raise RuntimeError", "print"))
    modal_cli("deploy", str(source))
    assert function.remote() == 1
    modal_cli("app", "stop", "crashing", "--yes")


def _containers(modal_cli: Cli) -> int:
    listed = json.loads(modal_cli("container", "list", "--json"))
    return sum(1 for one in listed if "kept-warm" in one.values())
