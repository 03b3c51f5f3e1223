"""What a client puts or copies replaces files by files only, as `cp` does: nothing else is lost on the way."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.quick.local_cloud.volumes.conftest import VOLUME
from workbench.local_cloud.base.errors import CloudError, Reason
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.volumes.committed import CommittedVolumes, Entry
from workbench.local_cloud.volumes.uploads import VolumeFiles


@pytest.fixture
def committed(tmp_path: Path) -> Iterator[CommittedVolumes]:
    database = Database(tmp_path / "state.db")
    committed = CommittedVolumes(database)
    committed.create(VOLUME, version=2)
    yield committed
    database.close()


def files(*paths: str) -> list[Entry]:
    return [Entry(path, "file", 0o644, sha256=path) for path in paths]


@pytest.mark.parametrize(
    ("there", "sources", "target", "named"),
    [
        (("a", "b.txt"), ["a"], "b.txt/c", "b.txt"),
        (("d/x", "file"), ["d"], "file", "file"),
        (("src/x", "dst/src/x/y"), ["src"], "dst", "dst/src/x"),
        (("src/x/y", "dst/src/x"), ["src"], "dst", "dst/src/x"),
        (("p/a", "q/a", "dst/b"), ["p/a", "q/a"], "dst", "dst/a"),
        (("p/a/x", "q/a", "dst/b"), ["p/a", "q/a"], "dst", "dst/a"),
    ],
)
def test_a_copy_that_would_lose_a_file_is_refused_and_changes_nothing(
    committed: CommittedVolumes, there: tuple[str, ...], sources: list[str], target: str, named: str
) -> None:
    volumes = VolumeFiles(committed)
    volumes.put(VOLUME, files(*there), overwrite=False)
    before, head = committed.below(VOLUME, ""), committed.head(VOLUME)
    with pytest.raises(CloudError) as caught:
        volumes.copy(VOLUME, sources, target, recursive=True)
    assert (caught.value.reason, f"'{named}'" in caught.value.message) == (Reason.ALREADY_EXISTS, True)
    assert (committed.below(VOLUME, ""), committed.head(VOLUME)) == (before, head)


def test_a_copy_whose_path_would_be_too_long_is_refused_and_changes_nothing(committed: CommittedVolumes) -> None:
    deep = "/".join("d" * 200 for _ in range(12))
    volumes = VolumeFiles(committed)
    volumes.put(VOLUME, files(f"a/{deep}/x", f"b/{deep}/y"), overwrite=False)
    before, head = committed.below(VOLUME, ""), committed.head(VOLUME)
    with pytest.raises(CloudError, match="at most 4096 bytes"):
        volumes.copy(VOLUME, ["a"], f"b/{deep}", recursive=True)
    assert (committed.below(VOLUME, ""), committed.head(VOLUME)) == (before, head)


def test_directories_are_merged_and_files_replaced(committed: CommittedVolumes) -> None:
    volumes = VolumeFiles(committed)
    volumes.put(VOLUME, files("p/a/x", "q/a/y", "dst/a/x", "dst/a/z"), overwrite=False)
    volumes.copy(VOLUME, ["p/a", "q/a", "q/a/"], "dst", recursive=True)
    found = {entry.path: entry.sha256 for entry in committed.below(VOLUME, "dst/a")}
    assert found == {"dst/a/x": "p/a/x", "dst/a/y": "q/a/y", "dst/a/z": "dst/a/z"}


@pytest.mark.parametrize("paths", [("x", "x/y"), ("x/y/z", "x")])
def test_a_file_and_one_below_it_are_not_put_together(committed: CommittedVolumes, paths: tuple[str, ...]) -> None:
    with pytest.raises(CloudError, match="cannot be put together with the file 'x'") as caught:
        VolumeFiles(committed).put(VOLUME, files(*paths), overwrite=True)
    assert caught.value.reason == Reason.ALREADY_EXISTS
    assert committed.below(VOLUME, "") == []
