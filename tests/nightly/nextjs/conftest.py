"""The reference application as `next start` and as `next dev`."""

from collections.abc import Iterator
from typing import cast

import pytest

from tests.standard.claude.endpoint.conftest import claude
from tests.standard.nextjs.conftest import application, browser, endpoint
from tests.support.claude.endpoint import Claude
from tests.support.nextjs import Application, Mode, Server

__all__ = ["application", "browser", "claude", "endpoint"]
WRONG = "a-wrong-secret-of-some-32-characters"


@pytest.fixture(scope="package", params=["start", "dev"])
def server(application: Application, claude: Claude, request: pytest.FixtureRequest) -> Iterator[Server]:
    """One after the other: both keep what they have built in the same directory.

    Behind them the browser starts, in whose thread nothing can be deployed: so the endpoint with a model stands before.
    """
    mode, _, wrong = request.param.partition(", ")
    with application.started(cast("Mode", mode), env={"WORKBENCH_SECRET": WRONG} if wrong else None) as server:
        yield server
