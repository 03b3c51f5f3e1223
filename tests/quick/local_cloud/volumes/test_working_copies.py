"""A mount is private: its writes show elsewhere on commit only, and nothing a guest leaves there tricks the host."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.quick.local_cloud.volumes.conftest import LIMITS, VOLUME, Service
from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.store.disk_reserve import RESERVE_VARIABLE
from workbench.local_cloud.volumes.committed import Entry
from workbench.local_cloud.volumes.working_copies import WorkingCopies

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another uid")


async def test_a_forgotten_commit_is_invisible_elsewhere(service: Service) -> None:
    """The classic mistake on Modal must fail here in the same way."""
    writer = await service.mount()
    (writer.path / "result.txt").write_text("done")
    pending = await writer.uncommitted()
    assert (pending.files, pending.size) == (1, 4)
    assert service.paths() == []
    assert list((await service.mount()).path.iterdir()) == []
    await writer.discard()
    assert service.paths() == []


async def test_a_commit_shows_in_new_mounts_and_after_reload_in_old_ones(service: Service) -> None:
    """Exactly one step makes writes visible to others: commit on one side, mount or reload on the other."""
    old, writer = await service.mount(), await service.mount()
    (writer.path / "d").mkdir()
    (writer.path / "d" / "f").write_bytes(b"1")
    (writer.path / "d" / "f").chmod(0o755)
    (writer.path / "link").symlink_to("d/f")
    result = await writer.commit("test:1")
    assert (result.number, result.files_changed, result.bytes_changed, result.skipped) == (1, 2, 1, ())
    assert list(old.path.iterdir()) == []
    await old.reload()
    for copy in (old, await service.mount()):
        assert (copy.path / "link").read_bytes() == b"1"
        assert (copy.path / "d" / "f").stat().st_mode & 0o777 == 0o755
        assert (await copy.uncommitted()).paths == ()
        assert (await copy.commit("test:2")).number is None


async def test_commits_tell_edits_modes_removals_and_changed_kinds(service: Service) -> None:
    """Every kind of change a job can make arrives, and nothing else."""
    copy = await service.mount()
    for name in ("same", "edited", "mode", "gone", "file-to-dir"):
        (copy.path / name).write_text(name)
    (copy.path / "dir-to-file" / "deep").mkdir(parents=True)
    await copy.commit("test:1")
    (copy.path / "edited").write_text("EDITED")
    (copy.path / "mode").chmod(0o600)
    (copy.path / "gone").unlink()
    (copy.path / "file-to-dir").unlink()
    (copy.path / "file-to-dir").mkdir()
    (copy.path / "file-to-dir" / "x").write_text("x")
    (copy.path / "dir-to-file" / "deep").rmdir()
    (copy.path / "dir-to-file").rmdir()
    (copy.path / "dir-to-file").write_text("y")
    await copy.commit("test:2")
    changed = {change.path for change in service.committed.changes(VOLUME, 2)}
    assert changed == {"edited", "mode", "gone", "file-to-dir", "file-to-dir/x", "dir-to-file", "dir-to-file/deep"}
    assert service.read("edited") == b"EDITED"
    assert (await (await service.mount()).uncommitted()).paths == ()


async def test_an_edit_of_the_same_size_within_one_clock_tick_is_not_missed(service: Service) -> None:
    """Size and times alone cannot tell two writes in the same tick apart."""
    copy = await service.mount()
    for round_ in range(40):
        text = f"{round_:02}".encode()
        (copy.path / "f").write_bytes(text)
        await copy.commit("test:1")
        assert service.read("f") == text


async def test_the_last_commit_wins_per_file(service: Service) -> None:
    """Two writers of different files both keep their work; of the same file the later commit stands."""
    seed = await service.mount()
    (seed.path / "shared").write_text("0")
    (seed.path / "untouched").write_text("0")
    await seed.commit("test:seed")
    one, two = await service.mount(), await service.mount()
    for copy, text in ((one, "one"), (two, "two")):
        (copy.path / "shared").write_text(text)
        (copy.path / text).write_text(text)
    await two.commit("test:2")
    await one.commit("test:1")
    assert service.paths() == ["one", "shared", "two", "untouched"]
    assert service.read("shared") == b"one"


async def test_reload_keeps_uncommitted_work_and_takes_the_rest(service: Service) -> None:
    """A reload must neither destroy a job's files nor publish them."""
    here, there = await service.mount(), await service.mount()
    (there.path / "a").write_text("theirs")
    (there.path / "d").mkdir()
    (there.path / "d" / "b").write_text("theirs")
    await there.commit("test:there")
    (here.path / "a").write_text("mine")
    await here.reload()
    assert ((here.path / "a").read_text(), (here.path / "d" / "b").read_text()) == ("mine", "theirs")
    assert service.read("a") == b"theirs"
    (there.path / "d" / "b").unlink()
    (there.path / "d").rmdir()
    await there.commit("test:there")
    await here.reload()
    assert not (here.path / "d").exists()
    await here.commit("test:here")
    assert service.paths() == ["a"]
    assert service.read("a") == b"mine"


