"""A child process is followed to its end, and ends at its deadline with whatever it has started."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import wait_until
from workbench.deployment.children import run_to_end

ENV = {"PATH": os.defpath}
STARTS_ANOTHER = """
import subprocess, sys
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
Path(sys.argv[1]).write_text(str(child.pid))
print("begun", file=sys.stderr, flush=True)
child.wait()
"""


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def test_both_streams_are_followed_line_by_line() -> None:
    heard: list[str] = []
    code = "import sys; print('one', flush=True); print('two  ', file=sys.stderr); sys.exit(3)"
    done = run_to_end(python(code), ENV, timeout_s=60, on_line=heard.append)
    assert (done.code, done.lines, done.answer, done.late) == (3, ("one", "two"), "", False)
    assert heard == ["one", "two"]


def test_an_answer_is_kept_apart_from_what_is_told_however_long_both_are() -> None:
    code = "import sys; [print('x' * 1000, file=one) for _ in range(2000) for one in (sys.stdout, sys.stderr)]"
    done = run_to_end(python(code), ENV, timeout_s=60, answers=True)
    assert (done.code, len(done.lines), done.answer.count("\n")) == (0, 2000, 2000)


def has_ended(note: Path) -> bool:
    try:
        return psutil.Process(int(note.read_text())).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("answers", [False, True])
def test_what_a_child_has_started_ends_with_it_at_the_deadline(answers: bool, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    done = run_to_end(python(STARTS_ANOTHER, str(note)), ENV, timeout_s=3, answers=answers)
    assert (done.code, done.late, done.lines) == (-9, True, ("begun",))
    wait_until(lambda: has_ended(note), "the grandchild goes on")


def test_an_interrupt_ends_the_child_and_what_it_has_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt, match="begun"):
        run_to_end(python(STARTS_ANOTHER, str(note)), ENV, timeout_s=60, on_line=interrupt)
    wait_until(lambda: has_ended(note), "the grandchild goes on")
