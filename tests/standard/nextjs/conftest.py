"""The reference application, built and started for real, with a browser before it and an endpoint behind it."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.conftest import FAST, deployed
from tests.support import nextjs
from tests.support.chromium import chromium
from tests.support.docs import nextjs as page
from tests.support.nextjs import Application, Server
from workbench import Workbench
from workbench.local_cloud.process.state_directory import Running

APP = "nextjs-tests"
GRACE_S = 4  # a page that is loaded again is back before, and a tab that was closed is soon known to be
SETTINGS = FAST | {"WORKBENCH_TIMEOUT_DISCONNECT_GRACE_S": str(GRACE_S)}


@pytest.fixture(scope="package")
def endpoint(cloud: Running) -> Iterator[Workbench]:
    """The endpoint that the application calls."""
    with deployed(APP, SETTINGS) as workbench:
        yield workbench


@pytest.fixture(scope="package")
def application(endpoint: Workbench) -> Iterator[Application]:
    with nextjs.application(APP) as installed:
        installed.build(beside=page.code())
        yield installed


@pytest.fixture(scope="package")
def server(application: Application) -> Iterator[Server]:
    with application.started() as server:
        yield server


@pytest.fixture(scope="package")
def browser(server: Server) -> Iterator[Browser]:
    """The last fixture: while its driver runs, this thread has a running event loop, which no deployment may have."""
    with chromium() as browser:
        yield browser
