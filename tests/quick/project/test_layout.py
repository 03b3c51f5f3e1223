"""The shape of the repository: what stands at the top, and which way imports point."""

import ast
import subprocess
from pathlib import Path

from tests.support.paths import ROOT

TOP_LEVEL = {
    "pyproject.toml",
    "README.md",
    "workbench",
    "notebooks",
    "findings",
    "modal_app",
    "tests",
    "environment.yml",
}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_top_level_holds_only_what_was_agreed() -> None:
    """People find things where the project says they are."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    tops = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    assert {top for top in tops if not top.startswith(".")} <= TOP_LEVEL


def test_the_local_cloud_knows_modal_and_not_us() -> None:
    """The local cloud must be usable for any program written for Modal."""
    for path in (ROOT / "workbench" / "local_cloud").rglob("*.py"):
        for name in _imports(path):
            assert not name.startswith("modal_app"), f"{path} imports {name}"
            assert not name.startswith("workbench") or name.startswith("workbench.local_cloud"), f"{path}: {name}"


def test_the_deployed_app_knows_neither_jupyter_nor_the_workbench() -> None:
    """What is deployed to Modal holds nothing of the engineers' tools."""
    for path in (ROOT / "modal_app").rglob("*.py"):
        for name in _imports(path):
            assert not name.startswith(("workbench", "ipywidgets", "jupyter")), f"{path} imports {name}"


def test_the_contract_does_no_io() -> None:
    """The contract is words only: no sockets, no event loop, no SDK."""
    for path in (ROOT / "modal_app" / "contract").rglob("*.py"):
        assert not _imports(path) & {"asyncio", "socket", "modal", "httpx", "fastapi", "anyio"}, path