async def test_reload_replaces_files_whole(service: Service) -> None:
    """A reader with an open file keeps the old content: nothing is overwritten under it."""
    here, there = await service.mount(), await service.mount()
    (there.path / "f").write_text("first")
    await there.commit("test:1")
    await here.reload()
    with (here.path / "f").open() as held:
        (there.path / "f").write_text("second, longer")
        await there.commit("test:2")
        await here.reload()
        assert held.read() == "first"
    assert (here.path / "f").read_text() == "second, longer"


async def test_a_sub_path_mount_sees_and_changes_its_own_files_only(service: Service) -> None:
    """Tenants are kept apart by sub-path: no file of another may even be laid out."""
    alice = await service.mount(sub_path="/projects/alice")
    assert service.paths() == ["projects", "projects/alice"]
    (alice.path / "f").write_text("a")
    await alice.commit("test:alice")
    bob = await service.mount(sub_path="projects/bob/")
    assert list(bob.path.iterdir()) == []
    (bob.path / "f").write_text("b")
    await bob.commit("test:bob")
    assert service.read("projects/alice/f") == b"a"
    assert service.read("projects/bob/f") == b"b"
    assert [path.name for path in (await service.mount(sub_path="projects/bob")).path.iterdir()] == ["f"]


@pytest.mark.parametrize("sub_path", ["../x", "a/../../b", "a\0b"])
async def test_sub_paths_that_climb_are_refused(service: Service, sub_path: str) -> None:
    """The SDK does not check them, so the cloud must."""
    with pytest.raises(CloudError):
        await service.mount(sub_path=sub_path)
    assert list((service.root / "copies").iterdir()) == []


async def test_a_sub_path_through_a_link_or_file_is_refused(service: Service) -> None:
    """A job that plants a link where another's sub-path would be gains nothing."""
    service.committed.publish(
        VOLUME, [Entry("link", "symlink", 0o777, target="/etc"), Entry("file", "file", 0o644)], author="a:"
    )
    for sub_path in ("link", "link/x", "file/x"):
        with pytest.raises(CloudError, match="not a directory"):
            await service.mount(sub_path=sub_path)


