"""Modes of COPY: octal ones, and symbols, which mean the same as chmod's."""

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from workbench.local_cloud.rootfs.modes import applied, is_mode

FORMS = (
    "u=rwX,go=rX",
    "g=u",
    "a+x",
    "+x",
    "go-w",
    "u+r-w",
    "o=",
    "ug=rw,o-rwx",
    "u+s",
    "g+s,o+t",
    "a=rx",
    "go=u-w",
    "-x",
)


@pytest.mark.parametrize("text", [*FORMS, "0", "644", "0755", "4755", "00007777", "=", "u+", "+t"])
def test_what_chmod_takes_is_a_mode(text: str) -> None:
    assert is_mode(text)


@pytest.mark.parametrize(
    "text",
    ["", "8", "77777", "u", "rwx", "u+z", "u+rg", ",u+x", "u+x,", "u +x", "0o755", "a+x\n", "u+x," * 100 + "u+x"],
)
def test_what_it_does_not_take_is_none(text: str) -> None:
    assert not is_mode(text)


@pytest.mark.parametrize(
    ("text", "mode", "is_directory", "expected"),
    [
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o700, False, 0o755),
        ("u=rwX,go=rX", 0o700, True, 0o755),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("g=u", 0o640, False, 0o660),
        ("u=rw,go=rX", 0o700, False, 0o655),  # X looks at the mode before
        ("+w", 0o444, False, 0o666),  # without a umask
        ("u=rw,g=u", 0o755, False, 0o665),
        ("a=", 0o7777, False, 0),
        ("640", 0o7777, True, 0o640),
        ("u+s,g+s,+t", 0o755, False, 0o7755),
        ("u-s", 0o4755, False, 0o755),
    ],
)
def test_symbols_change_the_mode_that_a_file_has(text: str, mode: int, is_directory: bool, expected: int) -> None:
    assert applied(text, mode, is_directory=is_directory) == expected


def test_they_mean_the_same_as_to_chmod(tmp_path: Path) -> None:
    """Where no umask and no later X matters; GNU's chmod keeps the group bit of directories, which are left out."""
    path = tmp_path / "file"
    path.touch()
    for text, mode in itertools.product(FORMS, (0o600, 0o755, 0o640, 0o4711)):
        path.chmod(mode)
        subprocess.run(["/bin/chmod", text, str(path)], check=True, preexec_fn=lambda: os.umask(0) and None)
        assert applied(text, mode, is_directory=False) == path.stat().st_mode & 0o7777, (text, oct(mode))
