"""The proxy under hostile guests, slow servers and changes of policy: what it carries is whole, its ends are ends."""

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from workbench.local_cloud.sandboxes.network.egress_policy import Address, EgressPolicy
from workbench.local_cloud.sandboxes.network.egress_proxy import EgressProxy, Stream, dial, proxy_env

DEADLINE_S = 60
LOOPBACK = ip_network("127.0.0.0/8")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Way:
    """A proxy whose names resolve to loopback, and what it refused."""

    def __init__(self) -> None:
        self.refused: list[tuple[str, int, str]] = []
        self.resolved: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.dialling = asyncio.Event()
        self.may_dial = asyncio.Event()
        self.may_dial.set()
        self.far: Stream | None = None
        self.far_buffer_bytes: int | None = None

    def made(self, *, policy: EgressPolicy | None = None, head_s: float = 30, idle_s: float = 60) -> EgressProxy:
        return EgressProxy(
            self.listener,
            policy or EgressPolicy.open(),
            on_refused=lambda *what: self.refused.append(what),
            test_networks=[LOOPBACK],
            resolve=self._resolve,
            dial=self._dial,
            head_s=head_s,
            idle_s=idle_s,
        )

    async def _resolve(self, host: str, port: int) -> list[Address]:
        self.resolved.append(host)
        return [ip_address(host if host[0].isdigit() else "127.0.0.1")]

    async def _dial(self, address: Address, port: int) -> Stream:
        self.dialling.set()
        await self.may_dial.wait()
        self.far = await dial(address, port)
        if self.far_buffer_bytes is not None:
            plain = self.far[1].get_extra_info("socket")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.far_buffer_bytes)
        return self.far


@pytest.fixture
async def way() -> AsyncIterator[Way]:
    way = Way()
    yield way
    way.listener.close()
    mine = asyncio.current_task()
    left = [
        task
        for task in asyncio.all_tasks()
        if task is not mine and ("EgressProxy" in repr(task) or "Door" in repr(task))
    ]
    assert left == []


@asynccontextmanager
async def running(proxy: EgressProxy) -> AsyncIterator[EgressProxy]:
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.aclose()


@asynccontextmanager
async def serving(
    handler: Handler, *, tls: ssl.SSLContext | None = None, sock: socket.socket | None = None
) -> AsyncIterator[int]:
    """A server on loopback; its port. Handlers that still run at the end are cancelled."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await handler(reader, writer)
        writer.transport.abort()

    listener = sock or socket.create_server(("127.0.0.1", 0))
    server = await asyncio.start_server(handle, sock=listener, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def guest(way: Way) -> AsyncIterator[Stream]:
    reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def tunnel(way: Way, target: str) -> AsyncIterator[Stream]:
    async with guest(way) as (reader, writer):
        writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
        assert b" 200 " in head.splitlines()[0]
        yield reader, writer


async def until(condition: Callable[[], bool], *, within_s: float = DEADLINE_S) -> None:
    """Return when a condition holds, or after a while."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110  # transports have no event for it
                await asyncio.sleep(0.01)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Everything until the end, however that comes."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while chunk := await asyncio.wait_for(reader.read(65536), DEADLINE_S):
            data += chunk
    return data


# -- what is carried is whole -----------------------------------------------------------------------------------------


async def test_a_tunnel_carries_twenty_megabytes_each_way_at_once(way: Way) -> None:
    data = os.urandom(20_000_000)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=0)  # the connection is aborted when this returns
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()

    async with serving(echo) as port, running(way.made()), tunnel(way, f"127.0.0.1:{port}") as (reader, writer):

        async def send() -> None:
            writer.write(data)
            await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        assert await rest(reader) == data
        await sending


