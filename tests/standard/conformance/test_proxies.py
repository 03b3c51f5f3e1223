"""A program that names a proxy runs here as it is; what leaves it leaves as always."""

from collections.abc import Iterator
from typing import Any

import grpc
import modal
import pytest
from google.protobuf import empty_pb2
from modal.exception import InvalidError, NotFoundError
from modal_proto import api_pb2, api_pb2_grpc

from tests.support.commands import Cli
from workbench.local_cloud.process.state_directory import Running

PROGRAM = """
import os

import modal

app = modal.App("proxied", image=modal.Image.debian_slim())
fixed = modal.Proxy.from_name("fixed-address")
store = modal.Volume.from_name("proxied", create_if_missing=True)


@app.function(proxy=fixed, volumes={"/store": store})
def leave(word: str) -> str:
    return f"{word} by {fixed.object_id[:3]}"


@app.cls(proxy=fixed)
class Leaver:
    @modal.method()
    def leave(self, word: str) -> str:
        return f"{word} by a class"


@app.local_entrypoint()
def main() -> None:
    print(leave.remote("out"), "and", Leaver().leave.remote("out"))
    sandbox = modal.Sandbox.create("cat", app=app, proxy=fixed, timeout=60)
    try:
        sandbox.stdin.write("by a sandbox")
        sandbox.stdin.write_eof()
        sandbox.stdin.drain()
        print(sandbox.stdout.read())
    finally:
        sandbox.terminate()
"""


@pytest.fixture(scope="module")
def app(cloud: Running) -> modal.App:
    return modal.App.lookup("proxies", create_if_missing=True)


@pytest.fixture
def calls(cloud: Running) -> Iterator[Any]:
    """Any call of the protocol, for those that the SDK has no name for."""
    shown = (
        ("x-modal-token-id", cloud.token_id),
        ("x-modal-token-secret", cloud.token_secret),
        ("x-modal-client-version", modal.__version__),
    )
    with grpc.insecure_channel(cloud.url.removeprefix("http://")) as channel:
        stub = api_pb2_grpc.ModalClientStub(channel)
        yield lambda name, request: getattr(stub, name)(request, metadata=shown, timeout=30)


def test_a_program_that_names_a_proxy_runs(modal_cli: Cli, tmp_path: Any) -> None:
    """A function, a class and a sandbox, with the proxy as one of the function's objects in its container."""
    program = tmp_path / "proxied.py"
    program.write_text(PROGRAM)
    printed = modal_cli("run", str(program))
    assert "out by pr- and out by a class" in printed
    assert "by a sandbox" in printed


def test_a_proxy_is_the_same_wherever_it_is_named_and_another_elsewhere(modal_cli: Cli, calls: Any) -> None:
    def named(name: str, environment: str = "") -> str:
        request = api_pb2.ProxyGetRequest(name=name, environment_name=environment)
        return str(calls("ProxyGet", request).proxy.proxy_id)

    assert named("one") == named("one", "main") != named("two")
    modal_cli("environment", "create", "proxied")
    try:
        assert named("one", "proxied") != named("one")
    finally:
        modal_cli("environment", "delete", "proxied", "--yes")  # naming one leaves nothing in an environment


def test_a_proxy_takes_nothing_of_a_sandbox_s_limits_away(app: modal.App) -> None:
    """A blocked network stays blocked, and an allowlist stays one."""
    for options in ({"block_network": True}, {"outbound_cidr_allowlist": ["10.0.0.0/8"]}):
        sandbox = modal.Sandbox.create(app=app, proxy=modal.Proxy.from_name("one"), timeout=60, **options)
        try:
            code = "import urllib.request; urllib.request.urlopen('http://192.0.2.1/', timeout=5)"
            assert sandbox.exec("python3", "-c", code).wait() != 0
        finally:
            sandbox.terminate()


@pytest.mark.parametrize(
    ("name", "environment", "told"),
    [
        ("no name", None, "Invalid proxy name 'no name'"),
        ("", None, "Invalid proxy name ''"),
        ("x" * 65, None, "Invalid proxy name"),
        ("one", "nowhere", "Environment 'nowhere' not found"),
    ],
)
def test_a_bad_name_is_told(app: modal.App, name: str, environment: str | None, told: str) -> None:
    with pytest.raises((InvalidError, NotFoundError), match=told):
        modal.Sandbox.create(app=app, proxy=modal.Proxy.from_name(name, environment_name=environment), timeout=60)


@pytest.mark.parametrize("proxy_id", ["pr-", "pr-made-up", "vo-0123456789012345678901"])
def test_an_id_of_no_proxy_is_not_found(app: modal.App, calls: Any, proxy_id: str) -> None:
    definition = api_pb2.Sandbox(proxy_id=proxy_id, timeout_secs=10)
    with pytest.raises(grpc.RpcError, match=f"Proxy {proxy_id} not found"):
        calls("SandboxCreateV2", api_pb2.SandboxCreateV2Request(app_id=app.app_id, definition=definition))


def test_a_proxy_cannot_be_made_here(calls: Any) -> None:
    for name in ("ProxyCreate", "ProxyDelete", "ProxyList", "ProxyAddIp"):
        request = empty_pb2.Empty() if name == "ProxyList" else getattr(api_pb2, f"{name}Request")()
        with pytest.raises(grpc.RpcError, match=f"{name} is not implemented by the local cloud"):
            calls(name, request)


@pytest.mark.xfail(strict=True, raises=AssertionError)
def test_traffic_leaves_from_the_address_of_a_proxy(calls: Any) -> None:
    """On Modal a proxy has addresses of its own; here it has none."""
    assert calls("ProxyGet", api_pb2.ProxyGetRequest(name="one")).proxy.proxy_ips
