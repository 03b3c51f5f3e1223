"""A hardening that is switched off is missed by the modes that it serves, and by no other."""

from pathlib import Path

import pytest

from tests.support.hardened_side import are_exactly_its_modes
from workbench import Workbench
from workbench.deployment.model_backing import WITHOUT_CLAUDE_VARIABLE
from workbench.failures.hardenings import HARDENINGS

# `workbench test --all` has every hardening, each with every mode.
SOME = {
    "ids-checked": {"commit-fails", "commit-acknowledged-and-lost", "create-fails"},
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("hardening", SOME)
def test_without_it_its_modes_are_not_kept_and_others_are(wb: Workbench, tmp_path: Path, hardening: str) -> None:
    are_exactly_its_modes(wb, tmp_path, hardening, sorted(HARDENINGS[hardening].serves | SOME[hardening]))


@pytest.mark.timeout(240)
def test_without_one_of_the_model_its_modes_are_not_kept_and_others_are(
    wb: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WITHOUT_CLAUDE_VARIABLE)
    are_exactly_its_modes(wb, tmp_path, "denials-seen", ["permission-denied", "tool-json-invalid"])
