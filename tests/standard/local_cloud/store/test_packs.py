"""Small contents are packed: nothing that was kept is lost or torn by a kill, by a lost index, or by cleaning up."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from workbench.local_cloud.store import packs
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.packs import MAX_CONTENT_BYTES


def _pack_files(root: Path) -> list[Path]:
    return sorted((root / "packs").glob("*.pack"))


def _kept(root: Path) -> dict[str, int]:
    """Every content of a store with its size, after its bytes were compared with its name."""
    store = ContentStore(root)
    found = {content.sha256: content.size for content in store.contents()}
    for sha256, size in found.items():
        data = store.read(sha256)
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (sha256, size)
    store.close()
    return found


def _filled(root: Path, *, contents: int = 50, size: int = 1000) -> list[str]:
    """A store with so many small contents in one pack; returns their names."""
    store = ContentStore(root)
    with store.batch() as batch:
        names = [batch.add_chunks([b"%d" % number, b"x" * size]).sha256 for number in range(contents)]
    store.close()
    return names


def test_small_contents_share_a_file_and_large_ones_have_one_of_their_own(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    with store.batch() as batch:
        sizes = [0, 1, 4095, 4096, MAX_CONTENT_BYTES, MAX_CONTENT_BYTES + 1, 1 << 20]
        added = {size: batch.add_chunks([os.urandom(size)]) for size in sizes}
        assert not any(store.has(content.sha256) for content in added.values()), "not before the batch is kept"
    assert all(store.size(content.sha256) == size == len(store.read(content.sha256)) for size, content in added.items())
    assert len(_pack_files(tmp_path)) == 1
    own = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "packs"]
    assert len(own) == 2


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_batch_that_fails_keeps_nothing(tmp_path: Path, size: int) -> None:
    """More than is held in memory at a time, so that some of it is in a pack or a file already."""
    store = ContentStore(tmp_path)
    count = 10_000_000 // size if size > 1000 else 100

    def fails() -> None:
        with store.batch() as batch:
            for number in range(count):
                batch.add_chunks([b"%d" % number, bytes([number % 255 + 1]) * size])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    store.close()
    assert _kept(tmp_path) == {}
    assert list((tmp_path / "tmp").iterdir()) == []


def test_equal_contents_are_kept_once_also_in_one_batch(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    spent: list[int] = []
    for _ in range(2):
        with store.batch() as batch:
            for size in (5, 5, 100_000, 100_000):
                batch.add_chunks([b"s" * size], spend=spent.append)
    assert len(spent) == 2
    assert len(_kept(tmp_path)) == 2


def test_a_batch_of_many_waits_for_the_disk_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once per commit, not once per file: the pack and its name, the index and its name."""
    calls: list[int] = []
    real = os.fsync

    def counted(descriptor: int) -> None:
        calls.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    _filled(tmp_path, contents=3000)
    assert len(calls) <= 5


WRITER = """
import os, random, sys
from pathlib import Path
from workbench.local_cloud.store.content import ContentStore
store, chance = ContentStore(Path(sys.argv[1])), random.Random(sys.argv[2])
while True:
    with store.batch() as batch:
        names = [
            batch.add_chunks([chance.randbytes(chance.choice([0, 1, 900, 5000, 65536, 70000]))]).sha256
            for _ in range(chance.choice([1, 3, 40, 200]))
        ]
    sys.stdout.write(' '.join(names) + chr(10))
    sys.stdout.flush()
"""

CLEANER = """
import sys
from pathlib import Path
from workbench.local_cloud.store.content import ContentStore
wanted = set(sys.stdin.read().split())
print('on', flush=True)
ContentStore(Path(sys.argv[1])).keep_only(wanted)
"""


def _killed_after(process: "subprocess.Popen[str]", wait_s: float) -> str:
    """Kill a process a while after its first line, and return all that it has said."""
    assert process.stdout is not None
    said = process.stdout.readline()
    time.sleep(wait_s)
    process.send_signal(signal.SIGKILL)
    said += process.stdout.read()
    process.wait(30)
    return said


