"""Files with secrets: whole or not there, and for their owner alone."""

import stat
from pathlib import Path

import pytest

from workbench.machine import private_files


@pytest.mark.parametrize("text", ["", "a secret\n", "é\u2028\n"])
@pytest.mark.parametrize("before", [None, "another\n"])
def test_a_file_is_replaced_whole_for_its_owner_alone(tmp_path: Path, text: str, before: str | None) -> None:
    path = tmp_path / "new" / "secret.json"
    if before is not None:
        path.parent.mkdir()
        path.write_text(before)
        path.chmod(0o644)
    private_files.write_text(path, text)
    assert path.read_bytes() == text.encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("text", ["a secret", "\ud800"])
def test_what_cannot_be_written_leaves_no_copy_of_it(tmp_path: Path, text: str) -> None:
    """The place is a directory; a text cannot be encoded."""
    path = tmp_path / "secret.json"
    (path / "inside").mkdir(parents=True)
    with pytest.raises((OSError, UnicodeEncodeError)):
        private_files.write_text(path, text)
    assert list(tmp_path.iterdir()) == [path]
