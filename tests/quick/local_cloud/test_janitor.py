"""What a dead cloud left goes, whoever else removes it, and nothing else changes: the next cloud may be there."""

import subprocess
import sys
from pathlib import Path

import pytest

from workbench.local_cloud.base import guest_directories
from workbench.local_cloud.process import janitor


def clean(directory: Path) -> None:
    """Let a janitor see the end of its cloud."""
    subprocess.run([sys.executable, "-IS", janitor.__file__, str(directory)], input=b"", timeout=60, check=True)


def plant(top: Path) -> None:
    """Make a tree that keeps its owner out in places."""
    for number in range(60):
        below = top / f"{number % 20}" / f"{number}"
        below.mkdir(parents=True)
        (below / "file").write_text("x")
        below.chmod(0o500)


def test_the_run_directory_goes_and_what_is_above_stays_as_it_is(tmp_path: Path) -> None:
    runs = tmp_path / "run"
    plant(runs / "dead")
    runs.chmod(0o711)
    clean(runs / "dead")
    assert list(runs.iterdir()) == []
    assert runs.stat().st_mode & 0o777 == 0o711


def test_a_run_directory_that_the_next_cloud_has_removed_changes_nothing(tmp_path: Path) -> None:
    """Otherwise no sandbox of the next cloud could pass through its parent."""
    runs = tmp_path / "run"
    runs.mkdir()
    runs.chmod(0o711)
    clean(runs / "dead")
    assert runs.stat().st_mode & 0o777 == 0o711


def test_names_that_somebody_else_has_removed_meanwhile_hold_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, gone = guest_directories._names, ["a", "b", "c"]

    def with_one_that_is_gone(directory: int) -> list[str]:
        return [*([gone.pop()] if gone else []), *names(directory)]

    monkeypatch.setattr(guest_directories, "_names", with_one_that_is_gone)
    plant(tmp_path / "run" / "dead")
    guest_directories.remove_tree(tmp_path / "run")
    assert not (tmp_path / "run").exists()
