"""The shape of the repository: what stands at the top. Which way imports point, import-linter checks (test_style)."""

import subprocess

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


def test_top_level_holds_only_what_was_agreed() -> None:
    """People find things where the project says they are."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    tops = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    assert {top for top in tops if not top.startswith(".")} <= TOP_LEVEL
