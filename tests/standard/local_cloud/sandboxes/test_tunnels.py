"""What tunnels of the local cloud are that Modal's are not: on loopback, plain as well as TLS, with a certificate."""

import socket
import ssl
from collections.abc import Iterator

import httpx
import modal
import pytest

from workbench.local_cloud.process.state_directory import Running
from workbench.local_cloud.sandboxes.network.tunnels import loopback_address

DEADLINE_S = 60


@pytest.fixture(scope="module")
def tunnel(cloud: Running) -> Iterator[modal.Tunnel]:
    app = modal.App.lookup("tunnel-tests", create_if_missing=True)
    script = "mkdir /tmp/site; cd /tmp/site; echo hello > page; exec python3 -m http.server 8000"
    sandbox = modal.Sandbox.create(
        *("sh", "-c", script),
        app=app,
        timeout=300,
        encrypted_ports=[8000],
        readiness_probe=modal.Probe.with_tcp(8000),
    )
    sandbox.wait_until_ready(timeout=DEADLINE_S)
    yield sandbox.tunnels()[8000]
    sandbox.terminate()


def test_an_encrypted_port_speaks_plain_http_too(tunnel: modal.Tunnel) -> None:
    url = tunnel.url.replace("https://", "http://")
    assert httpx.get(f"{url}/page", trust_env=False, timeout=DEADLINE_S).text == "hello\n"


def test_the_certificate_is_for_the_tunnel_s_own_address(tunnel: modal.Tunnel) -> None:
    """Who has seen it once can check it from then on."""
    certificate = ssl.get_server_certificate(tunnel.tls_socket, timeout=DEADLINE_S)
    context = ssl.create_default_context(cadata=certificate)
    assert httpx.get(f"{tunnel.url}/page", verify=context, trust_env=False, timeout=DEADLINE_S).text == "hello\n"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{tunnel.url}/page", trust_env=False, timeout=DEADLINE_S)


def test_a_client_that_never_ends_its_handshake_keeps_nobody_out(tunnel: modal.Tunnel) -> None:
    silent = [socket.create_connection(tunnel.tls_socket, timeout=DEADLINE_S) for _ in range(20)]
    for peer in silent:
        peer.sendall(b"\x16\x03")
    url = tunnel.url.replace("https://", "http://")
    assert httpx.get(f"{url}/page", trust_env=False, timeout=DEADLINE_S).text == "hello\n"
    for peer in silent:
        peer.close()


def test_each_sandbox_has_a_loopback_address_that_nothing_else_uses() -> None:
    """A browser sends cookies of 127.0.0.1 to every port of it, and so to a page that a job serves."""
    addresses = {loopback_address(f"sb-{number}") for number in range(200)}
    assert len(addresses) > 190
    assert all(64 <= int(address.split(".")[1]) < 128 and address.startswith("127.") for address in addresses)
    assert loopback_address("sb-1") == loopback_address("sb-1")


@pytest.mark.parametrize("ports", [[8000, 8000], list(range(1, 18)), [0], [70_000]])
def test_ports_that_cannot_be_are_refused(cloud: Running, ports: list[int]) -> None:
    app = modal.App.lookup("tunnel-tests", create_if_missing=True)
    with pytest.raises(modal.exception.InvalidError):
        modal.Sandbox.create(app=app, timeout=60, encrypted_ports=ports)
