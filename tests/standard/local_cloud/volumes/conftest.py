"""A volume service on a temporary directory, as the quick tests have it."""

from tests.quick.local_cloud.volumes.conftest import database, overlay, service
from tests.support.sandboxes import without_overlay

__all__ = ["database", "overlay", "service", "without_overlay"]
