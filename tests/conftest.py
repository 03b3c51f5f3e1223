"""What all tests share: one real local cloud for the session, and proof that nothing is left behind."""

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import modal
import psutil
import pytest
from hypothesis import HealthCheck, settings

from tests.support import warm
from tests.support.commands import PLAIN, Cli
from tests.support.places import free_port
from tests.support.processes import naming
from workbench import Project, Workbench, connect
from workbench.deployment import modal_command
from workbench.deployment.model_backing import UPSTREAM_KEY_VARIABLE, WITHOUT_CLAUDE_VARIABLE
from workbench.local_cloud.__main__ import TEST_NETWORKS_VARIABLE
from workbench.local_cloud.process import daemon
from workbench.local_cloud.process.state_directory import OWNER_VARIABLE, STATE_VARIABLE, Running, State
from workbench.machine.environment import environment

pytest_plugins = ["tests.support.order", "tests.support.places", "tests.support.progress"]
# How fast a machine is that other things keep busy is nobody's promise.
settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")
REACHABLE = "127.0.0.2"  # the one address nearby that sandboxes of the tests' cloud may reach, when they may at all


def descendants() -> dict[int, str]:
    """Every live process below this one but the warm interpreters themselves: pid to command line."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.pid not in warm.server_pids():
                found[process.pid] = " ".join(process.cmdline())[:200]
        except psutil.NoSuchProcess:
            continue
    return found


def _temporary() -> set[Path]:
    """Whatever of ours is in the system's temporary directory."""
    return set(Path(tempfile.gettempdir()).glob("workbench-*"))


def processes_of(state: State) -> list[str]:
    """The command lines of every process that has to do with a state directory."""
    return naming(str(state.root))


def pytest_sessionstart() -> None:
    """Make an end by signal an end like any other: fixtures must stop what they have started."""
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=143))


@pytest.fixture(autouse=True, scope="session")
def _nothing_is_left() -> Iterator[None]:
    """No process and no directory of ours outlives the session, whoever made it."""
    before = descendants()
    directories = _temporary()
    with environment({OWNER_VARIABLE: str(os.getpid())}):  # a session that is killed has nobody to stop its clouds
        yield
    warm.close()
    assert _temporary() - directories == set()
    _, alive = psutil.wait_procs(
        [process for process in psutil.Process().children(recursive=True) if process.pid not in before], timeout=10
    )
    assert [" ".join(process.cmdline()) for process in alive] == []


@pytest.fixture(autouse=True, scope="session")
def _warm_modal_commands() -> Iterator[None]:
    """Where the product starts the stock `modal` command, it starts a warm one."""
    cold = modal_command._command

    def command(arguments: Sequence[str]) -> list[str]:
        return warm.in_place_of("-m", "modal", *arguments, env={**os.environ, **PLAIN}) or cold(arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modal_command, "_command", command)
        yield


@pytest.fixture(autouse=True, scope="session")
def _without_claude() -> Iterator[None]:
    """Deploy without the Claude CLI, whose image takes a while and a registry; who needs it deploys with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WITHOUT_CLAUDE_VARIABLE, "1")
        patch.delenv(UPSTREAM_KEY_VARIABLE, raising=False)  # a developer's own: no test spends it unless it says so
        yield


@pytest.fixture(scope="session")
def state() -> Iterator[State]:
    """An empty state directory that sandboxes' users can pass through."""
    root = Path(tempfile.mkdtemp(prefix="workbench-test-"))
    root.chmod(0o711)
    own = State(root / "state")
    own.create()
    own.remember_port(free_port())
    os.environ[STATE_VARIABLE] = str(own.root)
    os.environ[TEST_NETWORKS_VARIABLE] = f"{REACHABLE}/32"
    yield own
    del os.environ[STATE_VARIABLE], os.environ[TEST_NETWORKS_VARIABLE]
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def cloud(state: State) -> Iterator[Running]:
    """One local cloud as its users have it: a process of its own. The SDK of this process talks to it."""
    running, started = daemon.start(state)
    assert started
    with environment(running.env()):
        yield running
    assert daemon.stop(state)
    assert list((state.root / "run").iterdir()) == [], daemon.tail(state.log)
    assert processes_of(state) == []


@pytest.fixture
def own_state() -> Iterator[State]:
    """A state directory of a test's own, whose cloud it may stop and kill."""
    root = Path(tempfile.mkdtemp(prefix="workbench-own-"))
    root.chmod(0o711)
    own = State(root / "state")
    yield own
    daemon.stop(own)
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def modal_cli(cloud: Running) -> Cli:
    """The stock `modal` command."""
    return Cli(cloud.env())


# Short, so that what waits for them need not wait long. The app reads them when it is deployed.
FAST = {
    "WORKBENCH_TIMEOUT_LEASE_S": "6",
    "WORKBENCH_TIMEOUT_HEARTBEAT_S": "0.5",
    "WORKBENCH_TIMEOUT_DISCONNECT_GRACE_S": "0.5",
    "WORKBENCH_TIMEOUT_SWEEP_MARGIN_S": "10",
    "WORKBENCH_TIMEOUT_SWEEP_S": "50",  # its container is still there for the next: they go after 60 s
}


def stop_apps(*names: str) -> None:
    """Stop apps that are deployed: what nobody tests any more would sweep, beat and be watched to the session's end."""
    modal_cli = Cli({})
    for one in json.loads(modal_cli("app", "list", "--json")):
        if one["description"] in names and one["state"] == "deployed":
            modal_cli("app", "stop", one["description"], "--yes")


@contextmanager
def deployed(app_name: str, settings: Mapping[str, str]) -> Iterator[Workbench]:
    """A workbench with the endpoint deployed to the tests' cloud as an app of its own, with these settings."""
    with connect("local", app_name=app_name) as workbench:
        with pytest.MonkeyPatch.context() as patch:  # ends with the deployment: others deploy meanwhile
            for name, value in settings.items():
                patch.setenv(name, value)
            workbench.deploy()
        yield workbench
    stop_apps(app_name)


@contextmanager
def caller(wb: Workbench, **how: Any) -> Iterator[httpx.Client]:
    """An endpoint as any HTTP client sees it, with the secret shown; `how` is as for `httpx.Client`."""
    headers = {"X-Modal-Secret": wb.endpoint.secret.get_secret_value()}
    with httpx.Client(base_url=wb.endpoint.url, headers=headers, trust_env=False, **{"timeout": 60, **how}) as client:
        yield client


@pytest.fixture(scope="session")
def wb(cloud: Running) -> Iterator[Workbench]:
    """The endpoint, with short timeouts."""
    with deployed("endpoint-tests", FAST) as workbench:
        yield workbench


@pytest.fixture
def project() -> Project:
    """A project that nobody has used."""
    return Project.new()


@pytest.fixture(scope="session")
def http(wb: Workbench) -> Iterator[httpx.Client]:
    """The endpoint as any HTTP client sees it, with the secret shown."""
    with caller(wb) as client:
        yield client


def live_sandboxes(app_name: str = "endpoint-tests") -> list[str]:
    """The ids of an app's sandboxes that have not ended."""
    app = modal.App.lookup(app_name)
    return [sandbox.object_id for sandbox in modal.Sandbox.list(app_id=app.app_id)]


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    """Return when a condition holds; fail with its description when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
