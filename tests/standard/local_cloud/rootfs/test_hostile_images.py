"""Images are hostile: what they have at the places of ours is heeded as inside, or refused with a reason."""

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.layers import directory, link, member
from tests.support.rooted import MakeLayer, Member, spec_on
from tests.support.sandboxes import run
from workbench.local_cloud.rootfs.layers import Root
from workbench.local_cloud.sandboxes.engine.engine import Engine
from workbench.local_cloud.sandboxes.engine.spec import SandboxStartFailedError

Opened = Callable[..., Root]
STARTED = {
    "a link to a name that is not there": [link("etc/resolv.conf", "../run/resolve/stub.conf")],
    "a link to another file of the image": [link("etc/hosts", "/etc/debian_version")],
    "a link out of the root by dots": [link("etc/resolv.conf", "../../../../../../../../etc/made-by-an-image")],
    "a link with dots that go round": [link("etc/hosts", "/etc/../etc/../etc/./../tmp/hosts")],
    "a link to the host's root of bubblewrap": [link("etc/hosts", "/oldroot/tmp/made-by-an-image")],
    "a link to the new root of bubblewrap": [link("etc/hosts", "/newroot/etc/hosts")],
    "a link at the root user's home": [link("root", "tmp")],
    "a link at the program that is replaced": [link("usr/bin/sync", "/etc/passwd")],
    "a link to nothing at the program that is replaced": [link("usr/bin/sync", "/proc/self/root/oldroot/tmp/x")],
    "a root directory that nobody may write to": [directory(".", 0o555)],
    "a root directory that nobody may enter": [directory(".", 0)],
    "a root directory of another user": [directory(".", 0o755, owner=(1000, 1000))],
    "a directory that nobody may enter": [directory("run", 0), directory("tmp", 0)],
    "a FIFO where users are listed": [member("etc/passwd", kind=tarfile.FIFOTYPE)],
    "libraries for every program": [member("etc/ld.so.preload", b"/tmp/evil.so\n/etc/passwd\n")],
    "a cache of libraries that is none": [member("etc/ld.so.cache", b"glibc-ld.so.cache1.1" + b"\xff" * 4000)],
    "a list of libraries' directories": [member("etc/ld.so.conf", b"/tmp\n"), member("tmp/libc.so.6", b"x")],
    "files where Python looks for itself": [
        member("__modal/host/lib/python311.zip", b"x"),
        member("__modal/lib/python311.zip", b"x"),
        member("__modal/pyvenv.cfg", b"home = /tmp\n"),
        member("usr/lib/python3/dist-packages/sitecustomize.py", b"raise SystemExit(1)"),
        member("usr/lib/python3/dist-packages/evil.pth", b"import os; os._exit(1)"),
    ],
    "characters of its own": [member("usr/lib/locale/C.utf8/LC_CTYPE", b"\xff" * 5000)],
    "a system of other libraries": [member("usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache", b"\xff" * 5000)],
}
LOOP = [link("etc/hosts", "/etc/one"), link("etc/one", "two"), link("etc/two", "/etc/hosts")]
REFUSED: dict[str, tuple[list[Member], str]] = {
    "a link at /proc": ([link("proc", "tmp")], "/proc is not a directory"),
    "an absolute link at /dev": ([link("dev", "/oldroot/tmp")], "/dev is not a directory"),
    "a file at /proc": ([member("proc", b"x")], "/proc is not a directory"),
    "a FIFO at /dev": ([member("dev", kind=tarfile.FIFOTYPE)], "/dev is not a directory"),
    "a link at /__modal": ([link("__modal", "/tmp")], "/__modal is not a directory"),
    "a file at /__modal": ([member("__modal", b"x")], "/__modal is not a directory"),
    "links that go round": (LOOP, "too many links on the way to /etc/hosts"),
    "a link that leads into itself": ([link("etc/hosts", "hosts/hosts")], "too many links"),
    "a link into the host's root by /proc": (
        [link("etc/hosts", "/proc/self/root/oldroot/tmp/made-by-an-image")],
        "leads into /proc, which is the sandbox's own",
    ),
    "a relative link into the host's root by /proc": (
        [link("etc/resolv.conf", "../proc/1/cwd/tmp/made-by-an-image")],
        "leads into /proc, which is the sandbox's own",
    ),
    "a link to a descriptor": ([link("etc/hosts", "/dev/fd/3")], "leads into /dev, which is the sandbox's own"),
    "a link to a device": ([link("etc/hosts", "/dev/null")], "leads into /dev, which is the sandbox's own"),
    "a FIFO where a file is mounted": ([member("etc/hosts", kind=tarfile.FIFOTYPE)], "/etc/hosts is not a file"),
    "a directory where a file is mounted": ([directory("etc/hosts")], "/etc/hosts is not a file"),
    "a file where a directory must be": ([member("workspace", b"x")], "/workspace is not a directory"),
    "a file above a place": ([member("etc", b"x")], "/etc is not a directory"),
    "a link at a mount that leads into /proc": (
        [link("workspace", "/proc/self/root/oldroot/tmp/made-by-an-image")],
        "leads into /proc",
    ),
    "a link above a mount that leads into /dev": ([link("workspace", "dev/shm/x")], "leads into /dev"),
}


@pytest.fixture(autouse=True)
def _nothing_is_made_outside() -> Iterator[None]:
    yield
    for top in ("/tmp", "/etc", "/", "/run"):
        assert not Path(top, "made-by-an-image").exists()


@pytest.mark.parametrize("name", STARTED)
async def test_it_starts(
    engine: Engine, base: str, image: MakeLayer, open_root: Opened, workspace: Path, name: str
) -> None:
    """Nothing of the image runs in process 1, and links lead to the image's own files."""
    key = await image(*STARTED[name], below=(base,))
    sandbox = await engine.create(spec_on(open_root(key, base), workspace))
    status, out, err = await run(sandbox, "/bin/sh", "-c", "cat /etc/hosts; touch /workspace/here; echo on")
    assert (status.code, "127.0.0.1" in out, out.endswith("on\n")) == (0, True, True), (status, out, err)
    assert (workspace / "here").exists()


@pytest.mark.parametrize("name", REFUSED)
async def test_it_is_refused(
    engine: Engine, base: str, image: MakeLayer, open_root: Opened, workspace: Path, name: str
) -> None:
    members, words = REFUSED[name]
    key = await image(*members, below=() if members[0][0].name == "etc" else (base,))
    with pytest.raises(SandboxStartFailedError) as caught:
        await engine.create(spec_on(open_root(key, base) if members[0][0].name != "etc" else open_root(key), workspace))
    assert "the root file system cannot be mounted: " in str(caught.value)
    assert words in str(caught.value)
