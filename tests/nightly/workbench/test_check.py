"""The line of the checklist about rotation, at a sound endpoint and at one that accepts whatever it is shown."""

from pathlib import Path

import pytest

from tests.standard.workbench.test_check import rotated
from tests.support.edited_endpoint import edited_endpoint
from tests.support.switched_off import OFF
from workbench import Workbench

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize(("planted", "status"), [((), "ok"), (OFF["secret-compared"], "fail")], ids=["sound", "open"])
def test_a_rotation_is_measured(
    wb: Workbench, tmp_path: Path, planted: tuple[tuple[str, str, str], ...], status: str
) -> None:
    found = rotated(wb, edited_endpoint(tmp_path, planted))
    assert found.status == status, found
