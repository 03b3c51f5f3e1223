"""The one way out lets through what is allowed, by its checked address, and nothing else."""

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from workbench.local_cloud.sandboxes.network.egress_policy import Address, Allowed, EgressPolicy, Refused
from workbench.local_cloud.sandboxes.network.egress_proxy import EgressProxy, Stream, dial, own_addresses, proxy_env

DEADLINE_S = 60
LOOPBACK = [ip_network("127.0.0.0/8")]
PUBLIC = ip_address("93.184.216.34")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Way:
    """A proxy, what it was asked to refuse, and names that resolve as a test wants."""

    def __init__(self) -> None:
        self.refused: list[tuple[str, int, str]] = []
        self.names: dict[str, list[list[str]]] = {}
        self.ports: dict[int, int] = {}
        self.dialled: list[str] = []
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.proxy = EgressProxy(
            listener,
            EgressPolicy.open(),
            on_refused=lambda *what: self.refused.append(what),
            test_networks=LOOPBACK,
            resolve=self._resolve,
            dial=self._dial,
            head_s=2,
        )

    async def _resolve(self, host: str, port: int) -> list[Address]:
        answers = self.names.get(host)
        if answers is None:
            try:
                return [ip_address(socket.inet_ntoa(socket.inet_aton(host)))]
            except OSError:
                return [ip_address(host)] if ":" in host else _missing()
        return [ip_address(text) for text in (answers.pop(0) if len(answers) > 1 else answers[0])]

    async def _dial(self, address: Address, port: int) -> Stream:
        self.dialled.append(str(address))
        return await dial(ip_address("127.0.0.1"), self.ports.get(port, port))

    async def say(self, data: bytes) -> bytes:
        """What comes back until the proxy closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            return await asyncio.wait_for(reader.read(), DEADLINE_S)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    async def tunnel(self, target: str) -> Stream | None:
        """A tunnel, None when there is none."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            writer.close()
            return None
        if b" 200 " not in head.splitlines()[0]:
            writer.close()
            return None
        return reader, writer


def _missing() -> list[Address]:
    raise OSError("no such name")


