"""The one way from a sandbox to this machine: to web functions that its allowlist names, whatever the sandbox says."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import httpx
import modal
import pytest
from modal.exception import InvalidError
from modal_proto import api_pb2, api_pb2_grpc

from tests.conftest import REACHABLE, wait_until
from tests.support.commands import Cli
from workbench.local_cloud.process.state_directory import Running
from workbench.local_cloud.sandboxes.network.web_function_access import WebFunctionAccess

APP = """
import modal

app = modal.App("web-ways")


async def say(send, status, body, *headers):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


@app.function()
@modal.asgi_app()
def allowed():
    async def web(scope, receive, send):
        if scope["path"] == "/away":
            await say(send, 302, b"", (b"location", scope["query_string"]))
        else:
            await say(send, 200, b"allowed")

    return web


@app.function()
@modal.asgi_app()
def other():
    async def web(scope, receive, send):
        await say(send, 200, b"other")

    return web
"""
# Tries each URL as it is and through the proxy that the environment names; says what came.
TRY = """
import json, os, sys, urllib.request
found = {}
for url in sys.argv[1:]:
    for way, proxies in (("straight", {}), ("proxy", {"http": os.environ["HTTP_PROXY"]})):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ""
        try:
            found[f"{way} {url}"] = opener.open(url, timeout=10).read().decode()
        except OSError as error:
            found[f"{way} {url}"] = None
print(json.dumps(found))
"""


def deploy(modal_cli: Cli, directory: Path, name: str) -> tuple[str, str]:
    """Deploy the two functions as an app of this name; returns their addresses."""
    path = directory / "ways.py"
    path.write_text(APP.replace("web-ways", name))
    modal_cli("deploy", str(path))
    one, other = (str(modal.Function.from_name(name, each).get_web_url()) for each in ("allowed", "other"))
    for url in (one, other):  # their containers are up before anybody waits for a few seconds only
        assert httpx.get(url, timeout=60, trust_env=False).status_code == 200
    return one, other


@pytest.fixture(scope="module")
def urls(modal_cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The addresses of the function that sandboxes may reach, and of the other one."""
    yield deploy(modal_cli, tmp_path_factory.mktemp("app"), "web-ways")
    modal_cli("app", "stop", "web-ways", "--yes")


@contextmanager
def allowed(url: str) -> Iterator[modal.Sandbox]:
    """A sandbox that may reach a function."""
    app = modal.App.lookup("web-ways-sandboxes", create_if_missing=True)
    sandbox = modal.Sandbox.create(app=app, timeout=120, outbound_domain_allowlist=[urlsplit(url).netloc])
    yield sandbox
    sandbox.terminate(wait=True)


@pytest.fixture
def sandbox(urls: tuple[str, str]) -> Iterator[modal.Sandbox]:
    """A sandbox that may reach the first function."""
    with allowed(urls[0]) as one:
        yield one


def tried(sandbox: modal.Sandbox, *urls: str) -> dict[str, str | None]:
    found: dict[str, str | None] = json.loads(sandbox.exec("python3", "-c", TRY, *urls).stdout.read())
    return found


def test_a_web_function_on_the_allowlist_is_reached_at_its_own_address(
    sandbox: modal.Sandbox, urls: tuple[str, str]
) -> None:
    assert tried(sandbox, urls[0])[f"straight {urls[0]}"] == "allowed"


def test_nothing_else_of_this_machine_is_reached(sandbox: modal.Sandbox, urls: tuple[str, str], cloud: Running) -> None:
    """Neither another function nor the cloud itself, under no name, straight or through the proxy, by no redirect."""
    ports = [urlsplit(url).port for url in (urls[1], cloud.url, cloud.http_url)]
    own = urlsplit(urls[0]).port
    with socket.create_server(("127.0.0.1", 0)) as server:
        ports.append(server.getsockname()[1])
        targets = [f"http://127.0.0.1:{port}/" for port in ports]
        targets += [f"http://{name}:{ports[0]}/" for name in ("localhost", "0x7f.1", "[::1]", "0.0.0.0", REACHABLE)]
        targets += [f"http://{name}:{own}/" for name in (REACHABLE, "127.0.0.3")]
        targets += [f"{urls[0]}/away?{target}" for target in targets[:4]]
        assert {target: what for target, what in tried(sandbox, *targets).items() if what is not None} == {}
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_sandbox_without_it_on_its_list_has_no_way_to_it(urls: tuple[str, str]) -> None:
    app = modal.App.lookup("web-ways-sandboxes", create_if_missing=True)
    for network in ({}, {"block_network": True}, {"outbound_domain_allowlist": ["*"]}):
        sandbox = modal.Sandbox.create(app=app, timeout=120, **network)  # type: ignore[arg-type]  # one of these
        try:
            assert set(tried(sandbox, urls[0]).values()) == {None}
        finally:
            sandbox.terminate(wait=True)


