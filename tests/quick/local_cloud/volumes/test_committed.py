"""Commits are all or nothing, last write wins per file, and history tells exactly what happened."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.volumes.committed import CommittedVolumes, Entry, Removal, clean, parents

VOLUME = "vo-test"
names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
entries = st.builds(
    lambda path, kind, text: Entry(
        path, kind, 0o644, sha256=text if kind == "file" else "", target=text if kind == "symlink" else ""
    ),
    paths,
    st.sampled_from(["file", "dir", "symlink"]),
    st.sampled_from(["1", "2"]),
)
change_sets = st.lists(st.one_of(entries, st.builds(Removal, paths)), max_size=5, unique_by=lambda change: change.path)


@settings(max_examples=60)
@given(commits=st.lists(change_sets, max_size=6))
def test_history_replays_to_every_state(
    tmp_path_factory: pytest.TempPathFactory, commits: list[list[Entry | Removal]]
) -> None:
    """Diff, blame and rollback are read from the change sets: they must add up to what the volume was."""
    database = Database(tmp_path_factory.mktemp("db") / "state.db")
    try:
        volumes = CommittedVolumes(database)
        volumes.create(VOLUME, version=2)
        states = []
        for changes in commits:
            volumes.publish(VOLUME, changes, author="test:1")
            states.append(volumes.below(VOLUME, ""))
        for number, state in enumerate(states, 1):
            assert volumes.as_of(VOLUME, number) == state
            kinds = {entry.path: entry.kind for entry in state}
            assert all(kinds[parent] == "dir" for path in kinds for parent in parents(path))
    finally:
        database.close()


def test_removing_a_directory_spares_what_its_author_never_saw(database: Database) -> None:
    """Last write wins per file: another writer's new file in a directory that I remove is not mine to remove."""
    volumes = CommittedVolumes(database)
    volumes.create(VOLUME, version=2)
    volumes.publish(VOLUME, [Entry("d/mine", "file", 0o644)], author="a:")
    volumes.publish(VOLUME, [Entry("d/theirs", "file", 0o644)], author="b:")
    volumes.publish(VOLUME, [Removal("d/mine"), Removal("d")], author="a:", parent=1)
    assert [entry.path for entry in volumes.below(VOLUME, "")] == ["d", "d/theirs"]
    assert volumes.changes(VOLUME, 3) == [Removal("d/mine")]
    assert [(commit.number, commit.parent, commit.author) for commit in volumes.commits(VOLUME)] == [
        (3, 1, "a:"),
        (2, 1, "b:"),
        (1, 0, "a:"),
    ]


def test_a_failing_commit_publishes_nothing(database: Database) -> None:
    """A reader must never see half a commit."""
    volumes = CommittedVolumes(database)
    volumes.create(VOLUME, version=2)
    with pytest.raises(Exception, match="NOT NULL"):
        volumes.publish(
            VOLUME,
            [Entry("a", "file", 0o644), Entry("b", None, 0o644)],  # type: ignore[arg-type]
            author="a:",
        )
    assert volumes.below(VOLUME, "") == []
    assert volumes.head(VOLUME) == 0


def test_commits_survive_a_reopen(tmp_path: Path) -> None:
    """What was acknowledged is on the disk."""
    for expected in (0, 1):
        database = Database(tmp_path / "again.db")
        volumes = CommittedVolumes(database)
        volumes.create(VOLUME, version=2)
        assert len(volumes.below(VOLUME, "")) == expected
        volumes.publish(VOLUME, [Entry("a", "file", 0o644)], author="a:")
        database.close()


def test_listing_stays_within_its_directory(database: Database) -> None:
    """Names that sort around the slash must not leak into a neighbour's listing."""
    volumes = CommittedVolumes(database)
    volumes.create(VOLUME, version=2)
    volumes.publish(VOLUME, [Entry(path, "file", 0o644) for path in ("a/x/y", "a!", "a0", "a-b/z", "é/ü")], author="a:")
    assert [entry.path for entry in volumes.below(VOLUME, "a")] == ["a/x", "a/x/y"]
    assert [entry.path for entry in volumes.below(VOLUME, "a", recursive=False)] == ["a/x"]
    assert {entry.path for entry in volumes.below(VOLUME, "", recursive=False)} == {"a", "a!", "a0", "a-b", "é"}
    assert set(volumes.at(VOLUME, "a")) == {"x", "x/y"}


def test_a_deleted_volume_takes_no_commit(database: Database) -> None:
    """A mount that outlives its volume must not resurrect it."""
    volumes = CommittedVolumes(database)
    volumes.create(VOLUME, version=2)
    volumes.publish(VOLUME, [Entry("a", "file", 0o644)], author="a:")
    volumes.drop(VOLUME)
    with pytest.raises(CloudError, match="not found"):
        volumes.publish(VOLUME, [Entry("a", "file", 0o644)], author="a:")
    assert volumes.below(VOLUME, "") == []


@pytest.mark.parametrize("path", ["../x", "a/../b", "..", "a\0b", "x" * 256, "a/" * 3000])
def test_paths_that_escape_or_cannot_exist_are_refused(path: str) -> None:
    """Paths are parsed once, at the door."""
    with pytest.raises(CloudError):
        clean(path)


@given(paths)
def test_clean_paths_stay_as_they_are(path: str) -> None:
    """Normalising twice changes nothing."""
    assert clean(f"//./{path}//") == path == clean(path)
