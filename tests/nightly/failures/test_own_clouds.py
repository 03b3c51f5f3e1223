"""A cloud of a mode's own that is left while it starts: at another moment."""

from pathlib import Path

import pytest

from tests.standard.failures.test_own_clouds import is_waited_for, shared

__all__ = ["shared"]
pytestmark = pytest.mark.timeout(180)


def test_a_cloud_that_just_starts_is_waited_for(shared: Path) -> None:
    is_waited_for(shared, "cloud.sqlite")
