"""An overlay is to a job what a plain directory is, and a commit of it what a commit of all its files would be."""

import ctypes
import errno
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.quick.local_cloud.volumes.conftest import VOLUME, Service
from workbench.local_cloud.process.private_mounts import why_without_overlay
from workbench.local_cloud.volumes import layers, overlay_mounts
from workbench.local_cloud.volumes.working_copies import WorkingCopies, WorkingCopy


@pytest.fixture
def overlay(without_overlay: str, tmp_path: Path) -> bool:
    if why := without_overlay or overlay_mounts.why_unusable(tmp_path):
        pytest.skip(why)
    return True


Shown = dict[str, tuple[str, int, bytes]]  # kind, mode, and content or target


def _walk(root: Path) -> Shown:
    """What a full walk of a directory finds."""
    found: Shown = {}
    for path in root.rglob("*"):
        status = path.lstat()
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISLNK(status.st_mode):
            value = ("symlink", 0o777, os.fsencode(path.readlink()))
        elif stat.S_ISDIR(status.st_mode):
            value = ("dir", mode, b"")
        else:
            value = ("file", mode, path.read_bytes())
        found[str(path.relative_to(root))] = value
    return found


def _committed(service: Service) -> Shown:
    found: Shown = {}
    for entry in service.committed.below(VOLUME, ""):
        data = service.content.read(entry.sha256) if entry.kind == "file" else entry.target.encode()
        found[entry.path] = (entry.kind, entry.mode, data)
    return found


def exchange(one: Path, other: Path) -> None:
    """Exchange two names in one step (renameat2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _write(path: Path, _other: Path, text: str) -> None:
    path.write_text(text)


def _append(path: Path, _other: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


OPERATIONS: tuple[Callable[[Path, Path, str], object], ...] = (
    _write,
    _write,
    _append,
    lambda path, _other, _text: path.unlink(),
    lambda path, _other, _text: path.mkdir(),
    lambda path, _other, _text: path.mkdir(),
    lambda path, _other, _text: path.rmdir(),
    lambda path, _other, _text: shutil.rmtree(path),
    lambda path, other, _text: path.rename(other),
    lambda path, other, _text: path.rename(other),
    lambda path, other, _text: path.rename(other),
    lambda path, other, _text: exchange(path, other),
    lambda path, other, _text: os.link(path, other, follow_symlinks=False),
    lambda path, _other, text: path.symlink_to(text),
    lambda path, _other, text: path.chmod(0o700 + len(text)),
    lambda path, _other, _text: path.touch(),
    lambda path, _other, _text: path.open("r+").close(),
)
NAMES = ["a", "b", "c", "a/a", "a/b", "b/a", "b/c", "a/a/a", "a/b/c", "b/a/a", "c/c/c", "c/c"]


def _follow(plain: Path, before: Shown, after: Shown) -> None:
    """Change a plain directory as a reload does: what is as it was is left alone, so it keeps its hard links."""
    for path in sorted(before, reverse=True):
        if path not in after or before[path][0] != after[path][0] or before[path][2] != after[path][2]:
            (plain / path).rmdir() if before[path][0] == "dir" else (plain / path).unlink()
    for path, (kind, mode, data) in sorted(after.items()):
        if before.get(path) == (kind, mode, data):
            continue
        if kind == "dir":
            (plain / path).mkdir(exist_ok=True)
        elif kind == "symlink":
            (plain / path).symlink_to(os.fsdecode(data))
        else:
            (plain / path).unlink(missing_ok=True)
            (plain / path).write_bytes(data)
        if kind != "symlink":
            (plain / path).chmod(mode)


def _operate(chance: random.Random, roots: list[Path]) -> None:
    """Do one thing in several directories; all must allow it, or refuse it alike.

    Where the kernel renames no directory of the layers, what it refuses in the first is done in none.
    """
    operation, path, other = chance.choice(OPERATIONS), chance.choice(NAMES), chance.choice(NAMES)
    text = "x" * chance.randint(0, 6) + str(chance.randint(0, 3))
    refusals: list[str] = []
    for root in roots:
        try:
            operation(root / path, root / other, text)
        except OSError as error:
            if error.errno == errno.EXDEV and root == roots[0] and not overlay_mounts.RENAMES_DIRECTORIES:
                return
            refusals.append(str(error))
    assert len(refusals) in (0, len(roots)), (path, other, refusals)


def _without_links(plain: Path) -> None:
    """Make a plain directory what a new mount is: without hard links."""
    for path in plain.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_nlink > 1:
            shutil.copy2(path, plain / "alone")
            (plain / "alone").rename(path)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(8))
async def test_whatever_a_job_does_a_commit_is_what_a_full_walk_would_find(
    service: Service, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a plain directory to which the same is done: renames of directories, links, exchanges, all of it."""
    monkeypatch.setattr(layers, "_MAX_LAYERS", 3)
    chance = random.Random(seed)
    plain = tmp_path / "plain"
    plain.mkdir()
    copy = await service.mount()
    for step in range(80):
        for _ in range(chance.randint(1, 5)):
            _operate(chance, [copy.path, plain])
        assert _walk(copy.path) == _walk(plain)
        match chance.choice(["commit", "commit", "look", "end", "kill", "reload", "other"]):
            case "look":
                await copy.uncommitted()
                continue
            case "kill":
                await copy.commit("test:")
                await copy.discard()
                copy = await service.mount()
                _without_links(plain)
            case "end":
                await copy.commit("test:")
                await copy.release()
                copy = await service.mount()
                _without_links(plain)
            case "reload":
                await copy.commit("test:")
                await copy.reload()
            case "other":
                await copy.commit("test:")
                other = await service.mount()
                before = _walk(plain)
                for _ in range(4):
                    _operate(chance, [other.path])
                await other.commit("test:other")
                _follow(plain, before, _walk(other.path))
                await (other.release if chance.random() < 0.5 else other.discard)()
                await copy.reload()
            case _:
                await copy.commit("test:")
        assert _committed(service) == _walk(plain), f"after step {step}"
        assert (await copy.uncommitted()).paths == ()
    await copy.release()
    await service.copies.mount(VOLUME)
    [stack] = service.copies._layers._stacks.values()  # type: ignore[union-attr]  # these mounts have layers
    assert (stack.entries, stack.size) == (len(_walk(plain)), service.committed.size_below(VOLUME, ""))