async def test_what_is_uploaded_after_the_server_said_its_last_arrives_whole(way: Way) -> None:
    """The end of one direction is not the end of the other, and what the proxy holds at the end is still delivered."""
    received: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    may_read = asyncio.Event()
    data = os.urandom(60_000)  # less than the proxy holds back for, more than the small buffers below

    async def close_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()
        writer.write_eof()
        await may_read.wait()
        writer.transport.resume_reading()
        received.set_result(len(await rest(reader)))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        way.far_buffer_bytes = 4096
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(serving(close_first, sock=listener))
            await stack.enter_async_context(running(way.made()))
            reader, writer = await stack.enter_async_context(tunnel(way, f"127.0.0.1:{port}"))
            assert await rest(reader) == b""
            writer.write(data)
            writer.write_eof()
            assert way.far is not None
            await until(way.far[1].transport.is_closing, within_s=1)
            may_read.set()
            assert await asyncio.wait_for(received, DEADLINE_S) == len(data)


async def test_a_transfer_in_one_direction_is_not_idle(way: Way) -> None:
    """A large download: the guest is silent all the while, the tunnel is not."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(12):
            writer.write(b"x")
            await asyncio.sleep(0.25)  # the pace of the server is what is tested
        writer.write_eof()
        await reader.read()

    async with serving(drip) as port, running(way.made(idle_s=1)), tunnel(way, f"127.0.0.1:{port}") as (reader, _):
        assert await rest(reader) == b"x" * 12


async def test_a_long_upload_is_not_idle(way: Way) -> None:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(12)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        await reader.read()

    async with serving(take) as port, running(way.made(idle_s=1)), guest(way) as (reader, writer):
        writer.write(f"POST http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n".encode())
        for _ in range(12):
            writer.write(b"x")
            await asyncio.sleep(0.25)  # the pace of the guest is what is tested
        assert (await rest(reader)).endswith(b"\r\n\r\nok")


async def test_an_idle_tunnel_ends(way: Way) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(silent) as port, running(way.made(idle_s=0.5)), tunnel(way, f"127.0.0.1:{port}") as (reader, _):
        assert await rest(reader) == b""


async def test_an_answer_that_comes_before_the_body_is_heard(way: Way) -> None:
    """A server that refuses an upload, as by 413, closes while the guest still sends."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\n")
        await writer.drain()
        body_started.set()
        await may_finish.wait()
        writer.write(b"large")
        writer.write_eof()
        await reader.read()

    body_started, may_finish = asyncio.Event(), asyncio.Event()
    async with serving(refuse) as port, running(way.made()), guest(way) as (reader, writer):
        writer.write(
            f"POST http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        await asyncio.wait_for(body_started.wait(), DEADLINE_S)
        writer.write(b"5\r\nhello\r\n")
        may_finish.set()
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.endswith(b"large")


async def test_a_guest_that_waits_to_be_told_to_continue_is_told(way: Way) -> None:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(5)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body)
        await writer.drain()
        await reader.read()

    async with serving(take) as port, running(way.made()), guest(way) as (reader, writer):
        head = f"POST http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        writer.write(head.encode())
        async with asyncio.timeout(5):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"hello")
        assert (await rest(reader)).endswith(b"hello")


# -- what is passed on is clean ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Connection: X-Secret\r\nX-Secret: a\r\nKeep-Alive: 5\r\nTE: trailers\r\n", ""),
        ("X-A: b\nX-B: c\n", ""),
        ("X-Folded: a\r\n b\r\n", ""),
    ],
    ids=["two framings", "headers of this hop", "bare line feeds", "a folded header"],
)
async def test_a_request_has_one_meaning_when_it_is_passed_on(way: Way, headers: str, body: str) -> None:
    """Whether refused or passed on: never with two framings, nor with what was meant for the proxy alone."""
    heads: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with serving(take) as port, running(way.made()), guest(way) as (reader, writer):
        writer.write(f"POST http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}".encode())
        answer = await rest(reader)
    assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 400 "))
    for head in heads:
        lower = head.lower()
        assert not (b"content-length" in lower and b"transfer-encoding" in lower)
        assert b"x-secret" not in lower
        assert b"keep-alive" not in lower
        assert lower.replace(b"\r\n", b"").count(b"\n") == 0


