"""The notebooks are regression tests: papermill runs them, and their facts are compared here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import stop_apps
from workbench import notebooks
from workbench.deployment.model_backing import WITHOUT_CLAUDE_VARIABLE
from workbench.local_cloud.process.state_directory import Running

FACTS = {
    "01_quickstart": {
        "outcome": "done",
        "uid_is_root": False,
        "committed": True,
        "sandbox_terminated": True,
        "files": ["report.txt"],
        "failure": "process_failed",
        "failure_exit_code": 3,
    },
    "02_claude": {
        "outcome": "done",
        "live": True,
        "committed": True,
        "files": ["index.html", "style.css"],
        "resumed": True,
        "replayed_the_same_files": True,
    },
    "03_buffered_stream": {"same_output": True, "clean_is_live": True, "buffered_is_live": False},
    "04_runs_that_cannot_be_lost": {
        "byte_exact": True,
        "reconnects": 1,
        "joined": True,
        "conflict": "idempotency_conflict",
        "busy": "project_busy",
        "waited_its_turn": True,
        "warm": True,
        "owner_killed": "container_lost",
        "leaked": [],
        "proved": 9,
        "failed_checks": 0,
    },
    "05_missing_commit": {
        "naive_exit_code": 0,
        "naive_visible_at_done": False,
        "naive_visible_after_sync": True,
        "ours_visible_at_done": True,
        "ours_committed": True,
    },
}
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(autouse=True)
def _with_claude(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks deploy what their readers deploy."""
    monkeypatch.delenv(WITHOUT_CLAUDE_VARIABLE)


@pytest.fixture(autouse=True, scope="module")
def _stopped(cloud: Running) -> Iterator[None]:
    """Their apps are theirs alone."""
    yield
    stop_apps("modal-workbench", "runs-that-cannot-be-lost")


def test_every_notebook_is_tested() -> None:
    assert {path.stem for path in notebooks.find([])} == set(FACTS)


@pytest.mark.parametrize("name", FACTS)
def test_a_notebook_shows_its_behaviour(cloud: Running, tmp_path: Path, name: str) -> None:
    (path,) = notebooks.find([name])
    result = notebooks.run(path, output_dir=tmp_path, parameters={"target": "local"})
    assert result.facts == FACTS[name]


def test_a_failed_notebook_is_saved_and_named(cloud: Running, tmp_path: Path) -> None:
    """Whoever looks at a red build must find the cell and what it printed."""
    (path,) = notebooks.find(["01_quickstart"])
    with pytest.raises(notebooks.NotebookFailedError, match="TargetUnavailableError") as caught:
        notebooks.run(path, output_dir=tmp_path, parameters={"target": "nowhere"})
    assert "unknown target" in caught.value.output.read_text()
