"""Ports of a sandbox reached from outside, through the stock SDK."""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import modal
import pytest

from tests.conftest import wait_until
from workbench.local_cloud.process.state_directory import Running

DEADLINE_S = 60

SERVER = """
import http.server, socketserver, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self):
        body = b"x" * int(self.path[1:]) if self.path[1:].isdigit() else f"{sys.argv[2]} {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        size = int(self.headers["Content-Length"])
        total = 0
        while total < size:
            total += len(self.rfile.read(min(1 << 20, size - total)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(str(total))))
        self.end_headers()
        self.wfile.write(str(total).encode())
http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
"""

GREETER = """
import socket
server = socket.create_server(("", 7000))
while True:
    peer, _ = server.accept()
    try:
        peer.sendall(b"welcome\\n")
        while data := peer.recv(65536):
            peer.sendall(data.upper())
        peer.sendall(b"bye")
    except OSError:
        pass  # a probe says nothing and leaves
    peer.close()
"""


@pytest.fixture(scope="module")
def app(cloud: Running) -> modal.App:
    return modal.App.lookup("tunnel-tests", create_if_missing=True)


@pytest.fixture(scope="module")
def sandbox(app: modal.App) -> Iterator[modal.Sandbox]:
    """One that serves HTTP on two ports, a server that speaks first on a third, and nothing on the others."""
    sandbox = modal.Sandbox.create(
        app=app,
        timeout=600,
        encrypted_ports=[8000, 8001, 9999],
        h2_ports=[8002],
        unencrypted_ports=[7000],
        readiness_probe=modal.Probe.with_exec(
            "python3",
            "-c",
            "import socket\nfor p in (8000,8001,7000): socket.create_connection(('127.0.0.1', p)).close()",
        ),
    )
    for port in ("8000", "8001"):
        sandbox.exec("python3", "-c", SERVER, port, f"server-{port}")
    sandbox.exec("python3", "-c", GREETER)
    sandbox.wait_until_ready(timeout=DEADLINE_S)
    yield sandbox
    sandbox.terminate()


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def secure(tunnel: modal.Tunnel, context: ssl.SSLContext) -> ssl.SSLSocket:
    raw = socket.create_connection(tunnel.tls_socket, timeout=DEADLINE_S)
    return context.wrap_socket(raw, server_hostname=tunnel.host)


def connect(tunnel: modal.Tunnel) -> http.client.HTTPSConnection:
    host, port = tunnel.tls_socket
    return http.client.HTTPSConnection(host, port, timeout=DEADLINE_S, context=trusting())


def get(tunnel: modal.Tunnel, path: str) -> bytes:
    connection = connect(tunnel)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def test_each_port_has_its_own_https_url(sandbox: modal.Sandbox) -> None:
    tunnels = sandbox.tunnels()
    assert set(tunnels) == {8000, 8001, 8002, 9999, 7000}
    assert all(tunnel.url.startswith("https://") for port, tunnel in tunnels.items() if port != 7000)
    assert get(tunnels[8000], "/a?b=c") == b"server-8000 /a?b=c"
    assert get(tunnels[8001], "/") == b"server-8001 /"


def test_tunnels_are_found_by_who_has_only_the_id(sandbox: modal.Sandbox) -> None:
    assert modal.Sandbox.from_id(sandbox.object_id).tunnels() == sandbox.tunnels()


def test_large_bodies_pass_whole_both_ways(sandbox: modal.Sandbox) -> None:
    tunnel = sandbox.tunnels()[8000]
    assert get(tunnel, "/20000000") == b"x" * 20_000_000
    connection = connect(tunnel)
    connection.request("POST", "/", body=b"y" * 20_000_000)
    assert connection.getresponse().read() == b"20000000"
    connection.request("GET", "/again")  # the same connection serves on
    assert connection.getresponse().read() == b"server-8000 /again"
    connection.close()


def test_an_unencrypted_port_passes_bytes_as_they_are(sandbox: modal.Sandbox) -> None:
    """The server speaks first, and goes on after the client has said all that it has to say."""
    address = sandbox.tunnels()[7000].tcp_socket
    with socket.create_connection(address, timeout=DEADLINE_S) as peer, peer.makefile("rb") as file:
        assert file.readline() == b"welcome\n"
        peer.sendall(b"abc")
        peer.shutdown(socket.SHUT_WR)
        assert file.read() == b"ABCbye"


