"""Damaged databases of every kind."""

import pytest

from tests.standard.local_cloud.test_process import is_moved_aside_and_named
from workbench.local_cloud.process.state_directory import State


@pytest.mark.parametrize("damaged", [b"", b"not a database, " * 1000], ids=["empty", "garbage"])
def test_a_damaged_database_is_moved_aside_and_named(own_state: State, damaged: bytes | None) -> None:
    is_moved_aside_and_named(own_state, damaged)
