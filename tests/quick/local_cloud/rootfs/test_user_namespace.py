"""An ordinary user's cloud in a user namespace: who is who there, and who gives ids to the namespaces below it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workbench.local_cloud.process.private_mounts import why_without_overlay
from workbench.local_cloud.rootfs.ids import NoRangeError, ids

pytestmark = pytest.mark.skipif(os.geteuid() == 0, reason="root needs no user namespace")

BEGIN = """
import json, os, socket, sys
from pathlib import Path
from workbench.local_cloud.process.private_mounts import take_private_mounts
from workbench.local_cloud.rootfs import launcher, user_namespace
from workbench.local_cloud.rootfs.ids import ids
before = [os.getuid(), os.getgid()]
outside = [os.lstat(path).st_uid for path in ("/", "/etc/passwd")]
assert take_private_mounts(Path(sys.argv[1])) == ""
"""
WHO = """
found = user_namespace.owners(["/", "/etc/passwd", "/no such file", "\\udcff"])
print(json.dumps([before == [os.getuid(), os.getgid()], outside, [owner and owner[0] for owner in found]]))
"""
BELOW = """
def below(at):
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            launcher.enter({**ids().as_json(), "at": at}, owner=None)
            Path(sys.argv[1], at.rpartition("/")[2] + "-made").write_text("1")
            os.chown(Path(sys.argv[1], "maps-made"), 33, 33)
            os.write(write, f"{os.getuid()} {os.stat(Path(sys.argv[1], 'maps-made')).st_uid}".encode())
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        return answer.read()

def ask(text):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(user_namespace.maps_at())
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(100).decode()

asked = [ask(text) for text in (b"1", b"", b"nonsense", b"999999999999", b"-1", str(os.getpid()).encode())]
print(json.dumps([["." in said[:1] for said in asked], below(user_namespace.maps_at())]))
"""


def _in_namespace(code: str, directory: Path) -> Any:
    directory.chmod(0o700)
    if why := why_without_overlay(directory):
        pytest.skip(why)
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code, str(directory)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_user_stays_who_it_is_and_others_are_known_by_who_stays_outside(tmp_path: Path) -> None:
    """Inside, a file of root seems to be nobody's: an image made of this machine's files needs to know better."""
    is_same, outside, found = _in_namespace(WHO, tmp_path)
    assert is_same
    assert found[2:] == [None, None]
    try:
        ids()
    except NoRangeError:
        return  # no image has a root file system here, and nobody asks
    assert found[:2] == outside == [0, 0]


def test_a_root_file_system_has_its_ids_though_newuidmap_has_no_effect_there(tmp_path: Path) -> None:
    """The cloud gives them, and to nobody who is not about to need them."""
    try:
        ids()
    except NoRangeError as error:
        pytest.skip(str(error))
    refused, said = _in_namespace(BELOW, tmp_path)
    assert refused == [False] * 6
    assert said == "0 33"


def test_what_tries_it_leaves_nothing_behind(tmp_path: Path) -> None:
    for _ in range(2):
        why_without_overlay(tmp_path)
    assert list(tmp_path.iterdir()) == []
