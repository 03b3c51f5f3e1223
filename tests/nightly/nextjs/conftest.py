"""The reference application as `next start` and as `next dev`."""

from collections.abc import Iterator
from typing import cast

import pytest

from tests.standard.nextjs.conftest import application, browser, endpoint
from tests.support.nextjs import Application, Mode, Server

__all__ = ["application", "browser", "endpoint"]


@pytest.fixture(scope="package", params=["start", "dev"])
def server(application: Application, request: pytest.FixtureRequest) -> Iterator[Server]:
    """One after the other: both keep what they have built in the same directory."""
    with application.started(cast("Mode", request.param)) as server:
        yield server
