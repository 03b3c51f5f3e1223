"""Whatever is cut off in the middle, by a kill or a full disk, leaves no half layer, no mount and no process."""

import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.support.layers import archive, digest, member
from tests.support.paths import ROOT
from workbench.local_cloud.base.programs import RUN_MARK
from workbench.local_cloud.process import janitor
from workbench.local_cloud.rootfs.layers import LayerError, Layers, Root, order_descriptor

FILES = 200
CLOUD = """
import asyncio, os, sys
from pathlib import Path
from tests.standard.local_cloud.rootfs.test_kills import FILES, unpacked
from tests.support.rooted import spec_on
from workbench.local_cloud.rootfs.layers import Layers
from workbench.local_cloud.sandboxes.engine.engine import Engine

async def main():
    layers, base, number = Layers(Path(sys.argv[1])), sys.argv[2], os.getpid() * 1000
    await layers.reap()
    engine = Engine(Path(sys.argv[3]))
    print("begun", flush=True)
    while True:
        number += 1
        await unpacked(layers, f"whole-{number}")
        root = layers.open([base])
        sandbox = await engine.create(spec_on(root))
        fill = f"for i in $(seq {FILES}); do echo > /srv/$i; done"
        program = await sandbox.exec(["/bin/sh", "-c", fill], exec_id="fill")
        await program.wait()
        key = await layers.copy(root)
        (layers.store / "layers" / key).rename(layers.store / "layers" / f"copied-{number}")
        await engine.discard(sandbox)
        await layers.close(root)
        await layers.remove([f"layers/copied-{number}", f"layers/whole-{number}"] if number % 3 else [])

asyncio.run(main())
"""


async def unpacked(layers: Layers, key: str, *, size: int = 100, files: int = FILES) -> None:
    """Make a layer of some files."""
    tar = archive(*(member(f"srv/{number}", os.urandom(size)) for number in range(files)))

    async def unpack(target: Root) -> None:
        blob = order_descriptor(tar)
        try:
            await layers.work(
                "unpack", inherit=[blob], blob=blob, diff_id=digest(tar), lower=target.lower, target=target.upper
            )
        finally:
            os.close(blob)

    await layers.once(key, unpack)


def test_at_no_instant_does_a_kill_leave_half_a_layer_a_process_or_a_mount(store: Path, base: str, root: Path) -> None:
    chance = random.Random(2212)
    mounts = Path("/proc/self/mountinfo").read_text()
    for turn in range(5):
        mark = f"rootfs-{os.getpid()}-{turn}"
        command = [sys.executable, "-P", "-c", CLOUD, str(store), base, str(root / "run")]
        env = {**os.environ, RUN_MARK: mark, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, start_new_session=True, cwd="/") as cloud:
            assert cloud.stdout is not None
            assert cloud.stdout.readline() == b"begun\n"
            time.sleep(chance.uniform(0, 1.5))
            cloud.kill()
        janitor.end_processes(f"{RUN_MARK}={mark}")
        live = [path.name for path in (store / "live").iterdir()]
        wait_until(lambda live=live: _processes(str(store), *live) == [], "a process outlived its cloud")
        for layer in (store / "layers").iterdir():
            if layer.name != base:
                assert len(list((layer / "srv").iterdir())) == FILES, layer
    assert Path("/proc/self/mountinfo").read_text() == mounts
    again = Layers(store)
    asyncio.run(again.reap())
    assert list((store / "live").iterdir()) == []
    made = [key for key in again.keys() if key != base]  # noqa: SIM118  # no dictionary
    asyncio.run(again.remove([f"layers/{key}" for key in made]))


def _processes(*texts: str) -> list[str]:
    """The command lines of the processes that name one of these texts there, or among their mounts."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            mounted = (entry / "mountinfo").read_text()
        except OSError:
            continue
        if entry.name.isdigit() and int(entry.name) != os.getpid() and any(text in words + mounted for text in texts):
            found.append(words)
    return found


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 8 MiB."""
    path = Path(tempfile.mkdtemp(prefix="workbench-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0711", "none", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        shutil.rmtree(path)
        pytest.skip("this user may not mount a file system")
    yield path
    subprocess.run(["umount", str(path)], check=True)
    path.rmdir()


async def test_a_full_disk_leaves_the_store_whole(small_disk: Path) -> None:
    """The step fails with the reason, and what is smaller still finds room."""
    layers = Layers(small_disk / "rootfs")
    await unpacked(layers, "first", files=3)
    with pytest.raises(LayerError, match="No space left on device"):
        await unpacked(layers, "large", size=1 << 20, files=12)
    async with layers.root(["first"]) as opened:
        with pytest.raises(LayerError, match="No space left on device"):
            await layers.put(opened, {"/large": bytes(12 << 20)}, mode=0o644)
    async with layers.root(["first"]) as opened:
        await layers.put(opened, {"/half": bytes(5 << 20)}, mode=0o644)
        with pytest.raises(LayerError, match=r"cannot be copied: .*No space left on device"):
            await layers.copy(opened)
    assert (layers.keys(), list((layers.store / "live").iterdir())) == (["first"], [])
    await unpacked(layers, "small", files=5)
    assert layers.keys() == ["first", "small"]
