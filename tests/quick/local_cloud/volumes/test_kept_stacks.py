"""The layers of a volume outlive their cloud, if nothing of them has changed: what has is laid out again."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.quick.local_cloud.volumes.conftest import VOLUME, Service
from workbench.local_cloud.volumes import layers, overlay_mounts
from workbench.local_cloud.volumes.committed import CommittedVolumes, Entry, Removal
from workbench.local_cloud.volumes.working_copies import WorkingCopies

FILES = {"f": "f", "g": "g", "d/f": "df", "d/e/f": "def"}


@pytest.fixture
def overlay(without_overlay: str, tmp_path: Path) -> bool:
    if why := without_overlay or overlay_mounts.why_unusable(tmp_path):
        pytest.skip(why)
    return True


def _layers(service: Service) -> Path:
    return service.root / "copies-layers"


async def _end_of_a_cloud(service: Service) -> None:
    """Commit files in two mounts of an empty volume and end their cloud: the stack has two layers and the empty one."""
    for names in (("f", "g", "d/f"), ("d/e/f",)):
        copy = await service.mount()
        for name in names:
            (copy.path / name).parent.mkdir(parents=True, exist_ok=True)
            (copy.path / name).write_text(FILES[name])
        await copy.commit("test:")
        await copy.release()
    service.copies.close()


async def _next_cloud(service: Service, patch: pytest.MonkeyPatch) -> tuple[dict[str, str], list[str]]:
    """What the first mount of the next cloud shows, and the contents that were written for it."""
    laid_out: list[str] = []
    copy_into = service.content.copy_into

    def noted(sha256: str, descriptor: int) -> None:
        laid_out.append(sha256)
        copy_into(sha256, descriptor)

    patch.setattr(service.content, "copy_into", noted)
    copies = WorkingCopies(service.root / "copies", service.committed, service.content, overlay=True)
    try:
        copy = await copies.mount(VOLUME)
        shown = {str(path.relative_to(copy.path)): path.read_text() for path in copy.path.rglob("*") if path.is_file()}
        assert (await copy.uncommitted()).paths == ()
        await copy.discard()
    finally:
        copies.close()
    return shown, laid_out


async def test_the_next_cloud_lays_out_no_file_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    await _end_of_a_cloud(service)
    for _ in range(3):
        assert await _next_cloud(service, monkeypatch) == (FILES, [])


async def test_what_was_committed_meanwhile_is_all_that_is_laid_out(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _end_of_a_cloud(service)
    sha256 = service.content.add_bytes(b"new")
    service.committed.publish(VOLUME, [Entry("d/f", "file", 0o644, 3, sha256), Removal("g")], author="test:")
    shown = {"f": "f", "d/f": "new", "d/e/f": "def"}
    assert await _next_cloud(service, monkeypatch) == (shown, [sha256])
    assert await _next_cloud(service, monkeypatch) == (shown, [])


async def test_a_killed_cloud_leaves_its_large_stacks(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no time for records, so they are written before."""
    monkeypatch.setattr(layers, "_UNRECORDED", 0)
    await _end_of_a_cloud(service)
    copy = await service.mount()
    (copy.path / "never committed").write_text("1")
    assert await _next_cloud(service, monkeypatch) == (FILES, [])


def _tree(top: Path, name: str) -> Path:
    [found] = [path for path in top.glob(f"*/tree/{name}") if path.is_file()]
    return found


def _copied(top: Path) -> None:
    """What `cp -a` makes of a state directory: the same files with the same times, but for one that somebody wrote."""
    shutil.copytree(top, top.with_name("copied"), symlinks=True)
    shutil.rmtree(top)
    top.with_name("copied").rename(top)


def _overwritten(top: Path) -> None:
    file = _tree(top, "f")
    before = file.stat()
    file.write_text("x")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _cut(top: Path) -> None:
    [record] = top.glob("*.json")
    record.write_bytes(record.read_bytes()[:-20])


def _of_another_place(top: Path) -> None:
    [record] = top.glob("*.json")
    record.write_text(record.read_text().replace(f'"{VOLUME}"', '"vo-other"'))


def _with_other_numbers(top: Path) -> None:
    [record] = top.glob("*.json")
    record.write_text(record.read_text().replace('"layers": [[0,', '"layers": [[-1,'))


@pytest.mark.parametrize(
    "spoil",
    [
        _overwritten,
        _copied,
        _cut,
        _of_another_place,
        _with_other_numbers,
        lambda top: _tree(top, "d/f").unlink(),
        lambda top: _tree(top, "d/e/f").chmod(0o600),
        lambda top: os.setxattr(_tree(top, "f"), "user.note", b"1"),
        lambda top: os.link(_tree(top, "f"), _tree(top, "f").with_name("linked")),
        lambda top: _tree(top, "f").with_name("more").mkdir(),
        lambda top: (_tree(top, "f").unlink(), _tree(top, "d/f").rename(_tree(top, "g").with_name("f"))),
        lambda top: shutil.rmtree(_tree(top, "f").parent),
        lambda top: (_tree(top, "f").parent.rename(top / "away"), (top / "1/tree").symlink_to(top / "away")),
        lambda top: (top / "0/tree/foreign").write_text("1"),
        lambda top: [path.unlink() for path in top.glob("*.json")],
        lambda top: next(top.glob("*.json")).write_text("[1]"),
        lambda top: next(top.glob("*.json")).write_text('{"place": 1}'),
        lambda top: next(top.glob("*.json")).write_bytes(b"\xff" * 1000),
        lambda top: (top / "garbage.json").mkdir(),
    ],
)
async def test_what_is_torn_or_changed_is_laid_out_anew(
    service: Service, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], object]
) -> None:
    await _end_of_a_cloud(service)
    spoil(_layers(service))
    for _ in range(2):
        assert (await _next_cloud(service, monkeypatch))[0] == FILES
    assert (await _next_cloud(service, monkeypatch))[1] == []


async def test_a_history_that_is_another_one_or_has_been_cut_has_no_stack(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state is restored from a copy, and goes on: the same numbers are other commits then."""
    await _end_of_a_cloud(service)
    head = service.committed.head(VOLUME)
    service.committed.prune(VOLUME, head)
    assert (await _next_cloud(service, monkeypatch))[0] == FILES
    service.committed.drop(VOLUME)
    service.committed.create(VOLUME, version=2)
    sha256 = service.content.add_bytes(b"other")
    for _ in range(head):
        service.committed.publish(VOLUME, [Entry("other", "file", 0o644, 5, sha256)], author="test:")
    assert await _next_cloud(service, monkeypatch) == ({"other": "other"}, [sha256])


async def test_layers_that_nobody_needs_are_removed_with_their_records(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _end_of_a_cloud(service)
    (_layers(service) / "77").mkdir()
    service.committed.drop(VOLUME)
    WorkingCopies(service.root / "copies", CommittedVolumes(service.database), service.content, overlay=True).close()
    copies = WorkingCopies(service.root / "copies", service.committed, service.content, overlay=True)
    assert copies._layers is not None
    copies._layers._later.shutdown()
    assert [path.name for path in _layers(service).iterdir()] == ["0"]
