"""What tests of several rooms of the local cloud need."""

import pytest

from workbench.local_cloud.process.private_mounts import take_private_mounts


@pytest.fixture(scope="session")
def without_overlay(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Why this process cannot mount overlays, "" if it can. It has mounts of its own from now on."""
    return take_private_mounts(tmp_path_factory.mktemp("maps"))