@pytest.mark.timeout(120)
def test_a_kill_at_any_moment_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    """Each writer goes on with what the killed one before it has left; what it acknowledged is there to the end."""
    chance = random.Random(11)
    acknowledged: set[str] = set()
    for kill in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(kill)], stdout=subprocess.PIPE, text=True
        ) as writer:
            said = _killed_after(writer, chance.uniform(0, 0.15))
        whole_lines = said[: said.rfind("\n") + 1]
        acknowledged.update(whole_lines.split())
        assert acknowledged <= _kept(tmp_path).keys()


@pytest.mark.timeout(120)
def test_cleaning_up_can_be_killed_at_any_moment(tmp_path: Path) -> None:
    chance = random.Random(12)
    wanted: set[str] = set()
    for kill in range(8):
        store = ContentStore(tmp_path)
        with store.batch() as batch:
            new = [batch.add_chunks([chance.randbytes(chance.choice([1, 900, 20_000]))]).sha256 for _ in range(400)]
        store.close()
        wanted = {name for name in (*wanted, *new) if chance.random() < 0.4}
        with subprocess.Popen(
            [sys.executable, "-c", CLEANER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as cleaner:
            assert cleaner.stdin is not None
            cleaner.stdin.write(" ".join(wanted))
            cleaner.stdin.close()
            _killed_after(cleaner, chance.uniform(0, 0.03))
        assert wanted <= _kept(tmp_path).keys(), f"after kill {kill}"
    store = ContentStore(tmp_path)
    store.keep_only(wanted)
    store.close()
    assert _kept(tmp_path).keys() == wanted
    assert len(_pack_files(tmp_path)) == 1


@pytest.mark.parametrize("cut", [1, 36, 41, 900, 1040])
def test_a_torn_end_of_a_pack_is_garbage(tmp_path: Path, cut: int) -> None:
    """Bytes that no index names yet, cut anywhere by a crash: contents before them are there, new ones are kept."""
    names = _filled(tmp_path)
    [pack] = _pack_files(tmp_path)
    for path in pack.parent.glob("index.sqlite*"):
        path.unlink()
    os.truncate(pack, pack.stat().st_size - cut)
    assert _kept(tmp_path).keys() == set(names[:-1])
    store = ContentStore(tmp_path)
    assert store.add_bytes(b"49" + b"x" * 1000) == names[-1]
    store.close()
    assert _kept(tmp_path).keys() == set(names)


def _lost(index: Path) -> None:
    index.unlink()


def _emptied(index: Path) -> None:
    index.write_bytes(b"")


def _overwritten(index: Path) -> None:
    index.write_bytes(b"\xff" * 5000)


def _damaged_page(index: Path) -> None:
    data = index.read_bytes()
    index.write_bytes(data[:8192] + b"\xff" * 4096 + data[12_288:])


@pytest.mark.parametrize("harm", [_lost, _emptied, _overwritten, _damaged_page])
def test_a_lost_or_damaged_index_is_made_anew(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    names = _filled(tmp_path)
    harm(tmp_path / "packs" / "index.sqlite")
    assert _kept(tmp_path).keys() == set(names)


@pytest.mark.parametrize("at", [0, 500, 1000])
def test_a_damaged_record_is_not_given_out_as_whole(tmp_path: Path, at: int) -> None:
    """What is laid out into a mount is what was committed, or the mount fails."""
    names = _filled(tmp_path, contents=3)
    [pack] = _pack_files(tmp_path)
    data = bytearray(pack.read_bytes())
    data[data.index(b"1" + b"x" * 1000) + at] ^= 0xFF
    pack.write_bytes(data)
    store = ContentStore(tmp_path)
    with pytest.raises(OSError, match="is damaged"):
        store.copy_to(names[1], tmp_path / "copy")
    assert store.read(names[2]) == b"2" + b"x" * 1000
    store.close()


def test_cleaning_up_leaves_a_damaged_pack_for_the_check_to_tell(tmp_path: Path) -> None:
    names = _filled(tmp_path, contents=10)
    [pack] = _pack_files(tmp_path)
    data = bytearray(pack.read_bytes())
    data[100] ^= 0xFF
    pack.write_bytes(data)
    store = ContentStore(tmp_path)
    store.keep_only(names[:2])
    assert {content.sha256 for content in store.contents()} == set(names[:2])
    assert store.read(names[1]) == b"1" + b"x" * 1000
    store.close()


@pytest.mark.parametrize(("wanted", "share"), [(0, 0), (5, 0.1), (20, 0.4), (30, 1), (50, 1)])
def test_packs_are_dropped_or_rewritten_when_little_of_them_is_needed(
    tmp_path: Path, wanted: int, share: float
) -> None:
    """`share` is what is left of the pack's bytes."""
    names = _filled(tmp_path)
    [pack] = _pack_files(tmp_path)
    before = pack.stat().st_size
    store = ContentStore(tmp_path)
    removed, size = store.keep_only(set(names[:wanted]))
    assert (removed, size) == (50 - wanted, sum(1000 + len(str(number)) for number in range(wanted, 50)))
    assert sum(path.stat().st_size for path in _pack_files(tmp_path)) == pytest.approx(before * share, rel=0.02)
    assert store.keep_only(set(names[:wanted])) == (0, 0)
    again = store.add_bytes(b"one more")
    store.close()
    assert _kept(tmp_path).keys() == {*names[:wanted], again}


def test_a_failed_write_is_not_built_upon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills in the middle of a record: contents that come later are whole, also without the index."""
    store = ContentStore(tmp_path)
    first = store.add_bytes(b"before")

    def half(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[: len(data) // 2])
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(packs, "write_all", half)
        with pytest.raises(OSError, match="No space"):
            store.add_bytes(b"lost" * 1000)
    last = store.add_bytes(b"after")
    store.close()
    (tmp_path / "packs" / "index.sqlite").unlink()
    assert _kept(tmp_path).keys() == {first, last}


@pytest.fixture
def older(tmp_path: Path) -> dict[str, bytes]:
    """A store as builds without packs have left it: each content a file of its own."""
    contents = {hashlib.sha256(data).hexdigest(): data for data in (b"", b"small", b"l" * 100_000)}
    for sha256, data in contents.items():
        path = tmp_path / sha256[:2] / sha256[2:]
        path.parent.mkdir()
        path.write_bytes(data)
    return contents


def test_contents_of_older_builds_stay_readable_and_are_cleaned_up(tmp_path: Path, older: dict[str, bytes]) -> None:
    store = ContentStore(tmp_path)
    assert {content.sha256: store.read(content.sha256) for content in store.contents()} == older
    for data in older.values():
        store.add_bytes(data)
    assert not (tmp_path / "packs").exists(), "they are not kept twice"
    [small] = [sha256 for sha256, data in older.items() if data == b"small"]
    assert store.keep_only({small}) == (2, 100_000)
    assert store.read(small) == b"small"
    store.close()


def test_threads_that_add_at_the_same_time_wait_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload sends many files side by side: each is kept when it is acknowledged, and few waits serve them all."""
    store = ContentStore(tmp_path)
    store.add_bytes(b"first")
    calls: list[int] = []
    real = os.fsync

    def slow(descriptor: int) -> None:
        calls.append(descriptor)
        time.sleep(0.02)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    with ThreadPoolExecutor(16) as pool:
        names = list(pool.map(lambda number: store.add_bytes(b"%d" % number), range(160)))
    assert all(store.has(name) for name in names)
    assert len(calls) <= 120  # two for each wait: the packs, and their index
    store.close()
    assert len(_kept(tmp_path)) == 161


def test_a_failure_to_keep_fails_no_other_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is told that its content is kept finds it; who is not may try again."""
    store = ContentStore(tmp_path)
    real, chance = os.fsync, random.Random(3)

    def unreliable(descriptor: int) -> None:
        time.sleep(0.005)
        if chance.random() < 0.3:
            raise OSError(5, os.strerror(5))
        real(descriptor)

    def add(number: int) -> tuple[bool, str]:
        try:
            return True, store.add_bytes(b"%d" % number)
        except OSError:
            return False, hashlib.sha256(b"%d" % number).hexdigest()

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", unreliable)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(add, range(80)))
    assert {told for told, _ in answers} == {True, False}
    assert all(store.has(name) for told, name in answers if told)
    assert [add(number)[0] for number in range(80)] == [True] * 80
    store.close()
    assert len(_kept(tmp_path)) == 80
