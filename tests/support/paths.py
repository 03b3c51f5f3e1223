"""Where the project and the tests' own programs are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
APPS = Path(__file__).parent / "apps"  # Modal programs as users write them, deployed by tests
RECORDED = Path(__file__).parent / "claude" / "recorded"  # what the Claude CLI printed, case by case
