"""Every failure mode that can be brought about."""

import pytest

from tests.standard.failures.test_lab import CHOSEN, is_shown
from workbench import Workbench
from workbench.deployment.model_backing import WITHOUT_CLAUDE_VARIABLE
from workbench.failures.experiments import EXPERIMENTS


@pytest.fixture(autouse=True)
def _with_claude(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modes of the model happen to jobs of the Claude CLI."""
    monkeypatch.delenv(WITHOUT_CLAUDE_VARIABLE)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in CHOSEN])
def test_a_mode_happens_to_the_obvious_endpoint_and_not_to_ours(wb: Workbench, name: str) -> None:
    is_shown(wb.failures, name)


@pytest.mark.timeout(180)
def test_a_slow_commit_spares_nobody(wb: Workbench) -> None:
    with wb.faults.injected(at="commit", app="failure-lab-naive", delay_s=3):
        is_shown(wb.failures, "path-traversal")
