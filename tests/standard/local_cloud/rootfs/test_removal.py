"""Layers with files of users inside go whole, whoever runs the cloud: by a reset, by `gc`, from the shared bases."""

import os
import time
from pathlib import Path

import pytest

from tests.support.layers import archive, digest, directory, member
from tests.support.ordinary_user import run_as_ordinary_user
from workbench.local_cloud.images import inventory
from workbench.local_cloud.process import daemon
from workbench.local_cloud.process.state_directory import State
from workbench.local_cloud.rootfs import kept_bases
from workbench.local_cloud.rootfs.ids import NoRangeError, ids
from workbench.local_cloud.rootfs.layers import Layers, Root, order_descriptor
from workbench.local_cloud.store.database import Database

KEY = "0" * 32


async def fill(layers: Layers, root: Root) -> None:
    """Directories that only another user inside may enter, one of which others may list, each with a file in it."""
    tar = archive(
        directory("srv", 0o700, owner=(7, 8)),
        member("srv/note", b"x" * 100, owner=(7, 8)),
        directory("listed", 0o744, owner=(7, 8)),
        member("listed/note", b"x" * 100, owner=(7, 8)),
    )
    blob = order_descriptor(tar)
    try:
        await layers.work("unpack", inherit=[blob], blob=blob, diff_id=digest(tar), lower=root.lower, target=root.upper)
    finally:
        os.close(blob)


@pytest.fixture
def state(tmp_path: Path) -> State:
    try:
        ids()
    except NoRangeError as error:
        pytest.skip(str(error))
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(path.stat().st_mode | 0o011)  # users inside go through them
    made = State(tmp_path / "state")
    made.create()
    return made


@pytest.fixture
async def layers(state: State) -> Layers:
    """A store with a layer, and what a killed cloud has left beside it."""
    layers = Layers(state.root / inventory.ROOTFS)
    await layers.once(KEY, lambda root: fill(layers, root))
    await fill(layers, layers.open([]))
    return layers


async def test_a_reset_leaves_nothing(state: State, layers: Layers) -> None:
    assert layers.has(KEY)
    daemon.reset(state)
    assert not state.root.exists()


async def test_a_collection_removes_what_no_image_needs(state: State, layers: Layers) -> None:
    database = Database(state.root / "cloud.sqlite")
    assert inventory.collect(state.root, database)[0] == 2
    database.close()
    assert layers.keys() == []
    assert list((layers.store / "live").iterdir()) == []


async def test_a_base_that_nobody_uses_is_removed(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_bases, "_held", {})
    path = await kept_bases.held(KEY, fill)
    assert path is not None
    assert path.is_dir()
    assert kept_bases.prune(before=time.time() + 60)[0] == 0
    for descriptor in kept_bases._held.values():
        os.close(descriptor)
    assert kept_bases.prune(before=time.time() + 60)[0] == 1
    assert not path.exists()
    assert list((kept_bases.directory() / "live").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="these tests run as an ordinary user already")
@pytest.mark.timeout(400)
def test_it_is_the_same_for_an_ordinary_user() -> None:
    assert run_as_ordinary_user("tests/standard/local_cloud/rootfs/test_removal.py", with_ids=True) >= 3
