"""Where the local cloud differs from Modal: each test says what Modal does, and is expected to fail or to be refused.

A test that begins to pass fails the suite: its row in the document of differences is then out of date.
"""

import os
import re
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import modal
import modal.runner
import pytest

from tests.conftest import REACHABLE
from tests.support.commands import Cli
from tests.support.paths import APPS
from workbench.local_cloud.process.state_directory import Running

APP = APPS / "echo.py"
differs = pytest.mark.xfail(strict=True, raises=(AssertionError, modal.exception.Error, httpx.HTTPError))


@pytest.fixture(scope="module")
def app(cloud: Running) -> modal.App:
    return modal.App.lookup("differences", create_if_missing=True)


@pytest.fixture(scope="module")
def sandbox(app: modal.App) -> Iterator[modal.Sandbox]:
    sandbox = modal.Sandbox.create(app=app, timeout=300)
    yield sandbox
    sandbox.terminate(wait=True)


def said(sandbox: modal.Sandbox, *command: str) -> str:
    return str(sandbox.exec(*command).stdout.read()).strip()


# -- sandboxes --------------------------------------------------------------------------------------------------------


@differs
def test_the_kernel_is_gvisors(sandbox: modal.Sandbox) -> None:
    assert said(sandbox, "uname", "-r") == "4.4.0"


@differs
def test_a_directory_of_the_image_is_renamed_in_one_step(sandbox: modal.Sandbox) -> None:
    assert sandbox.exec("python3", "-c", "import os; os.rename('/usr/share/doc', '/usr/share/moved')").wait() == 0


@differs
def test_a_program_connects_without_a_proxy(sandbox: modal.Sandbox) -> None:
    """Here the only way out is the HTTP proxy that the environment names, which most tools follow."""
    with socket.create_server((REACHABLE, 0)) as server:
        code = f"import socket; socket.create_connection(('{REACHABLE}', {server.getsockname()[1]}), 5)"
        assert sandbox.exec("python3", "-c", code).wait() == 0


@differs
def test_the_certificate_of_a_tunnel_is_known_to_everybody(app: modal.App) -> None:
    sandbox = modal.Sandbox.create("python3", "-m", "http.server", "8000", app=app, encrypted_ports=[8000], timeout=120)
    try:
        httpx.get(sandbox.tunnels()[8000].url, trust_env=False, timeout=30)
    finally:
        sandbox.terminate(wait=True)


# -- functions --------------------------------------------------------------------------------------------------------


@differs
def test_a_web_function_has_an_https_address(modal_cli: Cli) -> None:
    modal_cli("secret", "create", "echo-secret", "WORD=hush", "--force")
    modal_cli("deploy", str(APP))
    assert str(modal.Function.from_name("echo", "web").get_web_url()).startswith("https://")


# -- what is refused by name ------------------------------------------------------------------------------------------


def refused(app: modal.App, match: str) -> None:
    """Loading the app's objects must be refused with these words."""
    with pytest.raises(modal.exception.Error, match=match), app.run():
        pass


def test_gpus_are_refused(app: modal.App) -> None:
    own = modal.App()
    own.function(gpu="T4", serialized=True)(lambda: None)
    refused(own, "GPUs are not available on the local cloud")
    with pytest.raises(modal.exception.Error, match="gpu"):
        modal.Sandbox.create(app=app, gpu="T4")


def test_servers_in_function_containers_are_refused(cloud: Running) -> None:
    own = modal.App()

    @own.function(serialized=True)
    @modal.web_server(8000)
    def serve() -> None: ...

    refused(own, "web_server is not implemented by the local cloud")


def test_bucket_mounts_are_refused(cloud: Running) -> None:
    own = modal.App()
    own.function(volumes={"/bucket": modal.CloudBucketMount("some-bucket")}, serialized=True)(lambda: None)
    refused(own, "CloudBucketMount is not implemented by the local cloud")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"experimental_options": {"never_heard_of": "1"}}, "experimental_options 'never_heard_of' is not implemented"),
        ({"i6pn": True}, "i6pn is not implemented"),
        ({"region": "nowhere"}, "Invalid region: nowhere"),
        ({"cloud": "none"}, "Invalid cloud provider: none"),
    ],
)
def test_options_of_a_function_that_are_not_done_are_refused(cloud: Running, options: Any, told: str) -> None:
    own = modal.App()
    own.function(serialized=True, **options)(lambda: None)
    refused(own, told)


def test_a_domain_of_one_s_own_is_refused(cloud: Running) -> None:
    own = modal.App()

    @own.function(serialized=True)
    @modal.fastapi_endpoint(custom_domains=["api.example.com"])
    def serve() -> None: ...

    refused(own, "custom_domains is not implemented by the local cloud")


def test_a_staged_deployment_is_refused(cloud: Running) -> None:
    own = modal.App("staged-tests")
    own.function(serialized=True)(lambda: None)
    with pytest.raises(modal.exception.Error, match="Staged deployments are not implemented by the local cloud"):
        modal.runner.deploy_app(own, staged=True)


def test_options_of_a_volume_are_refused(cloud: Running) -> None:
    with pytest.raises(modal.exception.Error, match="experimental_options 'fast' is not implemented"):
        modal.Volume.from_name(
            "optioned", create_if_missing=True, create_options={"experimental_options": {"fast": True}}
        ).hydrate()


def test_where_and_on_what_a_function_runs_has_no_effect(cloud: Running) -> None:
    own = modal.App()

    @own.function(serialized=True, region="us-east", cloud="aws", cpu=4, memory=64_000, enable_memory_snapshot=True)
    def answer() -> int:
        return 42

    with own.run():
        assert answer.remote() == 42


@differs
def test_a_function_has_an_identity_token(cloud: Running) -> None:
    own = modal.App()

    @own.function(serialized=True)
    def token() -> str | None:
        return os.environ.get("MODAL_IDENTITY_TOKEN")

    with own.run():
        assert token.remote()


def test_clustered_functions_are_refused(cloud: Running) -> None:
    own = modal.App()

    @own.function(serialized=True)
    @modal.clustered(size=2)
    def together() -> None: ...

    refused(own, "Clustered functions are not implemented by the local cloud")


def test_memory_snapshots_are_refused(sandbox: modal.Sandbox) -> None:
    with pytest.raises(modal.exception.Error, match="not implemented by the local cloud"):
        sandbox._experimental_snapshot()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("container", "exec", "TASK", "true"), "not implemented by the local cloud|not found"),
        (("nfs", "list"), "SharedVolumeList is not implemented"),
        (("workspace", "members", "list"), "WorkspaceMembersList is not implemented"),
        (("environment", "update", "main", "--set-web-suffix", "x"), "Web suffixes are not implemented"),
        (("function", "calls", "echo/web"), "is not implemented by the local cloud"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_commands_that_are_refused_say_so_by_name(modal_cli: Cli, command: tuple[str, ...], words: str) -> None:
    modal_cli("secret", "create", "echo-secret", "WORD=hush", "--force")
    modal_cli("deploy", str(APP))
    httpx.get(str(modal.Function.from_name("echo", "web").get_web_url()), timeout=60, trust_env=False)
    task = re.findall(r"ta-\w+", modal_cli("container", "list"))[0]
    answer = modal_cli(*(task if word == "TASK" else word for word in command), check=False)
    assert re.search(words, answer), answer