@pytest.fixture
async def way() -> AsyncIterator[Way]:
    way = Way()
    await way.proxy.start()
    yield way
    await way.proxy.aclose()


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """A server that sends everything back, and ends when its client has said all."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write(b"the end")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


# -- the policy -------------------------------------------------------------------------------------------------------

NEVER = ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"]
NEVER += ["255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1"]
NEVER += ["::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "fd00:ec2::254", "192.0.2.1", "2001:db8::1"]


@pytest.mark.parametrize("address", NEVER)
def test_addresses_nearby_are_never_dialled_whatever_is_allowed(address: str) -> None:
    everything = EgressPolicy.allowlist(["0.0.0.0/0", "::/0"], ["*"])
    for policy in (EgressPolicy.open(), everything):
        assert isinstance(policy.verdict("name.example", 443, [ip_address(address)]), Refused)


def test_of_mixed_addresses_only_the_public_ones_are_dialled() -> None:
    verdict = EgressPolicy.open().verdict("rebinding.example", 80, [ip_address("10.0.0.1"), PUBLIC])
    assert verdict == Allowed((PUBLIC,))


@pytest.mark.parametrize(
    ("domains", "host", "port", "allowed"),
    [
        (["example.com"], "example.com", 443, True),
        (["example.com"], "EXAMPLE.com.", 443, True),
        (["example.com"], "example.com", 80, False),
        (["example.com"], "www.example.com", 443, False),
        (["example.com"], "notexample.com", 443, False),
        (["example.com"], "example.com.evil.org", 443, False),
        (["*.example.com"], "a.b.example.com", 443, True),
        (["*.example.com"], "example.com", 443, False),
        (["*.example.com"], "evilexample.com", 443, False),
        (["*"], "anything.org", 443, True),
        (["*"], "anything.org", 8443, False),
        (["*"], "93.184.216.34", 443, False),
        (["bücher.example"], "xn--bcher-kva.example", 443, True),
        ([], "example.com", 443, False),
    ],
)
def test_domains_are_names_at_the_port_of_tls(domains: list[str], host: str, port: int, allowed: bool) -> None:
    verdict = EgressPolicy.allowlist([], domains).verdict(host, port, [PUBLIC])
    assert isinstance(verdict, Allowed) is allowed


def test_ranges_count_at_every_port_and_for_every_name() -> None:
    policy = EgressPolicy.allowlist(["93.184.216.0/24"], [])
    assert policy.verdict("any.name", 22, [PUBLIC]) == Allowed((PUBLIC,))
    assert isinstance(policy.verdict("any.name", 22, [ip_address("93.184.217.34")]), Refused)


@pytest.mark.parametrize("cidr", ["93.184.216.34/24", "example.com", "1.2.3.4/33", "", "1.2.3/8x"])
def test_a_range_that_is_none_is_named(cidr: str) -> None:
    with pytest.raises(ValueError, match="Invalid CIDR: "):
        EgressPolicy.allowlist([cidr], [])


@pytest.mark.parametrize(
    "domain",
    ["", "com", "*.com", "a..b", "-a.com", "a.com:443", "https://a.com", "a.com/x", "*.*.com", "a.*.com", "1.2.3.4"],
)
def test_a_domain_that_is_none_is_named(domain: str) -> None:
    with pytest.raises(ValueError, match="Invalid domain: "):
        EgressPolicy.allowlist([], [domain])


# -- the proxy --------------------------------------------------------------------------------------------------------


async def test_a_tunnel_carries_bytes_both_ways_and_each_end(way: Way, echo: int) -> None:
    stream = await way.tunnel(f"127.0.0.2:{echo}")
    assert stream is not None
    reader, writer = stream
    data = os.urandom(5_000_000)

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    sending = asyncio.create_task(send())
    assert await asyncio.wait_for(reader.read(-1), DEADLINE_S) == data + b"the end"
    await sending
    writer.close()


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "10.0.0.1", "2130706433.example", "[::1]", "[::ffff:10.0.0.1]", "0"]
)
async def test_what_is_near_is_refused_and_told(way: Way, host: str) -> None:
    way.proxy._test_networks = ()  # nothing is an exception here
    way.names["2130706433.example"] = [["127.0.0.1"]]
    assert await way.tunnel(f"{host}:80") is None
    assert [(name, port) for name, port, _ in way.refused] == [(host.strip("[]"), 80)]
    assert way.dialled == []


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1"])
async def test_other_ways_to_write_loopback_are_loopback(way: Way, host: str) -> None:
    way.proxy._test_networks = ()
    assert await way.say(f"GET http://{host}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode()) == b""
    assert len(way.refused) == 1


async def test_a_public_address_of_this_machine_is_not_dialled(way: Way) -> None:
    """From within, it would pass the machine's own firewall."""
    assert ip_address("127.0.0.1") in own_addresses()
    way.proxy._own_addresses = lambda: {PUBLIC}
    way.names["me.example"] = [["93.184.216.34"]]
    assert await way.tunnel("me.example:443") is None
    assert way.refused == [("me.example", 443, "it is an address of this machine")]
    way.names["mapped.example"] = [["::ffff:93.184.216.34"]]
    assert await way.tunnel("mapped.example:443") is None
    assert way.refused[1:] == [("mapped.example", 443, "it is an address of this machine")]
    assert way.dialled == []


async def test_the_address_that_was_checked_is_the_one_that_is_dialled(way: Way, echo: int) -> None:
    """A name that answers differently the second time gains nothing: it is asked once."""
    way.names["rebinding.example"] = [["93.184.216.34"], ["10.0.0.1"]]
    stream = await way.tunnel(f"rebinding.example:{echo}")
    assert stream is not None
    assert way.dialled == ["93.184.216.34"]
    stream[1].close()


async def test_a_plain_request_is_passed_on_and_its_answer_back(way: Way) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        body = await reader.readexactly(5)
        writer.write(b"HTTP/1.1 201 Made\r\nContent-Length: 7\r\nX-A: b\r\n\r\n" + body + b"ok")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        request = f"POST http://127.0.0.2:{port}/a?b=c HTTP/1.1\r\nHost: evil.example\r\nProxy-Authorization: x\r\n"
        answer = await way.say(f"{request}Content-Length: 5\r\nX-B: c\r\n\r\nhello".encode())
    head = heads[0].lower()
    assert head.startswith(b"post /a?b=c http/1.1\r\n")
    assert f"host: 127.0.0.2:{port}".encode() in head
    assert b"evil.example" not in head
    assert b"proxy-" not in head
    assert b"x-b: c" in head
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert answer.endswith(b"hellook")


