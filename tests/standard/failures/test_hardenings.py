"""A hardening that is switched off is missed by the modes that it serves, and by no other."""

from pathlib import Path

import pytest

from tests.support.hardened_side import broken_without
from workbench import Workbench
from workbench.failures.hardenings import HARDENINGS

# `workbench test --all` has every hardening, each with every mode.
SOME = {
    "end-told-last": {"path-traversal", "dies-mid-run", "another-tenants-run"},
    "ids-checked": {"commit-fails", "two-writers", "create-fails"},
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("hardening", SOME)
def test_without_it_its_modes_are_not_kept_and_others_are(wb: Workbench, tmp_path: Path, hardening: str) -> None:
    serves = HARDENINGS[hardening].serves
    broken = broken_without(wb, tmp_path, hardening, sorted(serves | SOME[hardening]))
    assert set(broken) == serves, broken
