"""What tests of several rooms of the local cloud need."""

from tests.support.sandboxes import without_overlay

__all__ = ["without_overlay"]
