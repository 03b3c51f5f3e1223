"""Every hardening, switched off: exactly the modes that it serves are not kept."""

from pathlib import Path

import pytest

from tests.support.hardened_side import MODES, broken_alone, broken_without
from workbench import Workbench
from workbench.failures.hardenings import HARDENINGS


@pytest.mark.timeout(600)
@pytest.mark.parametrize("hardening", HARDENINGS)
def test_without_it_exactly_its_modes_are_not_kept(wb: Workbench, tmp_path: Path, hardening: str) -> None:
    serves = HARDENINGS[hardening].serves & set(MODES)
    broken = set(broken_without(wb, tmp_path / "all", hardening, MODES))
    for name in broken ^ serves:  # many at once make a small machine late: what is not as expected is looked at alone
        (broken.add if broken_alone(wb, tmp_path / name, hardening, name) else broken.discard)(name)
    assert broken == serves
