"""The notebooks are regression tests: papermill runs them, and their facts are compared here."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import nbformat
import psutil
import pytest

from tests.conftest import stop_apps, wait_until
from tests.support.commands import cli
from tests.support.kernels import warm_kernels
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
    "06_streaming_failures": {
        "buffering-hop": "prevented",
        "job-buffers-its-output": "prevented",
        "output-without-newline": "prevented",
        "stream-ended-without-exit-code": "told",
        "shown": True,
    },
    "07_persistence_failures": {
        "missing-commit": "prevented",
        "commit-acknowledged-and-lost": "told",
        "two-writers": "prevented",
        "stale-git-lock": "survived",
        "shown": True,
    },
    "08_time_failures": {"process-timeout": "told", "upstream-times-out-first": "survived", "shown": True},
    "09_life_failures": {
        "create-fails": "told",
        "dies-mid-run": "told",
        "out-of-memory": "told",
        "duplicate-submit": "prevented",
        "shown": True,
    },
    "10_security_failures": {
        "path-traversal": "prevented",
        "another-tenants-run": "prevented",
        "secret-probed-from-inside": "prevented",
        "planted-config": "prevented",
        "shown": True,
    },
    "11_checklist": {
        "sound": True,
        "skipped": ["secret rotation"],
        "behind_a_hop": ["streaming end to end"],
    },
    "12_model_failures": {
        "model-stream-truncated": "survived",
        "model-429": "told",
        "error-dressed-as-success": "told",
        "model-hangs-mid-stream": "told",
        "stdin-left-open": "prevented",
        "tool-json-invalid": "told",
        "permission-denied": "told",
        "shown": True,
    },
}
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(autouse=True)
def _with_claude(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks deploy what their readers deploy."""
    monkeypatch.delenv(WITHOUT_CLAUDE_VARIABLE)


