"""The adapter to the AI SDK on the Node.js that the AI SDK asks for, which the package registry has as a package."""

import platform
import subprocess
from pathlib import Path

from tests.standard.javascript.conftest import INSTALL_S, NODE
from tests.standard.javascript.test_ai_sdk import messages_of
from tests.standard.javascript.test_client import node
from tests.standard.javascript.test_conversation import CASES

pytestmark = NODE
VERSION = "22.23.5"
MACHINES = {"x86_64": "x64", "aarch64": "arm64"}


def test_every_recorded_run_and_every_chat_on_node_22(scripts: Path, tmp_path: Path) -> None:
    name = f"node-linux-{MACHINES[platform.machine()]}"
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", f"{name}@{VERSION}"]
    done = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    binary = str(tmp_path / "node_modules" / name / "bin" / "node")
    assert node(tmp_path, "--version", binary=binary).strip() == f"v{VERSION}"
    assert messages_of(scripts, node_binary=binary).keys() == set(CASES)
