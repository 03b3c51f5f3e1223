"""Layers are mounted in a sandbox that runs: private, writable, at any directory of its own, and taken away again."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from modal_proto import api_pb2

from tests.support.layers import member
from tests.support.ordinary_user import run_as_ordinary_user
from tests.support.rooted import MakeLayer, spec_on
from tests.support.sandboxes import run
from workbench.local_cloud.rootfs.layers import LayerError, Layers, Root
from workbench.local_cloud.sandboxes.engine.engine import Engine
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.image_mounts import ImageMounts
from workbench.local_cloud.sandboxes.limits.sandbox_limits import Limits
from workbench.local_cloud.sandboxes.sandbox_records import Mounted, Record


class Mounts:
    """The images in one sandbox."""

    def __init__(self, layers: Layers, sandbox: Sandbox) -> None:
        self.record = Record("sb-1", "ta-1", "ap-1", "", "main", "", api_pb2.Sandbox(), {}, 0.0, sandbox=sandbox)
        self.sandbox = sandbox
        self._mounts = ImageMounts(layers)

    async def mount(self, path: str, *keys: str, owner: str = "") -> None:
        self.record.mounted[path] = Mounted(path)
        try:
            await self._mounts.mount(self.record, self.sandbox, keys, path, owner=owner)
        except BaseException:
            del self.record.mounted[path]
            raise

    async def unmount(self, path: str) -> None:
        await self._mounts.unmount(self.record, self.sandbox, path)
        del self.record.mounted[path]

    async def said(self, script: str) -> str:
        """What a shell in the sandbox prints, on stderr as well."""
        _, out, err = await run(self.sandbox, "/bin/sh", "-c", script)
        return out + err


@pytest.fixture
async def mounts(layers: Layers, rooted: Sandbox) -> Mounts:
    return Mounts(layers, rooted)


@pytest.fixture
async def key(image: MakeLayer) -> str:
    """A layer with a file of another user."""
    return await image(member("srv/note", b"of the image\n", owner=(7, 8), mode=0o640))


@pytest.mark.parametrize("path", ["/mnt/new/deep", "/usr/share", "/etc", "/tmp", "/workspace/in/a/volume"])
async def test_a_mount_is_private_and_writable_and_what_it_hides_comes_back(
    mounts: Mounts, key: str, layers: Layers, path: str
) -> None:
    before = await mounts.said(f"ls -A {path} 2>/dev/null | head -3")
    await mounts.mount(path, key)
    assert await mounts.said(f"cat {path}/srv/note; stat -c '%u %g %a' {path}/srv/note") == "of the image\n7 8 640\n"
    assert await mounts.said(f"echo new > {path}/srv/note; chown 9 {path}/srv/note; rm -r {path}/srv; ls {path}") == ""
    assert (layers.store / "layers" / key / "srv" / "note").stat().st_size > len("new\n")
    await mounts.unmount(path)
    assert await mounts.said(f"ls -A {path} | head -3") == before
    for _ in range(3):
        await mounts.mount(path, key)
        assert await mounts.said(f"ls {path}/srv") == "note\n"
        await mounts.unmount(path)


async def test_two_mounts_of_an_image_know_nothing_of_one_another(mounts: Mounts, key: str) -> None:
    await mounts.mount("/one", key)
    await mounts.mount("/two", key)
    assert await mounts.said("echo changed > /one/srv/note; cat /two/srv/note") == "of the image\n"
    await mounts.unmount("/one")
    await mounts.mount("/one", key)
    assert await mounts.said("cat /one/srv/note") == "of the image\n"


async def test_a_mount_of_nothing_belongs_to_whom_it_is_made_for(mounts: Mounts) -> None:
    await mounts.mount("/empty", owner="7:8")
    assert await mounts.said("stat -c '%u %g' /empty; ls -A /empty") == "7 8\n"


async def test_programs_that_use_a_mount_keep_what_they_have_open(mounts: Mounts, key: str) -> None:
    await mounts.mount("/one", key)
    script = "cd /one/srv; exec 3< note; echo ready > /tmp/ready; while [ -e /tmp/ready ]; do sleep 0.1; done; cat <&3"
    process = await mounts.sandbox.exec(["/bin/sh", "-c", script], exec_id="reader")
    while await mounts.said("cat /tmp/ready 2>/dev/null") != "ready\n":
        pass
    await mounts.unmount("/one")
    assert await mounts.said("ls -A /one; rm /tmp/ready") == ""
    await process.wait()
    assert await process.stdout.read(0) == b"of the image\n"


@pytest.mark.parametrize(
    ("prepare", "path", "reason"),
    [
        ("", "/proc/1", "the sandbox's own"),
        ("", "/dev/shm", "the sandbox's own"),
        ("", "/__modal", "nothing can be mounted at /__modal"),
        ("", "/__modal/host/usr", "nothing can be mounted at /__modal"),
        ("", "/etc/passwd", "is not a directory"),
        ("", "/etc/passwd/x", "is not a directory"),
        ("ln -s /proc /there", "/there/1", "the sandbox's own"),
        ("ln -s /dev /there", "/there/pts", "the sandbox's own"),
        ("ln -s / /there", "/there", "nothing can be mounted at /"),
        ("ln -s / /there", "/there/one", "something is mounted at /one"),
        ("ln -s /one /there", "/there/srv", "something is mounted at /one"),
        ("ln -s there /there", "/there", "too many links"),
        ("ln -s /proc/1/root /there", "/there/etc", "the sandbox's own"),
    ],
)
async def test_a_target_that_cannot_be_one_says_why_and_changes_nothing(
    mounts: Mounts, key: str, layers: Layers, prepare: str, path: str, reason: str
) -> None:
    await mounts.mount("/one", key)
    await mounts.said(prepare)
    before = (await mounts.said("cat /proc/mounts"), sorted((layers.store / "live").iterdir()))
    with pytest.raises(LayerError, match=reason):
        await mounts.mount(path, key)
    assert (await mounts.said("cat /proc/mounts"), sorted((layers.store / "live").iterdir())) == before


async def test_a_target_that_changes_under_the_mount_leads_nowhere_else(mounts: Mounts, key: str) -> None:
    """A program swaps the directory for links to what is not its own, as fast as it can."""
    swap = "mkdir -p /a/d; while :; do mv /a /b; ln -s /proc /a; rm /a; ln -s /__modal /a; rm /a; mv /b /a; done"
    await mounts.sandbox.exec(["/bin/sh", "-c", swap], exec_id="swap")
    for number in range(15):
        with suppress(LayerError):
            await mounts.mount(f"/a/d/{number}", key)
    for line in (await mounts.said("cat /proc/mounts")).splitlines():
        _, target, kind, *_ = line.split()
        assert kind != "overlay" or not target.startswith(("/proc", "/dev", "/__modal")), line
    assert await mounts.said("echo on") == "on\n"


async def test_what_is_written_to_a_mount_counts(
    engine: Engine, layers: Layers, open_root: Callable[..., Root], base: str, workspace: Path
) -> None:
    limits = Limits(workspace_bytes=30 << 20)
    sandbox = await engine.create(spec_on(open_root(base), workspace, limits=limits))
    mounts = Mounts(layers, sandbox)
    await mounts.mount("/mnt/one", base)
    await sandbox.exec(["/bin/sh", "-c", "head -c 100M /dev/zero > /mnt/one/fill; sleep 60"], exec_id="fill")
    await sandbox.wait_closed()
    assert "more than 30 MiB" in str(sandbox.exceeded)


async def test_a_sandbox_that_has_ended_gets_no_mount(mounts: Mounts, key: str, layers: Layers) -> None:
    await mounts.sandbox.terminate()
    before = sorted((layers.store / "live").iterdir())
    with pytest.raises(LayerError, match="has ended"):
        await mounts.mount("/one", key)
    assert sorted((layers.store / "live").iterdir()) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="these tests run as an ordinary user already")
@pytest.mark.timeout(400)
def test_it_is_the_same_for_an_ordinary_user() -> None:
    assert run_as_ordinary_user("tests/standard/local_cloud/rootfs/test_image_mounts.py", with_ids=True) >= 20
