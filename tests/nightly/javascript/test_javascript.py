"""The stock JavaScript SDK against the local cloud, part by part."""

from pathlib import Path

from tests.standard.javascript.conftest import NODE
from tests.standard.javascript.test_javascript import run
from tests.support.commands import Cli
from tests.support.paths import APPS
from workbench.local_cloud.state import Running

CALLS = APPS / "calls.py"
pytestmark = NODE


def test_sandboxes_by_the_first_family_of_calls(scripts: Path, cloud: Running) -> None:
    run(scripts, cloud, "sandboxes.mjs", MODAL_SANDBOX_V2="0")


def test_files_of_a_sandbox(scripts: Path, cloud: Running) -> None:
    run(scripts, cloud, "filesystem.mjs")


def test_volumes_secrets_queues_and_images(scripts: Path, cloud: Running) -> None:
    run(scripts, cloud, "objects.mjs")


def test_functions_and_classes(scripts: Path, cloud: Running, modal_cli: Cli) -> None:
    modal_cli("deploy", str(CALLS))
    run(scripts, cloud, "calls.mjs")
