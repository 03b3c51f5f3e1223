"""A family is a process and everything below it, whichever of its threads started it, and nobody else."""

import os
import subprocess
import sys
from pathlib import Path

from workbench.local_cloud.base.host_processes import family, start_of

# Prints its own id, and those of a child and a grandchild; a thread starts another child. Ends when its input does.
TREE = """
import os, subprocess, sys, threading
inner = "import subprocess, sys; p = subprocess.Popen(['cat']); print(p.pid, flush=True); p.wait()"
child = subprocess.Popen([sys.executable, "-c", inner], stdout=subprocess.PIPE, text=True)
grandchild = int(child.stdout.readline())
other = []
def start():
    other.append(subprocess.Popen(["cat"]))
    print(os.getpid(), child.pid, grandchild, other[0].pid, flush=True)
    other[0].wait()
thread = threading.Thread(target=start)
thread.start()
thread.join()
child.wait()
"""


def test_a_family_is_whole_and_ends() -> None:
    stranger = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    with subprocess.Popen(
        [sys.executable, "-c", TREE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as top:
        assert top.stdout is not None
        expected = {int(pid) for pid in top.stdout.readline().split()}
        assert len(expected) == 4
        assert {process.pid for process in family(top.pid)} == expected
        top.communicate(timeout=60)
    assert family(top.pid) == []
    stranger.communicate(timeout=60)


def test_a_process_is_known_by_its_start_whatever_the_wall_clock_says() -> None:
    """The same in every process that asks, another for another, and none for who is dead, waited for or not."""
    mine = start_of(os.getpid())
    assert mine is not None
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        known = start_of(other.pid)
        code = (
            "import sys; from workbench.local_cloud.base.host_processes import start_of as s; "
            "print(*map(s, map(int, sys.argv[1:])))"
        )
        asked = [sys.executable, "-c", code, str(os.getpid()), str(other.pid)]
        told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout.split()
        assert told == [mine, known]
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert start_of(other.pid) is None
    assert start_of(other.pid) is None
    ticks = int(mine.rpartition("/")[2])
    up_s = float(Path("/proc/uptime").read_text().split()[0])
    assert 0 < ticks / os.sysconf("SC_CLK_TCK") <= up_s  # since the boot, not since 1970
