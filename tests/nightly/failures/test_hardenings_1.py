"""Hardenings, switched off one by one: exactly the modes that each serves are not kept. Here is a third of them."""

from pathlib import Path

import pytest

from tests.support.hardened_side import MODES, OF_THE_MODEL, are_exactly_its_modes
from workbench import Workbench
from workbench.failures.hardenings import HARDENINGS


@pytest.mark.timeout(600)
@pytest.mark.parametrize("hardening", [name for name in HARDENINGS if name not in OF_THE_MODEL][0::3])
def test_without_it_exactly_its_modes_are_not_kept(wb: Workbench, tmp_path: Path, hardening: str) -> None:
    are_exactly_its_modes(wb, tmp_path, hardening, MODES)
