"""The stock JavaScript SDK by the older family of its calls."""

from pathlib import Path

from tests.standard.javascript.conftest import NODE
from tests.standard.javascript.test_javascript import run
from tests.support.paths import APPS
from workbench.local_cloud.process.state_directory import Running

CALLS = APPS / "calls.py"
pytestmark = NODE


def test_sandboxes_by_the_first_family_of_calls(scripts: Path, cloud: Running) -> None:
    run(scripts, cloud, "sandboxes.mjs", MODAL_SANDBOX_V2="0")