SMUGGLED = {
    "two lengths": b"POST http://127.0.0.2:1/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length that is none": b"POST http://127.0.0.2:1/ HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
    "a header with a line end": b"GET http://127.0.0.2:1/ HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "a space before the colon": b"GET http://127.0.0.2:1/ HTTP/1.1\r\nHost : a\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a user in the URL": b"GET http://user:pw@127.0.0.2:1/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "another scheme": b"GET ftp://127.0.0.2:1/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path": b"GET /etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    "no port": b"CONNECT 127.0.0.2 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a port that is none": b"CONNECT 127.0.0.2:99999 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a CONNECT with a body": b"CONNECT 127.0.0.2:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na",
    "a head without end": b"GET http://127.0.0.2:1/ HTTP/1.1\r\nX: " + b"a" * 200_000,
}


@pytest.mark.parametrize("what", SMUGGLED)
async def test_what_is_not_clean_is_not_passed_on(way: Way, what: str) -> None:
    answer = await way.say(SMUGGLED[what])
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert way.dialled == []


async def test_a_guest_that_says_nothing_is_let_go(way: Way) -> None:
    assert await way.say(b"") == b""


async def test_more_connections_than_there_may_be_are_closed(way: Way) -> None:
    held = [await asyncio.open_connection("127.0.0.1", way.port) for _ in range(140)]
    closed = 0
    for reader, _ in held[128:]:
        try:
            closed += await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
        except ConnectionResetError:
            closed += 1
    assert closed == 12
    for _, writer in held:
        writer.close()


async def test_names_and_servers_that_are_not_there_are_told(way: Way) -> None:
    assert (await way.say(b"GET http://no.example/ HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 502 ")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    answer = await way.say(f"CONNECT 127.0.0.2:{port} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert way.refused == []


async def test_another_policy_cuts_what_it_does_not_allow(way: Way, echo: int) -> None:
    way.names["a.example"] = way.names["b.example"] = [["93.184.216.34"]]
    way.ports[443] = echo
    one, other = await way.tunnel("a.example:443"), await way.tunnel("b.example:443")
    assert one is not None
    assert other is not None
    way.proxy.set_policy(EgressPolicy.allowlist([], ["b.example"]))
    assert await asyncio.wait_for(one[0].read(), DEADLINE_S) == b""
    other[1].write(b"still here")
    assert await asyncio.wait_for(other[0].readexactly(10), DEADLINE_S) == b"still here"
    assert await way.tunnel("a.example:443") is None
    way.proxy.set_policy(EgressPolicy.blocked())
    assert await asyncio.wait_for(other[0].read(), DEADLINE_S) == b""
    assert await way.tunnel("b.example:443") is None
    assert [host for host, _, _ in way.refused] == ["a.example", "b.example"]
    one[1].close()
    other[1].close()


async def test_the_end_of_the_proxy_is_the_end_of_its_tunnels(way: Way, echo: int) -> None:
    stream = await way.tunnel(f"127.0.0.2:{echo}")
    assert stream is not None
    await way.proxy.aclose()
    await way.proxy.aclose()
    assert await asyncio.wait_for(stream[0].read(), DEADLINE_S) == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", way.port)
    stream[1].close()


async def test_curl_finds_its_way(way: Way, tmp_path: Path) -> None:
    """Plain and tunnelled, by the variables that a sandbox's programs get."""
    (tmp_path / "file").write_text("hello")
    command = ["python3", "-u", "-m", "http.server", "--bind", "127.0.0.1", "0", "--directory", str(tmp_path)]
    server = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdout is not None
    port = int((await server.stdout.readline()).split(b"port ")[1].split()[0])
    env = {"PATH": "/usr/bin:/bin", **proxy_env("127.0.0.1", way.port)}
    for options in ([], ["--proxytunnel"]):
        curl = await asyncio.create_subprocess_exec(
            "curl", "-sS", *options, f"http://127.0.0.2:{port}/file", env=env, stdout=subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(curl.communicate(), DEADLINE_S)
        assert (curl.returncode, out) == (0, b"hello")
    way.proxy.set_policy(EgressPolicy.blocked())
    curl = await asyncio.create_subprocess_exec("curl", "-s", f"http://127.0.0.2:{port}/file", env=env)
    assert await asyncio.wait_for(curl.wait(), DEADLINE_S) != 0
    server.terminate()
    await server.communicate()
