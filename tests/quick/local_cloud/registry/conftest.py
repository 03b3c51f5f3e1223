"""Where layers are unpacked, and registries that have images."""

from tests.support.unpacked import workspace

__all__ = ["workspace"]