def test_a_port_that_is_no_web_functions_is_refused_by_name(urls: tuple[str, str], cloud: Running) -> None:
    app = modal.App.lookup("web-ways-sandboxes", create_if_missing=True)
    for address in ("127.0.0.1:1", "127.0.0.1:70000", urlsplit(cloud.http_url).netloc, urlsplit(cloud.url).netloc):
        with pytest.raises(InvalidError, match=f"{address} is not the address of a web function"):
            modal.Sandbox.create(app=app, timeout=60, outbound_domain_allowlist=[address])
    port = urlsplit(urls[0]).port
    for address in (f"127.0.0.2:{port}", f"localhost:{port}", f"127.0.0.1:0{port}", "127.0.0.1"):
        with pytest.raises(InvalidError, match="Invalid domain: "):
            modal.Sandbox.create(app=app, timeout=60, outbound_domain_allowlist=[address])


def test_a_list_that_is_replaced_closes_the_way_and_opens_no_other(
    sandbox: modal.Sandbox, urls: tuple[str, str]
) -> None:
    with pytest.raises(InvalidError, match="when the sandbox is created"):
        sandbox._experimental_set_outbound_network_policy(outbound_domain_allowlist=[urlsplit(urls[1]).netloc])
    assert "allowed" in tried(sandbox, urls[0]).values()
    sandbox._experimental_set_outbound_network_policy(outbound_cidr_allowlist=[], outbound_domain_allowlist=[])
    assert set(tried(sandbox, urls[0]).values()) == {None}


def test_the_way_ends_with_its_function(modal_cli: Cli, tmp_path: Path) -> None:
    """Whoever has the port afterwards is not reached."""
    url, _ = deploy(modal_cli, tmp_path, "web-ways-that-end")
    with allowed(url) as sandbox:
        assert "allowed" in tried(sandbox, url).values()
        modal_cli("app", "stop", "web-ways-that-end", "--yes")
        wait_until(lambda: set(tried(sandbox, url).values()) == {None}, "the function's port is closed")


def test_an_answered_request_leaves_no_call_behind(urls: tuple[str, str], cloud: Running) -> None:
    """Its answer is read once, and nobody has the call's id: thousands would only fill the memory."""
    assert httpx.post(urls[0], content=b"x" * 1_000_000, timeout=60, trust_env=False).text == "allowed"
    function = modal.Function.from_name("web-ways", "allowed").hydrate()
    request = api_pb2.FunctionCallListRequest(function_id=function.object_id)
    shown = (
        ("x-modal-token-id", cloud.token_id),
        ("x-modal-token-secret", cloud.token_secret),
        ("x-modal-client-version", modal.__version__),
    )
    with grpc.insecure_channel(cloud.url.removeprefix("http://")) as channel:
        stub = api_pb2_grpc.ModalClientStub(channel)
        wait_until(
            lambda: not stub.FunctionCallList(request, metadata=shown, timeout=30).function_calls, "calls are kept"
        )


@asynccontextmanager
async def far_side() -> AsyncIterator[int]:
    """A server that says back what it hears."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_a_connection_is_cut_when_its_port_is_no_longer_allowed() -> None:
    serving, refused = True, list[str]()
    ways = WebFunctionAccess(lambda port: serving, on_refused=lambda host, port, reason: refused.append(reason))
    async with far_side() as port:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        address = listener.getsockname()
        ways.open(port, listener)
        try:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            ways.allow([])
            async with asyncio.timeout(10):
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await reader.readexactly(1)
            writer.close()
            ways.allow([port])
            serving = False
            reader, writer = await asyncio.open_connection(*address)
            assert await reader.read() == b""
            writer.close()
            assert len(refused) == 1
        finally:
            await ways.aclose()
