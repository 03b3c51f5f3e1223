"""Bases that the clouds of one user share: made once, used only from a directory of that user's own, removed by nobody
while they are in use.
"""

import asyncio
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.packages import wheel
from workbench.local_cloud.images.plans import SCRIPT, ImageConfig, Run
from workbench.local_cloud.images.rooted_run import RunStep
from workbench.local_cloud.rootfs import bases, kept_bases, machine_base
from workbench.local_cloud.rootfs.bases import machine_layer, machine_lower
from workbench.local_cloud.rootfs.ids import NoRangeError, ids
from workbench.local_cloud.rootfs.layers import Layers, Root
from workbench.local_cloud.sandboxes.engine.isolation import seccomp_program

KEY = "0" * 32


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache directory of the test's own."""
    try:
        ids()
    except NoRangeError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_bases, "_held", {})
    yield kept_bases.directory()
    for descriptor in kept_bases._held.values():
        os.close(descriptor)


class Maker:
    """Makes a base of one file, and counts how often."""

    def __init__(self) -> None:
        self.made = 0

    async def __call__(self, layers: Layers, root: Root) -> None:
        self.made += 1
        (root.written / "file").write_text("of the base")
        await asyncio.sleep(0.1)


async def test_a_base_is_made_once_for_all_stores(cache: Path) -> None:
    make = Maker()
    paths = await asyncio.gather(*(kept_bases.held(KEY, make) for _ in range(3)))
    assert len(set(paths)) == 1
    assert paths[0] is not None
    assert paths[0].parent.parent == cache
    assert (paths[0] / "file").read_text() == "of the base"
    assert await kept_bases.held(KEY, make) == paths[0]
    assert make.made == 1
    other = await kept_bases.held("1" * 32, make)
    assert (make.made, kept_bases.kept()) == (2, sorted(path for path in (paths[0], other) if path is not None))


async def test_whoever_waits_for_a_base_is_told_why(cache: Path, tmp_path: Path) -> None:
    """Once for each set of packages: a base that is kept is there at once."""
    told: list[str] = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one, other = Layers(tmp_path / "one"), Layers(tmp_path / "other")
    await machine_lower(one, told=told.append)
    assert [text.startswith("This machine's base system is copied, once") for text in told] == [True]
    await machine_lower(one, told=told.append)
    await machine_layer(other, told=told.append)
    assert len(told) == 1


async def test_pip_is_in_a_base_also_where_no_package_has_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = tuple(name for name in machine_base._WANTED if name != "python3-pip")
    monkeypatch.setattr(machine_base, "_WANTED", wanted)
    bases._read.cache_clear()
    made, said = wheel(tmp_path, "tiny", "1.0", "NAME = 'tiny'"), []
    (tmp_path / "store").mkdir()
    layers = Layers(tmp_path / "store")
    step = RunStep(seccomp=seccomp_program(rooted=True), log=lambda text, fd: said.append(text))
    script = f"""#!/bin/sh
set -e
test ! -e /usr/lib/python3/dist-packages/pip
python -m pip --version | cut -c1-4; pip3 --version | cut -c1-4
pip install -q --no-index --root-user-action=ignore /{made.name}
cd /; python -c 'import tiny; print(tiny.NAME)'; pip uninstall -q -y --root-user-action=ignore tiny
python -c 'import tiny' 2> /dev/null || echo gone
"""
    try:
        base, _ = await machine_layer(layers)
        files = {f"/{made.name}": made.read_bytes()}
        await layers.once(KEY, lambda root: layers.put(root, files, mode=0o644), below=[base])
        async with layers.root([KEY, base]) as root:
            run = Run((SCRIPT,), "pip", (("PATH", "/usr/local/bin:/usr/bin:/bin"),), "/", "", script)
            await step.run(run, ImageConfig(), root, {}, {})
    finally:
        bases._read.cache_clear()
    assert said == ["pip \n", "pip \n", "tiny\n", "gone\n"]


async def test_what_a_killed_process_has_left_is_removed_and_the_base_made_anew(cache: Path) -> None:
    (cache / "live" / "half" / "upper").mkdir(parents=True)
    make = Maker()
    assert await kept_bases.held(KEY, make) is not None
    assert list((cache / "live").iterdir()) == []


@pytest.mark.parametrize("place", ["bases", "modal-workbench"])
@pytest.mark.parametrize("kind", ["world-writable", "group-writable", "link", "file", "another's"])
async def test_a_place_that_others_may_write_to_is_not_used(cache: Path, tmp_path: Path, place: str, kind: str) -> None:
    path = cache if place == "bases" else cache.parent
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        path.touch()
    else:
        path.mkdir(parents=True, mode=0o755)
        path.chmod({"world-writable": 0o777, "group-writable": 0o775}.get(kind, 0o755))
        if kind == "another's":
            if os.geteuid() != 0:
                pytest.skip("only root can give a directory away")
            os.chown(path, 1234, 1234)
    make = Maker()
    assert await kept_bases.held(KEY, make) is None
    assert make.made == 0
    assert str(path) in kept_bases.problem()
    assert kept_bases.kept() == []
    assert kept_bases.prune(before=time.time() + 60) == (0, 0)


async def test_a_base_in_use_is_not_removed(cache: Path) -> None:
    path = await kept_bases.held(KEY, Maker())
    assert path is not None
    assert kept_bases.prune(before=time.time() + 60) == (0, 0)
    os.close(kept_bases._held.pop(path))  # as the end of the process does
    assert kept_bases.prune(before=time.time() - 60) == (0, 0)  # it was used later than that
    with (cache / f"{path.name}.lock").open() as another:
        fcntl.flock(another, fcntl.LOCK_SH)
        assert kept_bases.prune(before=time.time() + 60) == (0, 0)
    assert kept_bases.prune(before=time.time() + 60) == (1, len("of the base"))
    assert kept_bases.kept() == []
    make = Maker()
    assert await kept_bases.held(KEY, make) == path
    assert make.made == 1