@pytest.mark.parametrize("target", ["http://127.0.0.1:0/", "http://127.0.0.1:65536/", "http://127.0.0.1:-1/"])
async def test_a_port_that_is_none_is_not_taken_for_another(way: Way, target: str) -> None:
    async with running(way.made()), guest(way) as (reader, writer):
        writer.write(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert (await rest(reader)).startswith(b"HTTP/1.1 400 ")
    assert not way.dialling.is_set()


async def test_a_connect_that_promises_a_body_is_not_waited_for(way: Way) -> None:
    async with running(way.made(head_s=0.5)), guest(way) as (reader, writer):
        writer.write(b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")
        async with asyncio.timeout(10):
            await reader.read()
    assert not way.dialling.is_set()


# -- what ends is gone ------------------------------------------------------------------------------------------------


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_a_policy_that_changes_while_a_connection_is_made_counts_for_it(way: Way) -> None:
    """Else a server that is slow to accept would keep a way open that is meant to be closed."""
    way.may_dial.clear()
    async with serving(silent) as port, running(way.made()) as proxy, guest(way) as (reader, writer):
        writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await asyncio.wait_for(way.dialling.wait(), DEADLINE_S)
        proxy.set_policy(EgressPolicy.blocked())
        way.may_dial.set()
        async with asyncio.timeout(10):
            answer = await rest(reader)
        assert b" 200 " not in answer


@pytest.mark.parametrize(
    ("target", "looked_up"),
    [
        ("secret-data.example:443", False),
        ("allowed.test.example:443", False),
        ("evil-allowed.test:443", False),
        ("allowed.test:80", False),
        ("allowed.test:8443", False),
        ("203.0.113.7:443", False),
        ("0x7f.1:443", False),
        ("ALLOWED.test:443", True),
        ("deep.wild.test:443", True),
        ("wild.test:443", False),
    ],
)
@pytest.mark.parametrize("how", ["CONNECT", "GET"])
async def test_only_a_name_that_may_be_reached_is_looked_up(way: Way, target: str, looked_up: bool, how: str) -> None:
    """A name is data: whoever answers for its domain would read it."""
    policy = EgressPolicy.allowlist([], ["allowed.test", "*.wild.test"])
    line = f"CONNECT {target}" if how == "CONNECT" else f"GET http://{target}/"
    async with running(way.made(policy=policy)), guest(way) as (reader, writer):
        writer.write(f"{line} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        async with asyncio.timeout(DEADLINE_S):
            await rest(reader)
    assert bool(way.resolved) == looked_up
    assert bool(way.refused) != looked_up


async def test_a_connection_that_comes_at_the_end_is_ended(way: Way) -> None:
    """What the kernel accepted while the proxy was closing is not left to the guest."""
    proxy = way.made()
    await proxy.start()
    async with AsyncExitStack() as stack:
        readers = []
        for _ in range(20):
            plain = stack.enter_context(socket.socket())
            plain.setblocking(False)
            await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", way.port))
            readers.append(plain)
        await proxy.aclose()
        for plain in readers:
            try:
                async with asyncio.timeout(5):
                    assert await asyncio.get_running_loop().sock_recv(plain, 1) == b""
            except ConnectionResetError:
                pass


async def test_the_end_does_not_wait_for_a_guest_that_does_not_read(way: Way) -> None:
    """Neither is its connection left open behind the proxy's back."""

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        size = 64 * 1024 * 1024
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + bytes(size))
        await writer.drain()
        await reader.read()

    proxy = way.made()
    await proxy.start()
    async with serving(flood) as port, guest(way) as (reader, writer):
        writer.write(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
        writer.transport.pause_reading()
        async with asyncio.timeout(10):
            await proxy.aclose()
        writer.transport.resume_reading()
        assert len(await rest(reader)) < 64 * 1024 * 1024


# -- names that take long ---------------------------------------------------------------------------------------------


async def test_names_that_take_long_do_not_take_the_clouds_threads(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog measures memory in threads of the loop: a guest must not be able to occupy them with names."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    asked, let_go = asyncio.Event(), threading.Event()

    def slow(*_: object, **__: object) -> list[object]:
        loop.call_soon_threadsafe(asked.set)
        let_go.wait(DEADLINE_S)
        raise socket.gaierror("slow")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    proxy = EgressProxy(way.listener, EgressPolicy.open(), on_refused=lambda *_: None)
    async with running(proxy), guest_at(way.port) as (_, writer):
        try:
            writer.write(b"CONNECT slow.example:443 HTTP/1.1\r\nHost: a\r\n\r\n")
            await asyncio.wait_for(asked.wait(), DEADLINE_S)
            async with asyncio.timeout(5):
                await asyncio.to_thread(len, "")
        finally:
            let_go.set()


async def test_a_server_that_speaks_something_else_is_told(way: Way) -> None:
    async def ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        await reader.read()

    async with serving(ssh) as port, running(way.made()), guest(way) as (reader, writer):
        writer.write(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert (await rest(reader)).startswith(b"HTTP/1.1 502 ")


@asynccontextmanager
async def guest_at(port: int) -> AsyncIterator[Stream]:
    loop = asyncio.get_running_loop()
    plain = socket.socket()
    plain.setblocking(False)
    await loop.sock_connect(plain, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=plain)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


# -- programs as sandboxes have them ----------------------------------------------------------------------------------


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def files(directory: Path) -> Iterator[int]:
    """A dumb HTTP server; its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(DEADLINE_S)


async def command(way: Way, *argv: str, directory: Path) -> tuple[int | None, bytes, bytes]:
    """Run a program with the proxy's variables; loopback is no exception here, as it is not the guest's own."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "GIT_CONFIG_NOSYSTEM": "1"}
    env |= {**proxy_env("127.0.0.1", way.port), "NO_PROXY": "", "no_proxy": ""}
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=directory, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    return process.returncode, out, err


async def test_git_clones_through_the_proxy(way: Way, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    origin.mkdir()
    for arguments in (("init", "-q"), (*who, "commit", "-q", "--allow-empty", "-m", "one"), ("update-server-info",)):
        assert (await command(way, "git", *arguments, directory=origin))[0] == 0
    with files(origin) as port:
        async with running(way.made(policy=EgressPolicy.allowlist(["127.0.0.1/32"], []))) as proxy:
            url = f"http://127.0.0.1:{port}/.git"
            code, out, err = await command(way, "git", "ls-remote", url, directory=tmp_path)
            assert code == 0, err
            assert b"HEAD" in out
            code, _, err = await command(way, "git", "clone", "-q", url, "copy", directory=tmp_path)
            assert code == 0, err
            assert (await command(way, "git", "log", "--oneline", directory=tmp_path / "copy"))[1].endswith(b"one\n")
            proxy.set_policy(EgressPolicy.allowlist([], ["example.com"]))
            assert (await command(way, "git", "ls-remote", url, directory=tmp_path))[0] != 0
    assert {(host, port_) for host, port_, _ in way.refused} == {("127.0.0.1", port)}


async def test_curl_speaks_tls_through_the_proxy(way: Way, tmp_path: Path) -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        await reader.read()

    context, authority = certificate("tls.example", tmp_path)
    async with serving(hello, tls=context) as port, running(way.made()) as proxy:
        url = f"https://tls.example:{port}/"
        code, out, err = await command(way, "curl", "-sS", "--cacert", str(authority), url, directory=tmp_path)
        assert (code, out) == (0, b"hello"), err
        proxy.set_policy(EgressPolicy.allowlist([], ["tls.example"]))  # at 443, not at this port
        assert (await command(way, "curl", "-sS", "--cacert", str(authority), url, directory=tmp_path))[0] != 0
    assert [refusal[:2] for refusal in way.refused] == [("tls.example", port)]


def certificate(name: str, directory: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context for a name, and the file with what to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    authority, secret = directory / "cert.pem", directory / "key.pem"
    authority.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, secret)
    return context, authority
