"""Connect tokens: HTTP into a sandbox for who shows one, and for nobody else."""

import base64
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import modal
import pytest

from workbench.local_cloud.process.state_directory import Running

DEADLINE_S = 60

SERVER = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self):
        if self.headers.get("Upgrade") == "shout":
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "shout")
            self.end_headers()
            while line := self.rfile.readline():
                self.wfile.write(line.upper())
            self.close_connection = True
            return
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        said = {"port": self.server.server_address[1], "path": self.path, "body": len(body)}
        said["headers"] = {name.lower(): self.headers.get_all(name) for name in self.headers}
        data = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    do_POST = do_GET
http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def sandboxes(cloud: Running) -> Iterator[list[modal.Sandbox]]:
    app = modal.App.lookup("connect-tests", create_if_missing=True)
    made = [
        modal.Sandbox.create(
            "python3", "-c", SERVER, "8080", app=app, timeout=600, readiness_probe=modal.Probe.with_tcp(8080)
        )
        for _ in range(2)
    ]
    for sandbox in made:
        sandbox.wait_until_ready(timeout=DEADLINE_S)
    yield made
    for sandbox in made:
        sandbox.terminate()


@pytest.fixture
def sandbox(sandboxes: list[modal.Sandbox]) -> modal.Sandbox:
    return sandboxes[0]


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=DEADLINE_S, trust_env=False) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_token_opens_the_sandbox_and_says_for_whom(sandbox: modal.Sandbox, http: httpx.Client) -> None:
    access = sandbox.create_connect_token(user_metadata={"user": "u1"})
    said = http.get(f"{access.url}/a?b=c", headers={**bearer(access.token), "X-Own": "kept"}).json()
    assert (said["path"], said["port"]) == ("/a?b=c", 8080)
    assert json.loads(said["headers"]["x-verified-user-data"][0]) == {"user": "u1"}
    assert said["headers"]["x-own"] == ["kept"]


def test_bodies_are_passed_on(sandbox: modal.Sandbox, http: httpx.Client) -> None:
    access = sandbox.create_connect_token()
    assert http.post(access.url, headers=bearer(access.token), content=b"x" * 3_000_000).json()["body"] == 3_000_000


@pytest.mark.parametrize("name", ["X-Verified-User-Data", "x_verified_user_data"])
def test_nobody_says_himself_who_he_is(sandbox: modal.Sandbox, http: httpx.Client, name: str) -> None:
    access = sandbox.create_connect_token(user_metadata="real")
    said = http.get(access.url, headers={**bearer(access.token), name: "forged"}).json()
    assert "forged" not in json.dumps(said)
    nameless = sandbox.create_connect_token()
    assert "forged" not in http.get(nameless.url, headers={**bearer(nameless.token), name: "forged"}).text


def test_a_token_in_the_query_becomes_a_cookie_and_stays_outside(sandbox: modal.Sandbox, http: httpx.Client) -> None:
    access = sandbox.create_connect_token()
    first = http.get(f"{access.url}/page", params={"a": "1", "_modal_connect_token": access.token})
    assert first.json()["path"] == "/page?a=1"
    http.cookies.set("mine", "kept")
    second = http.get(f"{access.url}/next")  # by the cookie that the first one set
    assert second.json()["headers"]["cookie"] == ["mine=kept"]
    for answer in (first, second):
        assert access.token not in answer.text


@pytest.mark.parametrize("shown", ["", "Bearer", "Bearer wrong", "Basic eDp5", "Bearer \xff"])
def test_without_a_token_nothing_is_passed_on(sandbox: modal.Sandbox, http: httpx.Client, shown: str) -> None:
    access = sandbox.create_connect_token()
    headers = {"Authorization": shown.encode("latin-1")} if shown else {}
    assert http.get(access.url, headers=headers).status_code == 401


def test_a_token_of_one_sandbox_is_worthless_for_another(sandboxes: list[modal.Sandbox], http: httpx.Client) -> None:
    one, two = (sandbox.create_connect_token() for sandbox in sandboxes)
    assert one.url != two.url
    assert http.get(one.url, headers=bearer(two.token)).status_code == 401
    assert http.get(two.url, headers=bearer(one.token)).status_code == 401
    assert http.get(two.url, headers=bearer(two.token)).status_code == 200