@pytest.fixture(autouse=True)
def _with_warm_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Their kernels need not import the workbench each."""
    for name, value in warm_kernels(tmp_path_factory.mktemp("jupyter")).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True, scope="module")
def _stopped(cloud: Running) -> Iterator[None]:
    """Their apps are theirs alone."""
    yield
    stop_apps("runs-that-cannot-be-lost", "failure-lab-naive", "failure-lab-hardened", "failure-lab-model")
    stop_apps(
        *(f"notebook-{name}" for name in ("quickstart", "claude", "buffered-stream", "missing-commit", "checklist"))
    )


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


def made(directory: Path, *cells: str, name: str = "made") -> Path:
    """A notebook of these cells."""
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_code_cell(source) for source in cells]
    path = directory / f"{name}.ipynb"
    nbformat.write(book, path)
    return path


@pytest.mark.parametrize(
    ("cells", "number", "why", "said"),
    [
        (["1", "import sys; sys.exit(0)", "3"], 2, "kernel", "ended the kernel"),
        (["1", "import sys; sys.exit(0)"], 2, "kernel", "ended the kernel"),
        (["raise SystemExit"], 1, "kernel", "ended the kernel"),
        (["1", "import os; os._exit(0)", "3"], 2, "kernel", "the kernel died"),
        (["1", "import time; time.sleep(60)", "3"], 2, "timeout", "did not end within 2 s"),
        (["1", "2", "def f():\n    return 1 / 0\nf()", "4"], 3, "cell", "return 1 / 0"),
        (["class FaultNeverFiredError(Exception): pass", "raise FaultNeverFiredError"], 2, "fault never fired", ""),
    ],
    ids=["exit", "exit at the end", "SystemExit", "a dead kernel", "late", "an error", "no fault"],
)
def test_a_notebook_passes_when_its_last_cell_has_run_and_else_names_its_cell(
    tmp_path: Path, cells: list[str], number: int, why: str, said: str
) -> None:
    """By its own number: the cell of parameters that papermill adds does not count."""
    with pytest.raises(notebooks.NotebookFailedError, match=rf"made\.ipynb, cell {number}: ") as caught:
        notebooks.run(made(tmp_path, *cells), output_dir=tmp_path / "out", parameters={"a": 1}, cell_timeout_s=2)
    assert (caught.value.why, said in str(caught.value)) == (why, True), str(caught.value)
    saved = nbformat.read(caught.value.output, as_version=4)
    behind = [cell for cell in saved.cells if cell.source == cells[-1] and number < len(cells)]
    assert all(cell.metadata.papermill.status == "pending" for cell in behind)


def test_the_exit_code_tells_what_kind_of_failure_it_was(tmp_path: Path) -> None:
    for cells, code in (("import os; os._exit(0)", 4), ("assert False", 1)):
        done = cli("notebooks", "run", str(made(tmp_path, cells)), "--output-dir", str(tmp_path / "out"))
        assert done.returncode == code, done.stdout


def test_a_parameter_that_looks_like_a_number_stays_what_was_given(tmp_path: Path) -> None:
    path = made(tmp_path, "value = None", "assert value == '12e4567', value")
    book = nbformat.read(path, as_version=4)
    book.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(book, path)
    done = cli("notebooks", "run", str(path), "-p", "value=12e4567", "--output-dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout


def test_what_cannot_be_run_fails_alone_and_writes_over_nothing(tmp_path: Path) -> None:
    """Broken notebooks, and places that cannot be written, are told by name; what comes behind them still runs."""
    good, conflict = made(tmp_path, "1", name="good"), tmp_path / "conflict.ipynb"
    conflict.write_text("<<<<<<< ours\n")
    reports = ("--output-dir", str(tmp_path / "out"), "--junit", str(tmp_path / "all.xml"))
    done = cli("notebooks", "run", str(conflict), str(good), *reports)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "conflict.ipynb is no notebook" in done.stdout
    assert "passed  good" in done.stdout
    assert ET.parse(tmp_path / "all.xml").getroot().get("failures") == "1"
    before = good.read_bytes()
    over = cli("notebooks", "run", str(good), "--output-dir", str(tmp_path))
    assert (over.returncode, "would be written over" in over.stdout) == (1, True)
    assert good.read_bytes() == before
    late = cli("notebooks", "run", str(good), "--junit", str(tmp_path / "none" / "all.xml"))
    assert (late.returncode, "cannot be written" in late.stderr) == (2, True)


def test_several_run_at_once_and_are_reported_for_people_and_for_machines(tmp_path: Path) -> None:
    books = [
        made(tmp_path, "value = 1", "print('<script>shown</script>')", name="good"),
        made(tmp_path, "1", "assert False, 'told <so>\\x1b[2J'", name="wrong"),
        made(tmp_path, "import os; os._exit(0)", name="dead"),
    ]
    done = cli(
        *("notebooks", "run", *map(str, books), "--workers", "2", "-p", "value=12e4567"),
        *("--output-dir", str(tmp_path / "out"), "--junit", str(tmp_path / "all.xml")),
        *("--html", str(tmp_path / "pages")),
    )
    assert done.returncode in {1, 4}, done.stderr
    assert "1 of 3 passed" in done.stderr
    assert all(word in done.stdout for word in ("passed  good", "FAILED  wrong", "FAILED  dead", "FAILED: kernel"))
    suite = ET.parse(tmp_path / "all.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    failures = {str(case.get("name")): case.find("failure") for case in suite}
    assert failures["good"] is None
    wrong, dead = failures["wrong"], failures["dead"]
    assert wrong is not None
    assert dead is not None
    assert "told <so>" in str(wrong.get("message"))
    assert "the kernel died" in str(dead.get("message"))
    assert "12e4567" in (tmp_path / "pages" / "good.html").read_text()
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {"good", "wrong", "dead"}


def test_an_interrupt_ends_all_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTER_PATH")  # kernels as they are
    books = [made(tmp_path, f"import time; time.sleep({number})", name=f"n{number}") for number in (4381, 4382)]
    command = [sys.executable, "-m", "workbench", "notebooks", "run", *map(str, books), "--workers", "2"]
    with subprocess.Popen([*command, "--output-dir", str(tmp_path / "out")], stderr=subprocess.PIPE) as running:
        wait_until(lambda: len(psutil.Process(running.pid).children(recursive=True)) >= 4, "both kernels run", 60)
        children = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert b"Traceback" not in said
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
