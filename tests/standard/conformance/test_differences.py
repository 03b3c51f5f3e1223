"""Where the local cloud differs from Modal: each test says what Modal does, and is expected to fail or to be refused.

A test that begins to pass fails the suite: its row in the document of differences is then out of date.
"""

import datetime as dt
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
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

    @own.function(
        serialized=True,
        region="us-east",
        cloud="aws",
        cpu=4,
        memory=64_000,
        ephemeral_disk=600_000,
        enable_memory_snapshot=True,
    )
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


# What is not there, by the command that asks for it, and what the refusal tells instead.
INSTEAD = {
    ("app", "stats", "echo"): "AppGetTimeRangeStats is not implemented .* keeps no statistics.*modal function calls",
    ("function", "stats", "echo/web"): "FunctionGetTimeRangeStats is not implemented .* keeps no statistics",
    ("function", "metrics", "echo/web"): "MetricsGetInfo is not implemented .* collects no metrics",
    ("endpoint", "list"): "EndpointList is not implemented .* runs no models",
    ("dashboard",): "WorkspaceDashboardUrlGet is not implemented .* has no web page",
    ("curl", "https://web.us-west.modal.direct"): "CurlGetAuthToken is not implemented .*Run `curl` itself",
    ("environment", "roles", "list", "main"): "EnvironmentGetRoles is not implemented .*may do everything",
    ("token", "new"): "TokenFlowCreate is not implemented .*workbench cloud env",
    ("token", "rotate"): "TokenFlowCreate is not implemented .*workbench cloud env",
    ("setup",): "TokenFlowCreate is not implemented .*workbench cloud env",
}


@pytest.fixture(scope="module")
def echo(modal_cli: Cli) -> None:
    """An app that commands can name."""
    modal_cli("secret", "create", "echo-secret", "WORD=hush", "--force")
    modal_cli("deploy", str(APP))


@pytest.mark.parametrize("command", INSTEAD, ids=" ".join)
def test_a_command_that_is_refused_says_what_to_do_instead(
    modal_cli: Cli, echo: None, command: tuple[str, ...]
) -> None:
    answer = modal_cli(*command, check=False)
    assert re.search(INSTEAD[command], " ".join(answer.split())), answer


def test_methods_that_are_refused_say_what_to_do_instead(app: modal.App, echo: None) -> None:
    web = modal.Function.from_name("echo", "web")
    since = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    for ask in (web.stats, app.stats, lambda since: list(app.sandboxes.stats(since=since))):
        with pytest.raises(modal.exception.Error, match="keeps no statistics"):
            ask(since=since)
    with pytest.raises(modal.exception.Error, match="may do everything"):
        modal.Environment.from_name("main").roles.list()


def test_a_function_that_wants_a_terminal_is_refused(modal_cli: Cli, tmp_path: Path) -> None:
    program = tmp_path / "interactive.py"
    program.write_text("import modal\napp = modal.App()\n@app.function()\ndef ask():\n    modal.interact()\n")
    answer = modal_cli("run", "-i", f"{program}::ask", check=False)
    assert "FunctionStartPtyShell is not implemented" in answer
    assert "`exec(…, pty=True)` has one" in answer


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("container", "exec", "TASK", "true"), "not implemented by the local cloud|not found"),
        (("nfs", "list"), "SharedVolumeList is not implemented"),
        (("workspace", "members", "list"), "WorkspaceMembersList is not implemented"),
        (("environment", "update", "main", "--set-web-suffix", "x"), "Web suffixes are not implemented"),
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
