"""What pytest finds: the plugin's options, its fixtures, and what it adds to the report of a test that fails.

Every run of pytest in an environment with this package imports this module, so what only a cloud needs is imported
where a fixture begins.
"""

import hashlib
import re
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from workbench.pytest_plugin import settings

if TYPE_CHECKING:
    import modal

    from workbench.cloud_control.controls import Clock, Faults
    from workbench.pytest_plugin.endpoints import Endpoints
    from workbench.pytest_plugin.session_cloud import ModalCloud

_SETTINGS = pytest.StashKey[settings.Settings]()
_LOG = pytest.StashKey[Path]()
_MAX_NAME = 50  # of a test in its app's name, which the SDK limits to 64 characters


def pytest_addoption(parser: pytest.Parser) -> None:
    """Tell pytest of the settings."""
    settings.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings: a wrong one is told before any test runs."""
    config.stash[_SETTINGS] = settings.read(config)


@pytest.fixture(scope="session")
def modal_cloud(request: pytest.FixtureRequest) -> Iterator["ModalCloud"]:
    """A local cloud for this session, or under xdist for this worker: a process of its own, with nothing in it.

    From here on, to the session's end, the `modal` package in this process and in its children uses it: no account, no
    token and no `~/.modal.toml` is needed. `modal_cloud.modal("run", "program.py")` runs the `modal` command,
    `modal_cloud.log` is the cloud's log.
    """
    from workbench.errors import WorkbenchError
    from workbench.pytest_plugin.session_cloud import own_users, session_cloud, worker

    chosen = request.config.stash[_SETTINGS]
    name, number, workers = worker()
    directory = chosen.log_dir or _kept(request)
    log = directory / f"modal-cloud{f'-{name}' if name else ''}.log"
    request.config.stash[_LOG] = log
    with ExitStack() as stack:
        try:
            cloud = stack.enter_context(
                session_cloud(
                    log,
                    install=chosen.install,
                    start_timeout_s=chosen.start_timeout_s,
                    say=print,
                    env=own_users(number, workers),
                )
            )
        except (WorkbenchError, OSError) as error:
            told = f"no local cloud for these tests: {error}"
            if chosen.unavailable == "skip":
                pytest.skip(told)
            pytest.fail(f"{told}\n(modal_unavailable = skip skips such tests where there is none)", pytrace=False)
        yield cloud


@pytest.fixture
def modal_app(modal_cloud: "ModalCloud", request: pytest.FixtureRequest) -> Iterator["modal.App"]:
    """An app of this test's own, deployed and empty, for sandboxes (`Sandbox.create(app=modal_app)`) and functions.

    It is stopped at the test's end, and with it what still runs in it.
    """
    import modal

    from workbench.pytest_plugin.endpoints import stop

    name = _app_name(request)
    yield modal.App(name).deploy()
    stop(name)


@pytest.fixture
def modal_endpoint(modal_cloud: "ModalCloud", request: pytest.FixtureRequest) -> Iterator["Endpoints"]:
    """Deploys an app for this test and opens an HTTP client for its web function: `modal_endpoint(app, "function")`.

    `modal_endpoint()` is this package's endpoint `/generate`. All are stopped at the test's end.
    """
    from workbench.pytest_plugin.endpoints import Endpoints

    endpoints = Endpoints(modal_cloud, _app_name(request))
    yield endpoints
    endpoints.close()


@pytest.fixture
def modal_faults(modal_cloud: "ModalCloud") -> Iterator["Faults"]:
    """Make the cloud fail by rules, which are gone at the test's end: `modal_faults.add(rpc=…, status=…, times=1)`.

    `workbench cloud fault add --help` has every field of a rule.
    """
    from workbench.cloud_control.controls import Faults

    faults = Faults(modal_cloud.control)
    yield faults
    faults.clear()


@pytest.fixture
def modal_clock(modal_cloud: "ModalCloud") -> "Clock":
    """The cloud's clock: `modal_clock.advance(3600)` lets timeouts, schedules and expiry happen now.

    It only goes forward, for the whole session: a test may rely on how far it moves it, not on where it stands. With
    `modal_clock.of("my-app")` a test moves the clock of one app alone.
    """
    from workbench.cloud_control.controls import Clock

    return Clock(modal_cloud.control)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say in the report of a test that fails, and has used the cloud, where the cloud's log is."""
    report = yield
    log = item.config.stash.get(_LOG, None)
    if report.failed and log is not None and "modal_cloud" in getattr(item, "fixturenames", ()):
        report.sections.append(("local cloud", f"its log, one JSON object a line: {log}"))
    return report


def _kept(request: pytest.FixtureRequest) -> Path:
    """Pytest's own temporary directory for this run, or for this worker of it."""
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    return factory.getbasetemp()


def _app_name(request: pytest.FixtureRequest) -> str:
    """A name for a test's app that says which test it is, and that no other test has."""
    words = re.sub(r"[^a-zA-Z0-9]+", "-", request.node.name).strip("-")[:_MAX_NAME].rstrip("-")
    return f"{words or 'test'}-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]}"