def test_a_token_is_for_one_port(sandbox: modal.Sandbox, http: httpx.Client) -> None:
    process = sandbox.exec("python3", "-c", SERVER, "9090")
    probe = "import socket,time\nwhile True:\n try: socket.create_connection(('127.0.0.1', 9090)).close(); break\n"
    sandbox.exec("python3", "-c", probe + " except OSError: time.sleep(0.1)").wait()
    access = sandbox.create_connect_token(port=9090)
    assert http.get(access.url, headers=bearer(access.token)).json()["port"] == 9090
    assert process.poll() is None


def test_a_port_that_nobody_listens_on_is_a_bad_gateway(sandbox: modal.Sandbox, http: httpx.Client) -> None:
    access = sandbox.create_connect_token(port=9191)
    assert http.get(access.url, headers=bearer(access.token)).status_code == 502


def test_another_protocol_passes_once_the_program_agrees(sandbox: modal.Sandbox) -> None:
    """As WebSockets do it."""
    access = sandbox.create_connect_token()
    address = urlsplit(access.url)
    with socket.create_connection((address.hostname, address.port or 80), timeout=DEADLINE_S) as peer:
        shown = f"Authorization: Bearer {access.token}"
        head = f"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: shout\r\n{shown}\r\n\r\n"
        peer.sendall(head.encode() + b"early\n")
        with peer.makefile("rb") as file:
            assert file.readline().split()[1] == b"101"
            while file.readline().strip():
                pass
            assert file.readline() == b"EARLY\n"
            peer.sendall(b"late\n")
            assert file.readline() == b"LATE\n"


def test_a_program_that_stays_with_http_is_heard(sandbox: modal.Sandbox, http: httpx.Client) -> None:
    access = sandbox.create_connect_token()
    headers = {**bearer(access.token), "Connection": "Upgrade", "Upgrade": "websocket"}
    assert http.get(f"{access.url}/stays", headers=headers).json()["path"] == "/stays"


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(sandbox: modal.Sandbox, said: bytes) -> None:
    address = urlsplit(sandbox.create_connect_token().url)
    with socket.create_connection((address.hostname, address.port or 80), timeout=DEADLINE_S) as peer:
        peer.sendall(said)
        answer = b""
        try:
            while data := peer.recv(65536):
                answer += data
        except ConnectionResetError:
            pass
    assert not answer or 400 <= int(answer.split()[1]) < 500


def test_a_second_request_on_the_connection_must_show_the_token_again(sandbox: modal.Sandbox) -> None:
    """Else it could say anything of its sender, with the first one's leave."""
    access = sandbox.create_connect_token(user_metadata="real")
    address = urlsplit(access.url)
    request = f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {access.token}\r\n\r\n"
    forged = "GET /second HTTP/1.1\r\nHost: x\r\nX-Verified-User-Data: forged\r\n\r\n"
    with socket.create_connection((address.hostname, address.port or 80), timeout=DEADLINE_S) as peer:
        peer.sendall((request + forged).encode())
        answer = b""
        while data := peer.recv(65536):
            answer += data
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"forged" not in answer


def test_user_data_that_would_break_a_header_is_refused(sandbox: modal.Sandbox) -> None:
    with pytest.raises(modal.exception.InvalidError):
        sandbox.create_connect_token(user_metadata="a\r\nX-Admin: yes")


def test_no_token_is_made_for_a_sandbox_that_has_ended(cloud: Running, http: httpx.Client) -> None:
    app = modal.App.lookup("connect-tests", create_if_missing=True)
    sandbox = modal.Sandbox.create(app=app, timeout=60)
    access = sandbox.create_connect_token()
    sandbox.terminate(wait=True)
    with pytest.raises(httpx.TransportError):
        http.get(access.url, headers=bearer(access.token))
    with pytest.raises(modal.exception.Error):
        modal.Sandbox.from_id(sandbox.object_id).create_connect_token()


def test_a_router_s_token_is_no_connect_token(sandbox: modal.Sandbox, http: httpx.Client) -> None:
    """Nor is anything else that is signed."""
    access = sandbox.create_connect_token()
    unsigned = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "none"}, {"task_id": sandbox.object_id, "exp": 2**40}, "")
    )
    assert http.get(access.url, headers=bearer(unsigned)).status_code == 401
