"""A family is a process and everything below it, whichever of its threads started it, and nobody else."""

import subprocess
import sys

from workbench.local_cloud.processes import family

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
