"""A soak that another program ends."""

import signal

from tests.standard.soak.test_streams import leaves_no_cloud
from workbench.local_cloud.process.state_directory import State


def test_a_soak_that_is_ended_leaves_no_cloud(own_state: State) -> None:
    leaves_no_cloud(own_state, signal.SIGTERM)
