"""A copy of what a sandbox has written counts as whole only if `cp` has come to its end."""

import subprocess

import pytest

from workbench.local_cloud.rootfs.worker import copy_complaint


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("exit 0", ""),
        ("echo 'cp: cannot stat a: No such file or directory' >&2; exit 1", ""),
        ("echo 'cp: a: No such file or directory\ncp: b: No space left on device' >&2; exit 1", "cp: b: No space left"),
        ("exit 1", "exit code 1"),
        ("kill -9 $$", "signal 9"),
        ("echo 'cp: cannot stat a: No such file or directory' >&2; kill -9 $$", "signal 9"),
    ],
)
def test_only_files_that_were_gone_are_forgiven(script: str, complaint: str) -> None:
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert complaint in copy_complaint(done)
    assert bool(complaint) == bool(copy_complaint(done))