async def test_links_are_committed_as_links_and_never_followed(service: Service, tmp_path: Path) -> None:
    """A link to the host's secrets must carry its target's name out, not its content."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("s3cret")
    copy = await service.mount()
    (copy.path / "file").symlink_to(secret / "key")
    (copy.path / "dir").symlink_to(secret)
    (copy.path / "self").symlink_to(".")
    assert (await copy.commit("test:1")).skipped == ()
    assert service.paths() == ["dir", "file", "self"]
    await copy.reload()
    await copy.discard()
    assert (secret / "key").read_text() == "s3cret"


async def test_reload_never_writes_through_a_guests_link(service: Service, tmp_path: Path) -> None:
    """A guest that swaps a directory for a link just before a reload must not make the host write elsewhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    there, here = await service.mount(), await service.mount()
    (there.path / "d").mkdir()
    (there.path / "d" / "f").write_text("1")
    await there.commit("test:1")
    await here.reload()
    (there.path / "d" / "f").write_text("22")
    (there.path / "d" / "new").write_text("22")
    await there.commit("test:2")
    (here.path / "d" / "f").unlink()
    (here.path / "d").rmdir()
    (here.path / "d").symlink_to(outside)
    await here.reload()
    assert list(outside.iterdir()) == []


async def test_odd_things_are_skipped_by_name(service: Service) -> None:
    """FIFOs, sockets, undecodable names and endless depth neither block nor fail a commit; they are named."""
    copy = await service.mount()
    os.mkfifo(copy.path / "fifo")
    (copy.path / os.fsdecode(b"bad-\xff")).write_text("x")
    with (copy.path / "huge").open("wb") as file:
        file.truncate(LIMITS.max_file_bytes + 1)
    (copy.path / "good").write_text("x")
    result = await copy.commit("test:1")
    assert service.paths() == ["good"]
    assert sorted(item.path for item in result.skipped) == ["bad-\\udcff", "fifo", "huge"]


async def test_what_is_skipped_is_not_taken_for_removed(service: Service) -> None:
    """A committed file that grows beyond the limit keeps its last committed state."""
    copy = await service.mount()
    (copy.path / "f").write_text("x")
    await copy.commit("test:1")
    os.truncate(copy.path / "f", LIMITS.max_file_bytes + 1)
    assert (await copy.commit("test:2")).number is None
    assert service.read("f") == b"x"


async def test_a_bottomless_directory_can_be_committed_and_removed(service: Service) -> None:
    """A job can nest directories beyond any path length; that must exhaust neither stack nor descriptors."""
    copy = await service.mount()
    dig = "import os\nfor _ in range(3000):\n    os.mkdir('d'); os.chdir('d')\n"
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", dig], cwd=copy.path, check=True, timeout=60)
    result = await copy.commit("test:1")
    assert len(result.skipped) == 1
    await copy.discard()
    assert list((service.root / "copies").iterdir()) == []


async def test_commits_of_a_volume_of_version_1_take_their_turn_however_many_there_are(service: Service) -> None:
    """Modal bears five at a time there; who stays below that sees no difference."""
    service.committed.create("vo-first", version=1)
    copies = [await service.copies.mount("vo-first") for _ in range(12)]
    for number, copy in enumerate(copies):
        (copy.path / f"{number}").write_text("")
    done = await asyncio.gather(*(copy.commit("test:1") for copy in copies))
    assert sorted(result.number or 0 for result in done) == list(range(1, 13))
    assert len(service.committed.below("vo-first", "")) == 12


async def test_too_many_entries_are_refused(service: Service) -> None:
    """A volume's manifest has a bound, and a commit beyond it says so."""
    copy = await service.mount()
    for number in range(LIMITS.max_entries + 1):
        (copy.path / str(number)).touch()
    with pytest.raises(CloudError, match="at most 1000 files and directories"):
        await copy.commit("test:1")
    assert service.paths() == []


