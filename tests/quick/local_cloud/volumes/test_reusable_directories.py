"""A mount may take over the directory of an ended one, and nobody can tell."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.quick.local_cloud.volumes.conftest import Service
from workbench.local_cloud.volumes.reusable_directories import ReusableDirectories, ReusableDirectory
from workbench.local_cloud.volumes.stacks import Place
from workbench.local_cloud.volumes.working_copies import WorkingCopy


@pytest.fixture
def overlay() -> bool:
    """These directories are those of mounts without an overlay."""
    return False


async def _ended(service: Service, **place: str) -> WorkingCopy:
    copy = await service.mount(**place)
    (copy.path / "d").mkdir()
    (copy.path / "d" / "f").write_text("1")
    (copy.path / "g").write_text("1")
    await copy.commit("test:1")
    return copy


async def test_the_next_mount_takes_the_directory_and_sees_what_is_committed_since(service: Service) -> None:
    ended = await _ended(service)
    await ended.release()
    other = await service.mount()
    assert other.path == ended.path  # nobody else had it
    (other.path / "g").unlink()
    (other.path / "d" / "f").write_text("22")
    (other.path / "new").write_text("3")
    await other.commit("test:2")
    await other.release()
    writer = await service.mount(sub_path="d")
    (writer.path / "f").write_text("333")
    await writer.commit("test:3")
    last = await service.mount()
    assert last.path == ended.path
    shown = {str(path.relative_to(last.path)): path.read_text() for path in last.path.rglob("*") if path.is_file()}
    assert shown == {"d/f": "333", "new": "3"}
    assert (await last.uncommitted()).files == 0


async def test_an_ended_copy_leaves_its_directory_alone(service: Service) -> None:
    ended = await _ended(service)
    await ended.release()
    other = await service.mount()
    await ended.release()
    await ended.discard()
    assert (other.path / "g").read_text() == "1"


async def test_a_directory_serves_its_own_place_only(service: Service) -> None:
    ended = await _ended(service, sub_path="one")
    await ended.release()
    others = [await service.mount(), await service.mount(sub_path="two")]
    assert ended.path not in [other.path for other in others]


def _write(tree: Path) -> None:
    (tree / "g").write_text("never committed")


def _link(tree: Path) -> None:
    (tree / "g").unlink()
    os.link(tree / "d" / "f", tree / "g")


def _bind(tree: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "s"))


@pytest.mark.parametrize(
    "spoil",
    [
        _write,
        _link,
        _bind,
        lambda tree: (tree / "g").chmod(0o4755),
        lambda tree: (tree / "d").chmod(0o1777),
        lambda tree: os.setxattr(tree / "g", "user.note", b"to the next"),
        lambda tree: os.setxattr(tree / "d", "user.note", b"to the next"),
        lambda tree: os.setxattr(tree, "user.note", b"to the next"),
        lambda tree: (tree / "x").mkdir(),
    ],
)
async def test_what_a_commit_does_not_describe_reaches_no_other_mount(
    service: Service, spoil: Callable[[Path], None]
) -> None:
    ended = await _ended(service)
    spoil(ended.path)
    if spoil is _link:
        await ended.commit("test:2")
    await ended.release()
    assert not ended.path.exists()


async def test_the_mode_of_its_root_is_not_inherited(service: Service) -> None:
    ended = await _ended(service)
    ended.path.chmod(0o777)
    await ended.release()
    other = await service.mount()
    assert other.path == ended.path
    assert other.path.stat().st_mode & 0o7777 == 0o700


def test_few_are_kept(tmp_path: Path) -> None:
    """The newest: they cost disk space."""
    reusable = ReusableDirectories()
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        reusable.keep(Place("vo-1", str(number), None), ReusableDirectory(tmp_path / str(number), {}))
    kept = sorted(int(path.name) for path in tmp_path.iterdir())
    assert kept == list(range(12, 20))
    (tmp_path / "again").mkdir()
    reusable.keep(Place("vo-1", "19", None), ReusableDirectory(tmp_path / "again", {}))
    assert not (tmp_path / "19").exists()
    found = reusable.take(Place("vo-1", "19", None))
    assert found is not None
    assert found.holder == tmp_path / "again"
    assert reusable.take(Place("vo-1", "19", None)) is None
