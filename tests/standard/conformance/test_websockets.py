"""WebSockets of web functions: a stock client speaks to a stock server, through the call that carries both ways."""

import json
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import modal
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.conftest import wait_until
from tests.support.commands import Cli
from tests.support.paths import APPS

pytestmark = pytest.mark.timeout(180)
S = 60


@pytest.fixture(scope="module")
def deployed(modal_cli: Cli) -> Iterator[None]:
    modal_cli("deploy", str(APPS / "guarded.py"))
    yield
    modal_cli("app", "stop", "guarded", "--yes")


def address(path: str, name: str = "unguarded") -> str:
    return str(modal.Function.from_name("guarded", name).get_web_url()).replace("http://", "ws://") + path


def opened(path: str, name: str = "unguarded", **options: object) -> ClientConnection:
    return connect(address(path, name), open_timeout=S, **options)  # type: ignore[arg-type]  # as the library has them


def rest(socket: ClientConnection) -> tuple[list[str | bytes], ConnectionClosed]:
    """What still comes, and how it ends."""
    found: list[str | bytes] = []
    try:
        while True:
            found.append(socket.recv(S))
    except ConnectionClosed as closed:
        return found, closed


def test_texts_and_bytes_go_both_ways(deployed: None) -> None:
    with opened("/echo") as socket:
        for text in ("hello", "ü" * 1000, ""):
            socket.send(text)
            assert socket.recv(S) == text.upper()
        for data in (b"\0\1\2", b"x" * 1_000_000):
            socket.send(data)
            assert socket.recv(S) == data[::-1]


def test_a_server_s_messages_come_in_order_and_its_close_is_told(deployed: None) -> None:
    with opened("/count") as socket:
        found, closed = rest(socket)
    assert [json.loads(text)["number"] for text in found] == list(range(500))
    assert closed.rcvd is not None
    assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "counted")


def test_path_query_headers_and_subprotocol_arrive_and_leaving_is_told(deployed: None) -> None:
    with opened("/echo?a=1", subprotocols=["v2", "v1"], additional_headers={"x-word": "seen"}) as socket:
        assert socket.subprotocol == "v2"
        socket.send("hi")
        socket.recv(S)
    site = address("").replace("ws://", "http://")
    wait_until(lambda: httpx.get(f"{site}/seen").json()[-2:] == ["/echo?a=1 seen", "left"], "nobody was told")


def test_several_at_once_do_not_mix(deployed: None) -> None:
    with ExitStack() as stack:
        sockets = [stack.enter_context(opened("/echo")) for _ in range(5)]
        for number, socket in enumerate(sockets):
            socket.send(f"one of {number}")
        for number, socket in reversed(list(enumerate(sockets))):
            assert socket.recv(S) == f"ONE OF {number}"


@pytest.mark.parametrize(("path", "code"), [("/fail", 1011), ("/die", 1011)])
def test_a_function_that_fails_closes_with_an_error(deployed: None, path: str, code: int) -> None:
    with opened(path) as socket:
        _, closed = rest(socket)
    assert closed.rcvd is not None
    assert closed.rcvd.code == code


def test_a_refusal_is_one(deployed: None) -> None:
    with pytest.raises(InvalidStatus) as refused:
        opened("/refuse")
    assert refused.value.response.status_code == 403


def test_a_message_that_is_too_large_closes_with_its_code(deployed: None) -> None:
    with opened("/echo") as socket:
        socket.send(b"x" * (2 * 1024**2 + 1))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


def test_a_guarded_function_s_socket_needs_a_token(deployed: None) -> None:
    token = modal.Workspace.from_context().proxy_tokens.create("sockets")
    try:
        with pytest.raises(InvalidStatus) as refused:
            opened("/echo", "guarded")
        assert refused.value.response.status_code == 401
        headers = {"Modal-Key": token.token_id, "Modal-Secret": token.token_secret}
        with opened("/echo", "guarded", additional_headers=headers) as socket:
            socket.send("in")
            assert socket.recv(S) == "IN"
    finally:
        modal.Workspace.from_context().proxy_tokens.delete(token.token_id)
