"""What the tests of Claude jobs share: one endpoint for all of them."""

from collections.abc import Iterator

import pytest

from tests.support.claude.endpoint import Claude, endpoint
from workbench.local_cloud.process.state_directory import Running


@pytest.fixture(scope="package")
def claude(cloud: Running) -> Iterator[Claude]:
    """The endpoint with the Claude CLI and a scripted model."""
    with endpoint() as deployed:
        yield deployed
