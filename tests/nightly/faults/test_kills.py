"""Ends that come less often than those that are tested before a commit."""

import signal

import pytest

from tests.standard.faults.test_kills import ends_and_leaves_nothing
from workbench import Project, Workbench
from workbench.local_cloud.process.state_directory import State

pytestmark = pytest.mark.timeout(180)


def test_a_cloud_that_is_told_to_end_under_a_run_leaves_nothing(
    wb: Workbench, own_state: State, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_and_leaves_nothing(wb, own_state, project, monkeypatch, signal.SIGTERM)
