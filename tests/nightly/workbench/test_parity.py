"""The suite on two local clouds: the rows that are not compared before a commit."""

from pathlib import Path

import pytest

from tests.standard.workbench.test_parity import show_the_same

OTHERS = (
    "functions/map-and-exceptions",
    "classes/enter-runs-once",
    "sandboxes/signals",
    "sandboxes/plain-tunnels",
    "objects/queue-in-functions",
)


@pytest.mark.timeout(400)
def test_two_local_clouds_of_different_settings_show_the_same(tmp_path: Path) -> None:
    show_the_same(OTHERS, tmp_path, areas=4)
