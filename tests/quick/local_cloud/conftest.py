"""What tests of several rooms of the local cloud need."""

import pytest

from workbench.local_cloud.volumes import overlay_mounts


@pytest.fixture(scope="session")
def without_overlay() -> str:
    """Why this process cannot mount overlays, "" if it can. It has mounts of its own from now on."""
    return overlay_mounts.take_private_mounts()
