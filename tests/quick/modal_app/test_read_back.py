"""What a run has written is counted wholly, however much of it there is."""

import subprocess
from pathlib import Path

import pytest

from modal_app.sandboxes import read_back

KEPT_BYTES = 1024 * 1024  # of what a command prints
DEEP = "/".join(["n" * 200] * 4)


@pytest.mark.parametrize("count", [0, 1, 3, 2000])
def test_every_file_is_counted_and_the_newest_are_named(tmp_path: Path, count: int) -> None:
    """A listing of all is cut where it is longer than what is kept of it."""
    (tmp_path / DEEP).mkdir(parents=True)
    for number in range(count):
        (tmp_path / DEEP / f"{number} \n").touch()
    command = read_back._COMMIT.replace(read_back._WORKSPACE, str(tmp_path))
    done = subprocess.run(["sh", "-c", command, "sh", "@0"], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout) < KEPT_BYTES
    said, changed, newest = read_back._parse_listing(done.stdout)
    assert (said, changed) == ("", count)
    assert len(newest) == min(count, 4)
    assert {path.decode() for path in newest} <= {f"{DEEP}/{number} \n" for number in range(max(0, count - 50), count)}


def test_a_directory_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    command = read_back._COMMIT.replace("find .", "find . nowhere")
    done = subprocess.run(
        ["sh", "-c", command.replace(read_back._WORKSPACE, str(tmp_path)), "sh", "@0"],
        cwd=tmp_path,
        capture_output=True,
    )
    assert done.returncode == 1
