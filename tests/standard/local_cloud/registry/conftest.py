"""Where layers are unpacked."""

from tests.support.unpacked import workspace

__all__ = ["workspace"]
