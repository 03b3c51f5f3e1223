"""Hardenings for the model's modes, switched off one by one: exactly the modes that each serves are not kept."""

from pathlib import Path

import pytest

from tests.support.hardened_side import MODEL_MODES, OF_THE_MODEL, are_exactly_its_modes
from workbench import Workbench
from workbench.deployment.model_backing import WITHOUT_CLAUDE_VARIABLE


@pytest.mark.timeout(900)
@pytest.mark.parametrize("hardening", OF_THE_MODEL)
def test_without_it_exactly_its_modes_are_not_kept(
    wb: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hardening: str
) -> None:
    monkeypatch.delenv(WITHOUT_CLAUDE_VARIABLE)
    are_exactly_its_modes(wb, tmp_path, hardening, MODEL_MODES)