def test_only_an_unencrypted_port_has_a_plain_socket(sandbox: modal.Sandbox) -> None:
    with pytest.raises(modal.exception.InvalidError):
        _ = sandbox.tunnels()[8000].tcp_socket


def test_an_h2_port_offers_http_2(sandbox: modal.Sandbox) -> None:
    context = trusting()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with sandbox_server(sandbox, 8002), secure(sandbox.tunnels()[8002], context) as peer:
        assert peer.selected_alpn_protocol() == "h2"


class sandbox_server:  # noqa: N801  # reads as a function
    """A listening port inside for as long as the block lasts."""

    def __init__(self, sandbox: modal.Sandbox, port: int) -> None:
        code = f"import socket,sys\ns = socket.create_server(('', {port}))\nprint('up', flush=True)\nsys.stdin.read()"
        self._process = sandbox.exec("python3", "-c", code)
        next(iter(self._process.stdout))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._process.stdin.write_eof()
        self._process.stdin.drain()
        self._process.wait()


def test_a_port_that_nobody_listens_on_ends_the_connection(sandbox: modal.Sandbox) -> None:
    tunnel = sandbox.tunnels()[9999]
    with pytest.raises((OSError, http.client.HTTPException)):
        get(tunnel, "/")
    with sandbox_server(sandbox, 9999), secure(tunnel, trusting()) as peer:  # and serves as soon as somebody does
        peer.sendall(b"heard")


def test_thirty_clients_at_once_are_served(sandbox: modal.Sandbox) -> None:
    tunnel = sandbox.tunnels()[8000]
    answers: list[bytes] = []
    threads = [threading.Thread(target=lambda n=n: answers.append(get(tunnel, f"/{n}/"))) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sorted(answers) == sorted(f"server-8000 /{n}/".encode() for n in range(30))


def test_a_tunnel_ends_with_its_sandbox(app: modal.App) -> None:
    sandbox = modal.Sandbox.create("python3", "-c", GREETER, app=app, timeout=120, unencrypted_ports=[7000])
    address = sandbox.tunnels()[7000].tcp_socket
    deadline = time.monotonic() + DEADLINE_S
    greeting = b""
    while greeting != b"welcome\n" and time.monotonic() < deadline:
        peer = socket.create_connection(address, timeout=DEADLINE_S)
        greeting = peer.recv(8)
        if not greeting:
            peer.close()
    sandbox.terminate(wait=True)
    try:
        assert peer.recv(1) == b""
    except ConnectionResetError:
        pass
    peer.close()
    with pytest.raises(OSError):
        socket.create_connection(address, timeout=DEADLINE_S).close()


def test_an_open_connection_keeps_an_idle_sandbox_alive(app: modal.App) -> None:
    sandbox = modal.Sandbox.create(
        *("python3", "-c", GREETER),
        app=app,
        timeout=120,
        idle_timeout=3,
        unencrypted_ports=[7000],
        readiness_probe=modal.Probe.with_tcp(7000),
    )
    sandbox.wait_until_ready(timeout=DEADLINE_S)
    with socket.create_connection(sandbox.tunnels()[7000].tcp_socket, timeout=DEADLINE_S) as peer:
        assert peer.recv(8) == b"welcome\n"
        time.sleep(6)
        assert sandbox.poll() is None
        peer.sendall(b"still")
        assert peer.recv(5) == b"STILL"
    wait_until(lambda: sandbox.poll() is not None, "an idle sandbox did not end")


def test_a_sandbox_without_ports_has_no_tunnels(app: modal.App) -> None:
    sandbox = modal.Sandbox.create(app=app, timeout=60)
    assert sandbox.tunnels() == {}
    sandbox.terminate()


def test_two_sandboxes_with_the_same_port_do_not_meet(app: modal.App) -> None:
    made = [
        modal.Sandbox.create(
            "python3",
            "-c",
            SERVER,
            "8000",
            name,
            app=app,
            timeout=60,
            encrypted_ports=[8000],
            readiness_probe=modal.Probe.with_tcp(8000),
        )
        for name in ("one", "two")
    ]
    for sandbox, name in zip(made, (b"one", b"two"), strict=True):
        sandbox.wait_until_ready(timeout=DEADLINE_S)
        assert get(sandbox.tunnels()[8000], "/") == name + b" /"
        sandbox.terminate()
