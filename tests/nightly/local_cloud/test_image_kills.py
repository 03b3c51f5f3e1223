"""A cloud that is killed while it builds: at more instants than before a commit."""

import random
from pathlib import Path

import pytest

from tests.standard.local_cloud.images.test_kills import endless, leaves_no_build
from workbench.local_cloud.process.state_directory import State

__all__ = ["endless"]


@pytest.mark.timeout(300)
def test_at_no_instant_does_a_killed_cloud_leave_a_build(own_state: State, endless: Path) -> None:
    leaves_no_build(own_state, endless, random.Random(2203), kills=12)
