"""Every failure mode that can be brought about."""

import pytest

from tests.standard.failures.test_lab import CHOSEN, is_shown
from workbench import Workbench
from workbench.failures.experiments import EXPERIMENTS


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in CHOSEN])
def test_a_mode_happens_to_the_obvious_endpoint_and_not_to_ours(wb: Workbench, name: str) -> None:
    is_shown(wb.failures, name)
