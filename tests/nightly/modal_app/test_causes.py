"""Causes of error codes: the whole matrix of those that have one."""

import httpx
import pytest

from tests.standard.modal_app.test_causes import HOGS, comes_too_late, short, uses_up_its_memory
from workbench import Project, Workbench

__all__ = ["short"]


@pytest.mark.parametrize("how", HOGS)
def test_a_job_that_uses_up_its_memory(wb: Workbench, http: httpx.Client, project: Project, how: str) -> None:
    uses_up_its_memory(wb, http, project, how)


@pytest.mark.parametrize("rpc", ["TaskExecStart", "TaskExecWait"])
def test_a_sandbox_that_comes_too_late_for_its_run(short: Workbench, project: Project, rpc: str) -> None:
    comes_too_late(short, project, rpc)