async def test_commit_beside_a_busy_writer_takes_whole_states_of_names(service: Service) -> None:
    """A job that writes, renames and deletes while we scan costs nothing but freshness: the final commit is exact."""
    copy = await service.mount()
    program = (
        "import os, sys\n"
        "sys.stdout.write('up\\n'); sys.stdout.flush()\n"
        "for n in range(2000):\n"
        "    open('tmp', 'wb').write(b'%05d' % n * 200); os.rename('tmp', f'f{n % 7}')\n"
        "    os.makedirs(f'd{n % 5}/e', exist_ok=True); open(f'd{n % 5}/e/x', 'ab').write(b'x')\n"
        "    if n % 3 == 0: os.unlink(f'd{n % 5}/e/x'); os.removedirs(f'd{n % 5}/e')\n"
    )
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=copy.path, stdout=asyncio.subprocess.PIPE
    )
    assert writer.stdout is not None
    await writer.stdout.readline()
    commits = 0
    while writer.returncode is None and commits < 200:
        await copy.commit("test:background")
        commits += 1
        for number in range(7):
            data = service.read(f"f{number}")
            assert data is None or data == data[:5] * 200
    assert await asyncio.wait_for(writer.wait(), 60) == 0
    await copy.commit("test:final")
    on_disk = {str(p.relative_to(copy.path)): p.read_bytes() for p in copy.path.rglob("*") if p.is_file()}
    committed = {e.path: service.read(e.path) for e in service.committed.below(VOLUME, "") if e.kind == "file"}
    assert committed == on_disk