async def _project(service: Service) -> WorkingCopy:
    """A mount of a project that an earlier mount has committed."""
    first = await service.mount()
    (first.path / "d" / "e").mkdir(parents=True)
    for name in ("f", "g", "d/f", "d/e/f"):
        (first.path / name).write_text(name)
    await first.commit("test:1")
    await first.release()
    return await service.mount()


async def test_a_mount_and_a_commit_read_no_file_that_did_not_change(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their cost follows what was written, not the size of the project."""
    await (await _project(service)).release()
    laid_out: list[str] = []
    monkeypatch.setattr(service.content, "copy_into", lambda sha256, descriptor: laid_out.append(sha256))
    copy = await service.mount()
    assert (copy.path / "d/e/f").read_text() == "d/e/f"
    (copy.path / "d/new").write_text("1")
    result = await copy.commit("test:2")
    assert (result.files_changed, result.bytes_changed) == (1, 1)
    await copy.release()
    assert (await (await service.mount()).uncommitted()).paths == ()
    assert laid_out == []


async def test_what_is_opened_or_touched_but_not_changed_is_no_change(service: Service) -> None:
    """Each makes the kernel copy the whole file up."""
    copy = await _project(service)
    (copy.path / "f").open("r+").close()
    os.utime(copy.path / "g")
    (copy.path / "d/f").chmod((copy.path / "d/f").stat().st_mode & 0o777)
    (copy.path / "d/e/f").rename(copy.path / "d/e/x")
    (copy.path / "d/e/x").rename(copy.path / "d/e/f")
    if overlay_mounts.RENAMES_DIRECTORIES:
        (copy.path / "d").rename(copy.path / "x")
        (copy.path / "x").rename(copy.path / "d")
    assert (await copy.commit("test:2")).number is None


async def test_a_mount_shows_its_own_state_whatever_becomes_of_the_stack(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No layer changes or goes under a mount: neither when others end, nor when the stack is flattened."""
    monkeypatch.setattr(layers, "_MAX_LAYERS", 2)
    old = await _project(service)
    for number in range(12):
        other = await service.mount()
        (other.path / "f").write_text(str(number))
        (other.path / f"new{number}").write_text("1")
        (other.path / f"new{number - 1}").unlink(missing_ok=True)
        await other.commit("test:")
        await (other.release if number % 3 else other.discard)()
        assert {path.name: path.read_text() for path in old.path.iterdir() if path.is_file()} == {"f": "f", "g": "g"}
    await old.reload()
    assert sorted(path.name for path in old.path.iterdir()) == ["d", "f", "g", "new11"]
    assert (old.path / "f").read_text() == "11"


async def test_unused_layers_are_removed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_MAX_LAYERS", 2)
    monkeypatch.setattr(layers, "_MAX_PLACES", 1)
    for number in range(8):
        copy = await service.mount(sub_path=str(number % 2))
        (copy.path / "f").write_text(str(number))
        await copy.commit("test:")
        await copy.release()
    service.copies.close()
    kept = [path for path in (service.root / "copies-layers").iterdir() if path.name != "0"]
    records = [path for path in kept if path.suffix == ".json"]
    assert 1 <= len(kept) - len(records) <= 4
    assert len(records) <= 2  # one for each place
    assert list((service.root / "copies").iterdir()) == []


async def test_marks_of_an_overlay_made_by_a_job_mean_nothing(service: Service) -> None:
    """By root, even: a guest may do less. Nothing disappears from what is committed, and nothing points elsewhere."""
    copy = await _project(service)
    kinds = ("trusted", "user") if os.geteuid() == 0 else ("user",)
    for kind in kinds:
        for name in ("opaque", "overlay.opaque", "overlay.overlay.opaque"):
            os.setxattr(copy.path / "d", f"{kind}.overlay.{name}", b"y")
        os.setxattr(copy.path / "d/e", f"{kind}.overlay.redirect", b"/d")
        os.setxattr(copy.path / "f", f"{kind}.overlay.metacopy", b"")
    with pytest.raises(PermissionError):
        os.mknod(copy.path / "h", stat.S_IFCHR, os.makedev(0, 0))
    (copy.path / ".wh.g").write_text("")
    (copy.path / ".wh..wh..opq").write_text("")
    await copy.commit("test:2")
    assert {c.path for c in service.committed.changes(VOLUME, 2)} == {".wh.g", ".wh..wh..opq"}
    await copy.release()
    other = await service.mount()
    assert {name for name in ("d/f", "d/e/f", "f", "g") if (other.path / name).read_text() == name} == {
        "d/f", "d/e/f", "f", "g",
    }  # fmt: skip
    assert not {name for name in os.listxattr(other.path / "d") if not overlay_mounts.is_own(name)}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
async def test_no_device_comes_from_a_job(service: Service) -> None:
    copy = await _project(service)
    for number, (name, kind) in enumerate({"null": stat.S_IFCHR, "disk": stat.S_IFBLK}.items()):
        os.mknod(copy.path / name, kind | 0o666, os.makedev(1, 3 + number))
    (copy.path / "f").unlink()
    os.mknod(copy.path / "f", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(PermissionError):
        (copy.path / "null").open()
    result = await copy.commit("test:2")
    assert sorted(item.path for item in result.skipped) == ["disk", "f", "null"]
    assert service.read("f") == b"f", "what is skipped is not taken for removed"
    await copy.release()
    assert sorted(path.name for path in (await service.mount()).path.iterdir()) == ["d", "f", "g"]


def _link(tree: Path) -> None:
    (tree / "g").unlink()
    os.link(tree / "d" / "f", tree / "g")


@pytest.mark.parametrize(
    "spoil",
    [
        _link,
        lambda tree: (tree / "g").chmod(0o4755),
        lambda tree: (tree / "d").chmod(0o1777),
        lambda tree: os.setxattr(tree / "g", "user.note", b"to the next"),
        lambda tree: os.setxattr(tree / "d", "user.note", b"to the next"),
        lambda tree: os.setxattr(tree, "user.note", b"to the next"),
        lambda tree: tree.chmod(0o777),
        lambda tree: os.mkfifo(tree / "fifo"),
        lambda tree: os.geteuid() == 0 and os.chown(tree / "g", 12_345, 12_345),
        lambda tree: shutil.move(tree / "d", tree / "moved"),
        lambda tree: (tree / "never committed").write_text("1"),
    ],
)
async def test_what_a_commit_does_not_describe_reaches_no_other_mount(
    service: Service, spoil: Callable[[Path], object]
) -> None:
    """The directory of an ended mount becomes a layer of the next: with committed files, and nothing else."""
    copy = await _project(service)
    (copy.path / "own").write_text("1")
    spoil(copy.path)
    if not (copy.path / "never committed").exists():
        await copy.commit("test:2")
    await copy.release()
    other = await service.mount()
    shown = [other.path, *other.path.rglob("*")]
    assert {path.stat().st_uid for path in shown} == {os.geteuid()}
    assert not [path for path in shown if path.stat().st_mode & 0o7000 or path.is_fifo()]
    assert not [name for path in shown for name in os.listxattr(path) if not overlay_mounts.is_own(name)]
    assert not [path for path in shown if path.is_file() and path.stat().st_nlink > 1]
    assert other.path.stat().st_mode & 0o777 == 0o700
    assert {path: value[2] for path, value in _walk(other.path).items()} == {
        path: value[2] for path, value in _committed(service).items()
    }


async def test_local_changes_of_every_kind_survive_a_reload(service: Service) -> None:
    """What is not committed is neither lost nor published, when others change what is around it, or the same files."""
    copy, other = await _project(service), await service.mount()
    for name in ("f", "g", "d/f"):
        (other.path / name).write_text("theirs")
    (other.path / "d/new").write_text("theirs")
    (other.path / "x").write_text("theirs")
    await other.commit("test:theirs")
    (copy.path / "f").write_text("mine")
    (copy.path / "g").unlink()
    shutil.move(copy.path / "d/e", copy.path / "moved")
    (copy.path / "moved/more").write_text("mine")
    (copy.path / "link").symlink_to("f")
    os.mkfifo(copy.path / "fifo")
    (copy.path / os.fsdecode(b"bad-\xff")).write_text("mine")
    before = set((await copy.uncommitted()).paths)
    await copy.reload()
    assert set((await copy.uncommitted()).paths) == before
    assert service.read("f") == b"theirs"
    assert [(copy.path / name).read_text() for name in ("f", "d/f", "d/new", "x", "moved/f", "moved/more", "link")] == [
        "mine", "theirs", "theirs", "theirs", "d/e/f", "mine", "mine",
    ]  # fmt: skip
    assert not (copy.path / "g").exists()
    assert not (copy.path / "d/e").exists()
    assert (copy.path / "fifo").is_fifo()
    assert (copy.path / os.fsdecode(b"bad-\xff")).read_text() == "mine"
    await copy.commit("test:mine")
    assert (service.read("f"), service.read("g"), service.read("d/e/f")) == (b"mine", None, None)
    assert (service.read("moved/f"), service.read("d/f")) == (b"d/e/f", b"theirs")


async def test_the_mounts_of_a_killed_process_are_no_obstacle(service: Service) -> None:
    """A cloud that begins where a killed one has left its directories removes them, and touches no committed file."""
    copy = await _project(service)
    (copy.path / "f").write_text("never committed")
    again = WorkingCopies(service.root / "copies", service.committed, service.content, overlay=True)
    assert list((service.root / "copies").iterdir()) == []
    other = await again.mount(VOLUME)
    assert (other.path / "f").read_text() == "f"
    await other.discard()
    again.close()


async def test_a_local_removal_takes_nothing_that_others_have_put_there_meanwhile(service: Service) -> None:
    copy, other = await _project(service), await service.mount()
    shutil.rmtree(copy.path / "d")
    (other.path / "d/e/theirs").write_text("1")
    (other.path / "d/f").write_text("changed")
    await other.commit("test:theirs")
    await copy.reload()
    assert sorted(_walk(copy.path)) == ["d", "d/e", "d/e/theirs", "f", "g"]
    await copy.commit("test:mine")
    assert service.paths() == ["d", "d/e", "d/e/theirs", "f", "g"]


async def test_where_an_overlay_cannot_be_it_is_said_why(service: Service) -> None:
    """The state may lie on an overlay itself, as in a container, or where nobody may write."""
    copy = await _project(service)
    assert f"cannot be used below {copy.path} (" in overlay_mounts.why_unusable(copy.path)
    assert "cannot be used below /proc (" in overlay_mounts.why_unusable(Path("/proc"))
    assert "cannot be used below /sys (" in why_without_overlay(Path("/sys"))
    assert why_without_overlay(service.root) == ""


async def test_what_is_written_while_a_reload_goes_on_is_not_lost(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job does not stop for a reload: until nobody sees the old mount any more, its writes count."""
    copy, other = await _project(service), await service.mount()
    (other.path / "theirs").write_text("1")
    (other.path / "d/f").write_text("theirs")
    await other.commit("test:theirs")
    (copy.path / "before").write_text("1")
    unmount = overlay_mounts.unmount

    def late(target: Path) -> None:
        if target == copy.path:
            (copy.path / "late").write_text("late")
            (copy.path / "late").chmod(0o640)
            (copy.path / "new/dir").mkdir(parents=True)
            (copy.path / "new/dir/file").write_text("late")
            (copy.path / "link").symlink_to("late")
            (copy.path / "before").write_text("late")
            (copy.path / "g").unlink()
            shutil.rmtree(copy.path / "d/e")
        unmount(target)

    with monkeypatch.context() as patch:
        patch.setattr(overlay_mounts, "unmount", late)
        await copy.reload()
    assert sorted(_walk(copy.path)) == [
        "before", "d", "d/f", "f", "late", "link", "new", "new/dir", "new/dir/file", "theirs",
    ]  # fmt: skip
    assert {(copy.path / name).read_text() for name in ("before", "late", "link", "new/dir/file")} == {"late"}
    assert (copy.path / "late").stat().st_mode & 0o777 == 0o640
    await copy.commit("test:mine")
    assert _committed(service) == _walk(copy.path)
    assert service.read("d/f") == b"theirs"
