"""Several mounts of one volume against a small model of Modal's semantics: nothing is lost, nothing shows too early."""

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.volumes.commit_history import History
from workbench.local_cloud.volumes.committed import CommittedVolumes
from workbench.local_cloud.volumes.working_copies import WorkingCopies, WorkingCopy

Files = dict[str, str]
PATHS = ("a", "d/c", "d/e/f")
MOUNTS = 2  # few, so that they meet
VOLUME = "vo-model"


@dataclass
class Mount:
    """What one mount shows, and what of it its next commit compares with."""

    shown: Files
    known: Files

    def changed(self) -> set[str]:
        return {path for path in PATHS if self.shown.get(path) != self.known.get(path)}


@dataclass
class Model:
    """The semantics in a few lines: private views, commits of what changed, reloads that keep what is not committed."""

    committed: Files = field(default_factory=dict)
    states: list[Files] = field(default_factory=list)
    mounts: dict[int, Mount] = field(default_factory=dict)

    def mount(self, number: int) -> None:
        self.mounts[number] = Mount(dict(self.committed), dict(self.committed))

    def commit(self, number: int) -> None:
        mount = self.mounts[number]
        changed = mount.changed()
        self.committed = _follow(self.committed, mount.shown, changed)
        mount.known = dict(mount.shown)
        if changed:
            self.states.append(dict(self.committed))

    def reload(self, number: int) -> None:
        mount = self.mounts[number]
        rest = set(PATHS) - mount.changed()
        mount.shown, mount.known = (_follow(files, self.committed, rest) for files in (mount.shown, mount.known))


def _follow(files: Files, other: Files, paths: set[str]) -> Files:
    kept = {path: text for path, text in files.items() if path not in paths}
    return kept | {path: other[path] for path in paths if path in other}


STEP = st.one_of(
    st.tuples(st.just("write"), st.integers(0, MOUNTS - 1), st.sampled_from(PATHS), st.text("xyz", max_size=3)),
    st.tuples(st.just("remove"), st.integers(0, MOUNTS - 1), st.sampled_from(PATHS)),
    st.tuples(st.sampled_from(["commit", "reload", "kill", "end"]), st.integers(0, MOUNTS - 1)),
)


@given(steps=st.lists(STEP, min_size=5, max_size=30))
@settings(
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],  # it is a fact of this machine
)
def test_mounts_behave_as_the_model_says(overlay: bool, steps: list[tuple[object, ...]]) -> None:
    asyncio.run(_play(steps, overlay=overlay))


async def _play(steps: list[tuple[object, ...]], *, overlay: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="workbench-test-") as directory:
        root = Path(directory)
        database = Database(root / "cloud.sqlite")
        committed = CommittedVolumes(database)
        committed.create(VOLUME, version=2)
        copies = WorkingCopies(root / "copies", committed, ContentStore(root / "content"), overlay=overlay)
        model = Model()
        mounts: dict[int, WorkingCopy] = {}
        for number in range(MOUNTS):
            mounts[number] = await copies.mount(VOLUME)
            model.mount(number)
        for what, number, *rest in steps:
            assert isinstance(number, int)
            mount = mounts[number]
            match what, rest:
                case "write", [str(path), str(text)]:
                    target = mount.path / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_text(text)
                    model.mounts[number].shown[path] = text
                case "remove", [str(path)]:
                    (mount.path / path).unlink(missing_ok=True)
                    model.mounts[number].shown.pop(path, None)
                case "commit", _:
                    await mount.commit("test:")
                    model.commit(number)
                case "reload", _:
                    await mount.reload()
                    model.reload(number)
                case "end", _:  # its directory serves the next one, if it holds nothing but what is committed
                    await mount.release()
                    mounts[number] = await copies.mount(VOLUME)
                    model.mount(number)
                case _:  # killed: what it had not committed is gone, and a new one takes its place
                    await mount.discard()
                    mounts[number] = await copies.mount(VOLUME)
                    model.mount(number)
            assert _shown(mounts[number]) == model.mounts[number].shown
            assert _files(committed, root) == model.committed
        for number, mount in mounts.items():
            assert _shown(mount) == model.mounts[number].shown
        _check_history(committed, model, root)
        for mount in mounts.values():
            await mount.discard()
        copies.close()
        database.close()


def _shown(mount: WorkingCopy) -> Files:
    return {str(path.relative_to(mount.path)): path.read_text() for path in mount.path.rglob("*") if not path.is_dir()}


def _files(committed: CommittedVolumes, root: Path, number: int = 0) -> Files:
    content = ContentStore(root / "content")
    entries = committed.as_of(VOLUME, number) if number else committed.below(VOLUME, "")
    return {entry.path: content.read(entry.sha256).decode() for entry in entries if entry.kind == "file"}


def _check_history(committed: CommittedVolumes, model: Model, root: Path) -> None:
    """Every state that ever was is in the history, in order, and can be brought back."""
    states: list[Files] = []
    for number in range(1, committed.head(VOLUME) + 1):
        state = _files(committed, root, number)
        if not states or states[-1] != state:
            states.append(state)
    wanted = [state for at, state in enumerate(model.states) if at == 0 or model.states[at - 1] != state]
    assert [state for state in states if state or wanted] in (wanted, [{}, *wanted])
    if committed.head(VOLUME):
        History(committed).restore(VOLUME, "", 1)
        assert _files(committed, root) == _files(committed, root, 1)