async def test_a_cancelled_commit_still_finishes_and_nothing_is_lost(service: Service) -> None:
    """A caller that goes away must not leave the copy's idea of itself wrong."""
    copy = await service.mount()
    (copy.path / "f").write_text("1")
    task = asyncio.ensure_future(copy.commit("test:1"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await copy.commit("test:2")).number is None
    assert service.read("f") == b"1"


async def test_read_only_mounts_commit_nothing(service: Service) -> None:
    """The sandbox's bind mount forbids writes; the cloud does not rely on it."""
    copy = await service.mount(read_only=True)
    (copy.path / "f").write_text("1")
    assert (await copy.commit("test:1")).number is None
    assert service.paths() == []


async def test_discard_is_idempotent_and_leaves_nothing(service: Service) -> None:
    """Ending is done from several places."""
    copy = await service.mount()
    (copy.path / "locked").mkdir()
    (copy.path / "locked" / "f").write_text("1")
    (copy.path / "locked").chmod(0)
    await copy.discard()
    await copy.discard()
    assert list((service.root / "copies").iterdir()) == []
    with pytest.raises(CloudError, match="has ended"):
        await copy.commit("test:1")


async def test_a_crashed_clouds_copies_are_reaped_at_start(service: Service) -> None:
    """What was never committed is lost with the cloud, and its disk space comes back."""
    (await service.mount()).path.joinpath("f").write_text("1")
    WorkingCopies(service.root / "copies", service.committed, service.content)
    assert list((service.root / "copies").iterdir()) == []


async def test_an_unknown_volume_cannot_be_mounted(service: Service) -> None:
    """Ids come from clients."""
    with pytest.raises(CloudError, match="not found"):
        await service.copies.mount("vo-unknown")


@needs_root
async def test_a_mount_belongs_to_its_uid_and_to_no_other(service: Service) -> None:
    """Jobs of different projects run under different uids: the one must not reach the other's copy, even if let in."""
    service.committed.publish(
        VOLUME, [Entry("d/f", "file", 0o6755, sha256=service.content.add_bytes(b"x"))], author="a:"
    )
    copy = await service.mount(owner_uid=70_001)
    copy.path.chmod(0o777)
    assert ((copy.path / "d" / "f").stat().st_uid, (copy.path / "d" / "f").stat().st_mode & 0o7777) == (70_001, 0o755)
    for parent in service.root.parents:
        if parent.stat().st_uid == os.getuid() and Path(os.environ["PYTEST_DEBUG_TEMPROOT"]) in parent.parents:
            parent.chmod(0o711)
    service.root.chmod(0o711)

    def reaches(uid: int) -> bool:
        done = subprocess.run(
            ["cat", copy.path / "d" / "f"], user=uid, group=uid, extra_groups=[], capture_output=True, timeout=30
        )
        return done.stdout == b"x"

    assert reaches(70_001)
    assert not reaches(70_002)


async def test_what_keeps_its_owner_out_is_committed_as_it_is(service: Service) -> None:
    """A mode is a fact of a file, not a way to hide it from a commit; also where the cloud is no root."""
    copy = await service.mount()
    (copy.path / "locked").mkdir()
    (copy.path / "locked" / "inside").write_text("1")
    modes = {"none": 0o000, "write-only": 0o200, "run-only": 0o100, "locked": 0o000}
    for name, mode in modes.items():
        if name != "locked":
            (copy.path / name).write_text(name)
        (copy.path / name).chmod(mode)
    assert (await copy.commit("test:1")).skipped == ()
    assert (await copy.commit("test:2")).number is None
    assert {name: (copy.path / name).stat().st_mode & 0o777 for name in modes} == modes
    other = await service.mount()
    assert {name: (other.path / name).stat().st_mode & 0o777 for name in modes} == modes
    assert [service.read(name) for name in ("none", "write-only", "locked/inside")] == [b"none", b"write-only", b"1"]


async def test_a_mount_commits_no_more_than_it_may_and_loses_nothing(service: Service) -> None:
    """Contents that were written over stay in the history: without a bound each commit would take more of the disk."""
    copy = await service.copies.mount(VOLUME, max_stored_bytes=3 * 2**20)
    for number in range(3):
        (copy.path / "big").write_bytes(os.urandom(900_000))
        assert (await copy.commit("test:")).number == number + 1
    kept = service.read("big")
    (copy.path / "big").write_bytes(os.urandom(900_000))
    with pytest.raises(CloudError, match="would exceed its limit of 3 MiB"):
        await copy.commit("test:")
    assert service.read("big") == kept
    assert kept is not None
    (copy.path / "big").write_bytes(kept)
    (copy.path / "hole").write_bytes(b"")
    os.truncate(copy.path / "hole", 50 * 2**20)
    assert (await copy.commit("test:")).number == 4, "what is there already, and holes, cost nothing"
    await copy.discard()


async def test_a_mount_for_which_the_disk_has_no_room_is_refused_and_leaves_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = await service.mount()
    (copy.path / "file").write_bytes(os.urandom(500_000))
    (copy.path / "hole").write_bytes(b"")
    os.truncate(copy.path / "hole", 60 * 2**20)
    await copy.commit("test:")
    await copy.discard()
    left = sorted(path.name for path in (service.root / "copies").iterdir())
    status = os.statvfs(service.root)
    free_mb = status.f_bavail * status.f_frsize // 2**20
    monkeypatch.setenv(RESERVE_VARIABLE, str(free_mb + 200))
    with pytest.raises(CloudError, match="nearly full"):
        await service.mount()
    assert sorted(path.name for path in (service.root / "copies").iterdir()) == left
    monkeypatch.setenv(RESERVE_VARIABLE, str(free_mb - 500))
    monkeypatch.setattr(service.committed, "size_below", lambda *_: 2**40)
    copy = await service.mount()  # what it takes is little, whatever its files' lengths are
    assert (copy.path / "hole").stat().st_blocks * 512 < 2**20
    await copy.discard()


@pytest.mark.parametrize("ending", ["discard", "release", "give_up"])
async def test_what_is_given_up_serves_the_next_mount_before_it_is_removed(service: Service, ending: str) -> None:
    """The end of a sandbox is told in between: its files are removed while the project's next sandbox runs."""
    ended = await service.mount()
    (ended.path / "f").write_text("1")
    await ended.commit("test:1")
    await ended.give_up()
    following = await service.mount()
    assert (following.path / "f").read_text() == "1"
    with pytest.raises(CloudError):
        await ended.commit("test:2")
    await getattr(ended, ending)()
    await ended.discard()
    (following.path / "g").write_text("2")
    await following.commit("test:3")
    assert sorted(path.name for path in following.path.iterdir()) == ["f", "g"]
