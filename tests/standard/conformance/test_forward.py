"""`modal.forward`: a port of a function's container that is reached from outside, through the stock SDK."""

import socket
import ssl
from collections.abc import Callable, Iterator

import grpc
import httpx
import modal
import pytest
from modal_proto import api_pb2, api_pb2_grpc

from tests.conftest import wait_until
from workbench.local_cloud.process.state_directory import Running

DEADLINE_S = 60
pytestmark = pytest.mark.timeout(180)


def _serves() -> Callable[..., str]:
    def serves(places: modal.Dict, key: str, *, unencrypted: bool = False) -> str:  # nothing of this module is there
        """Forwards a port, tells where, answers one request and returns its path; then nothing is forwarded."""
        import http.server
        import queue
        import threading

        import modal

        asked: queue.Queue[str] = queue.Queue()

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"hello")
                asked.put(self.path)

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            port = server.server_address[1]
            with modal.forward(port, unencrypted=unencrypted) as tunnel:
                try:
                    with modal.forward(port):
                        twice = "allowed"
                except modal.exception.InvalidError as error:
                    twice = str(error)
                places[key] = (*tunnel.tls_socket, *(tunnel.tcp_socket if unencrypted else ("", 0)), twice)
                path = asked.get()
            with modal.forward(port):  # it can be forwarded again
                pass
            server.shutdown()
        return path

    return serves


@pytest.fixture(scope="module")
def places(cloud: Running) -> Iterator[modal.Dict]:
    with modal.Dict.ephemeral() as places:
        yield places


@pytest.fixture(scope="module")
def serves(cloud: Running) -> Iterator[modal.Function]:
    app = modal.App()
    function = app.function(serialized=True, timeout=100)(_serves())
    with app.run():
        yield function


def place(places: modal.Dict, key: str) -> tuple[str, int, str, int, str]:
    wait_until(lambda: key in places, "the function told nothing", timeout_s=DEADLINE_S)
    found: tuple[str, int, str, int, str] = places[key]
    return found


def test_a_forwarded_port_is_reached_until_it_is_closed(serves: modal.Function, places: modal.Dict) -> None:
    call = serves.spawn(places, "tls")
    host, port, _, _, twice = place(places, "tls")
    assert "already forwarded" in twice
    context = ssl.create_default_context(cadata=ssl.get_server_certificate((host, port), timeout=DEADLINE_S))
    url = f"https://{host}:{port}/path"
    assert httpx.get(url, verify=context, trust_env=False, timeout=DEADLINE_S).text == "hello"
    assert call.get(timeout=DEADLINE_S) == "/path"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port), timeout=DEADLINE_S)


def test_an_unencrypted_port_is_reached_as_it_is(serves: modal.Function, places: modal.Dict) -> None:
    call = serves.spawn(places, "raw", unencrypted=True)
    _, _, host, port, _ = place(places, "raw")
    assert httpx.get(f"http://{host}:{port}/raw", trust_env=False, timeout=DEADLINE_S).text == "hello"
    assert call.get(timeout=DEADLINE_S) == "/raw"


def test_what_a_container_forwards_ends_with_it(serves: modal.Function, places: modal.Dict) -> None:
    call = serves.spawn(places, "killed")
    address = place(places, "killed")[:2]
    socket.create_connection(address, timeout=DEADLINE_S).close()
    call.cancel(terminate_containers=True)

    def is_closed() -> bool:
        try:
            socket.create_connection(address, timeout=DEADLINE_S).close()
        except ConnectionRefusedError:
            return True
        return False

    wait_until(is_closed, "the port is still forwarded", timeout_s=DEADLINE_S)


def test_a_container_forwards_a_bounded_number_of_ports(cloud: Running) -> None:
    """The bound is the local cloud's own; Modal may allow more."""
    app = modal.App()

    @app.function(serialized=True, timeout=100)
    def greedy() -> int:
        import contextlib

        import modal

        with contextlib.ExitStack() as held:
            for number in range(100):
                try:
                    held.enter_context(modal.forward(20_000 + number))
                except modal.exception.Error:
                    return number
        return 100

    with app.run():
        assert greedy.remote() == 8


def test_only_a_container_forwards_ports(cloud: Running) -> None:
    with pytest.raises(modal.exception.InvalidError, match="inside a Modal container"), modal.forward(8000):
        pass
    shown = (("x-modal-token-id", cloud.token_id), ("x-modal-token-secret", cloud.token_secret))
    with grpc.insecure_channel(cloud.url.removeprefix("http://")) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            api_pb2_grpc.ModalClientStub(channel).TunnelStart(
                api_pb2.TunnelStartRequest(port=8000), metadata=shown, timeout=DEADLINE_S
            )
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
