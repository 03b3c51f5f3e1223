"""Contents are kept once, whole, and never change."""

import hashlib
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.disk_reserve import RESERVE_VARIABLE
from workbench.local_cloud.store.holes import CHUNK_BYTES


def _files(root: Path) -> list[Path]:
    """What is in a store beside the index of its packs, which has files of its own as long as it is open."""
    return [path for path in root.rglob("*") if path.is_file() and not path.name.startswith("index.sqlite")]


@settings(max_examples=30)
@given(data=st.binary(max_size=2000), zeros=st.integers(0, 3))
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, data: bytes, zeros: int) -> None:
    """Runs of zeros become holes on the disk, never in what is read."""
    root = tmp_path_factory.mktemp("content")
    store = ContentStore(root)
    whole = bytes(zeros * CHUNK_BYTES) + data
    sha256 = store.add_file(io.BytesIO(whole))
    assert sha256 == hashlib.sha256(whole).hexdigest() == store.add_bytes(whole)
    assert store.size(sha256) == len(whole)
    with store.open(sha256) as file:
        assert file.read() == whole
    store.copy_to(sha256, root / "copy")
    assert (root / "copy").read_bytes() == whole == store.read(sha256)


@settings(max_examples=40)
@given(
    parts=st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 3)), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 20_000), max_size=10),
)
def test_zeros_are_holes_wherever_they_begin(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int]], cuts: list[int]
) -> None:
    """Whatever pieces it comes in, a content is what it was, and its copies are."""
    root = tmp_path_factory.mktemp("content")
    whole = b"".join(bytes(zeros) + b"x" * (size * 3000) for zeros, size in parts) + bytes(70_000)
    pieces, rest = [], whole
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    store = ContentStore(root / "content")
    sha256 = store.add_chunks([*pieces, rest])
    assert (sha256, store.size(sha256)) == (hashlib.sha256(whole).hexdigest(), len(whole))
    store.copy_to(sha256, root / "copy")
    assert store.read(sha256) == (root / "copy").read_bytes() == whole


@pytest.mark.parametrize("step", [16 * 1024, 100_000, CHUNK_BYTES, 5 * CHUNK_BYTES])
def test_a_sparse_file_costs_what_it_holds_in_the_store_and_in_every_copy(tmp_path: Path, step: int) -> None:
    """A byte here and there would else be a way to fill the host's disk."""
    size = 200 * CHUNK_BYTES
    with (tmp_path / "sparse").open("w+b") as file:
        for offset in range(0, size, step):
            file.seek(offset)
            file.write(b"x")
        file.truncate(size)
        file.seek(0)
        held = (tmp_path / "sparse").stat().st_blocks * 512
        store = ContentStore(tmp_path / "content")
        spent: list[int] = []
        sha256 = store.add_file(file, spend=spent.append)
    store.copy_to(sha256, tmp_path / "copy")
    assert store.size(sha256) == (tmp_path / "copy").stat().st_size == size
    assert store.disk_bytes(sha256) <= 1.3 * held
    assert (tmp_path / "copy").stat().st_blocks * 512 <= 1.3 * held
    assert spent == [store.disk_bytes(sha256)]


@pytest.mark.parametrize("size", [4, 64 * 1024, 64 * 1024 + 1, 3 * CHUNK_BYTES])
def test_what_may_not_be_spent_is_not_kept(tmp_path: Path, size: int) -> None:
    store = ContentStore(tmp_path)
    with pytest.raises(ZeroDivisionError):
        store.add_file(io.BytesIO(b"d" * size), spend=lambda size: size // 0)  # type: ignore[arg-type]
    assert _files(tmp_path) == []


@pytest.mark.parametrize("size", [0, 1, 4096, 64 * 1024, 64 * 1024 + 1])
def test_what_is_spent_is_what_the_store_takes(tmp_path: Path, size: int) -> None:
    """A limit of what a mount may store counts a content as the disk does, wherever the store puts it."""
    store, spent = ContentStore(tmp_path), list[int]()
    sha256 = store.add_file(io.BytesIO(b"x" * size), spend=spent.append)
    assert store.add_file(io.BytesIO(b"x" * size), spend=spent.append) == sha256
    assert spent == [store.disk_bytes(sha256)]
    assert spent[0] >= size


@pytest.mark.parametrize("size", [13_000, 40_000, 64 * 1024])
def test_a_small_file_with_a_hole_keeps_it(tmp_path: Path, size: int) -> None:
    store = ContentStore(tmp_path / "content")
    whole = b"head".ljust(size - 1, b"\0") + b"x"
    sha256 = store.add_bytes(whole)
    store.copy_to(sha256, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == whole
    assert max(store.disk_bytes(sha256), (tmp_path / "copy").stat().st_blocks * 512) <= 8192


def test_a_disk_that_is_nearly_full_takes_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ContentStore(tmp_path)
    sha256 = store.add_bytes(b"before")
    monkeypatch.setenv(RESERVE_VARIABLE, str(10**9))
    with pytest.raises(CloudError, match="nearly full"):
        store.add_bytes(b"more")
    assert store.add_bytes(b"before") == sha256
    assert len(_files(tmp_path)) == 1


def test_equal_contents_are_one_file(tmp_path: Path) -> None:
    """A project copied a thousand times costs one."""
    store = ContentStore(tmp_path)
    assert store.add_bytes(b"same") == store.add_file(io.BytesIO(b"same"))
    assert len(_files(tmp_path)) == 1


def test_a_copy_is_not_the_original(tmp_path: Path) -> None:
    """A guest writes into its copy: the stored content must not be the same inode."""
    store = ContentStore(tmp_path / "content")
    sha256 = store.add_bytes(b"original")
    store.copy_to(sha256, tmp_path / "copy")
    (tmp_path / "copy").write_bytes(b"changed!")
    assert store.read(sha256) == b"original"


def test_an_interrupted_add_leaves_nothing(tmp_path: Path) -> None:
    """A source that fails halfway must not leave half a file, under any name."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 0:
                raise OSError("gone")
            return super().read(4)

    store = ContentStore(tmp_path)
    with pytest.raises(OSError, match="gone"):
        store.add_file(Broken(b"half of it"))
    assert _files(tmp_path) == []


def test_a_crash_before_the_rename_is_swept_at_the_next_start(tmp_path: Path) -> None:
    """Temporary files of a killed cloud do not pile up."""
    ContentStore(tmp_path)
    (tmp_path / "tmp" / "left").write_bytes(b"x")
    ContentStore(tmp_path)
    assert _files(tmp_path) == []


def test_a_bound_ends_an_endless_file(tmp_path: Path) -> None:
    """A file that grows as fast as it is read is taken up to its bound."""
    store = ContentStore(tmp_path)
    with Path("/dev/zero").open("rb") as endless:
        sha256 = store.add_file(endless, max_bytes=CHUNK_BYTES + 7)
    assert store.size(sha256) == CHUNK_BYTES + 7
