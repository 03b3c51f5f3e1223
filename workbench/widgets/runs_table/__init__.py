"""A widget that lists ended runs, verifies and opens them, compares two of them, and exports recordings.

Archives are read in background threads. Python chooses which runs are read; the page filters and sorts those.
"""

import html
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import traitlets

from modal_app.contract.proof import Check
from modal_app.contract.requests import Request
from modal_app.runs.run_records import RunRecord
from workbench.errors import WorkbenchError
from workbench.runs.archived_run import ArchivedRun, ListedRun, RunList
from workbench.runs.comparison import Comparison, written_by
from workbench.runs.labels import LabelsUnreadableError, RunLabel
from workbench.runs.project import Project
from workbench.runs.recordings import Recording
from workbench.text.plain_text import one_line
from workbench.widgets.asking import Answer, asking_front_end
from workbench.widgets.base import Buffers, Panel, sentence
from workbench.widgets.displays import Still
from workbench.widgets.reading import ReadingPanel

if TYPE_CHECKING:
    from workbench.session import Workbench
    from workbench.widgets.run_view import RunView

MAX_RUNS = 2000  # in one table
MAX_FILES = 500  # of those that a run has changed
_ENDED_S = 10.0  # the wait for the archive of a run whose end was seen
_JUST_ENDED_S = 3.0  # the wait for the archive of a run that may just have ended


class Row(TypedDict):
    """A run in the table: the cells of `ListedRun.row`, and numbers to sort by; `problem` if it is unreadable.

    `name`, `note` and `project` are what this user calls the run and its project; empty where they have no name.
    """

    run_id: str
    cells: list[str]
    reason: str
    at_ms: int
    took_ms: int
    usd: float
    problem: str
    live: bool
    name: str
    note: str
    project: str


class RunsTable(ReadingPanel):
    """Lists ended runs, the newest first. `refresh` reads them again, `show` opens one, `compare` compares two."""

    _esm, _css = asking_front_end(__file__, "groups.js")
    label = "Runs"
    questions: ClassVar[Mapping[str, str]] = {
        "verify": "_verify",
        "compare": "_compare",
        "export": "_export",
        "files": "_files",
        "label": "_label",
        "save filter": "_save_filter",
        "forget filter": "_forget_filter",
    }

    title = traitlets.Unicode("").tag(sync=True)
    rows: traitlets.List[Row] = traitlets.List().tag(sync=True)
    filters: "traitlets.Dict[str, dict[str, str]]" = traitlets.Dict().tag(sync=True)
    complete = traitlets.Bool(True).tag(sync=True)
    shown = traitlets.Unicode("").tag(sync=True)
    view = traitlets.Unicode("").tag(sync=True)
    can_replay = traitlets.Bool(False).tag(sync=True)
    can_ask = traitlets.Bool(False).tag(sync=True)
    can_browse = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self,
        workbench: "Workbench",
        *,
        limit: int = 100,
        project: str = "",
        outcome: str = "",
        on_replay: Callable[[str], None] | None = None,
        on_request: Callable[[Request, bool], None] | None = None,
        on_files: Callable[[Project], None] | None = None,
    ) -> None:
        """`limit`, `project` and `outcome` choose the runs that are read, as for `RunArchive.list`.

        `on_replay` is called with the id of a run that is to be played back; without it, the page has no button for it.
        So it is with `on_request`: it gets the request of a run that is to be launched again (True), or edited (False).
        `on_files` gets the project of a run whose files are to be shown.
        """
        super().__init__(
            title=f"{workbench.app_name} on {workbench.target.kind}",
            can_replay=on_replay is not None,
            can_ask=on_request is not None,
            can_browse=on_files is not None,
        )
        self.workbench = workbench
        self._on_replay = on_replay
        self._on_request = on_request
        self._on_files = on_files
        self.limit = limit
        self._wanted = {"project": project, "outcome": outcome}
        self._found = RunList((), complete=True)
        self._going: set[str] = set()
        self._going_records: list[RunRecord] = []
        self._open: Panel | None = None
        self._open_lock = threading.Lock()
        self.refresh()

    def show(self, run_id: str) -> None:
        """Open a run below the table, in the background; an empty id closes what is open."""
        self.begin(self._show, run_id)

    def compare(self, left: str, right: str) -> Comparison:
        """Compare two runs by their ids. Blocks; raises as `RunArchive.get` does."""
        return self.workbench.compare(left, right)

    def export(self, run_id: str, path: Path | str) -> None:
        """Write a run to a file, as a recording. Blocks; raises as `RunArchive.get`, `Recording.of` and `save` do."""
        Recording.of(self._get(run_id)).save(path)

    def close(self) -> None:
        """Close the table and the run that is open in it. Idempotent."""
        with self._open_lock:
            if self._open is not None:
                self._open.close()
                self._open = None
        super().close()

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        """Handle questions, and the page's wishes to refresh, to list more, and to open a run."""
        match message:
            case {"type": "more"}:
                self.limit = min(MAX_RUNS, self.limit * 2)
                self.refresh()
            case {"type": "show", "run_id": str(run_id)}:
                self.show(run_id)
            case {"type": "browse", "run_id": str(run_id)} if self._on_files is not None:
                self.in_background(self._browse, self._on_files, run_id)
            case {"type": "again" | "edit" as wish, "run_id": str(run_id)} if self._on_request is not None:
                self.in_background(self._ask_again, self._on_request, run_id, wish == "again")
            case {"type": "replay", "run_id": str(run_id)} if self._on_replay is not None:
                self._on_replay(run_id)
            case _:
                super().handle(message, buffers)

    def inner(self) -> Iterable[Panel]:
        """The run that is open."""
        return () if self._open is None else (self._open,)

    def still(self) -> Still:
        """The list as a table, and the run that is open."""
        self.settle()
        title = f"Runs of {one_line(self.title)}"
        head = f"<strong>{html.escape(title)}</strong>"
        if self.condition != "ready":
            note = self.why or "still being read"
            return {"plain": f"{title}\n{note}", "html": f"<div>{head}<p>{html.escape(note)}</p></div>"}
        found = self._found._repr_mimebundle_()
        with self._open_lock:
            opened = None if self._open is None else self._open.still()
        return {
            "plain": "\n".join([title, found["text/plain"], *([opened["plain"]] if opened else [])]),
            "html": f"<div>{head}{found['text/html']}{opened['html'] if opened else ''}</div>",
        }

    def look(self) -> tuple[RunList, tuple[RunRecord, ...]]:
        """Read the newest runs that match, and unless an outcome is asked for, those that go on."""
        runs = self.workbench.runs
        live = () if self._wanted["outcome"] else tuple(one for one in runs.live() if self._takes(one))
        return runs.list(limit=self.limit, **self._wanted), live

    def draw(self, found: tuple[RunList, tuple[RunRecord, ...]]) -> None:
        """Put the runs into the trait that the page shows, as rows."""
        self._found, live = found
        ended = {one.run_id for one in self._found}
        going = [one for one in live if one.run_id not in ended]
        self._going = {one.run_id for one in going}
        self._going_records = going
        self._draw_rows()
        self.complete = self._found.complete or self.limit >= MAX_RUNS

    def _draw_rows(self) -> None:
        """Put the runs that were found into the trait, with what they and their projects are called now."""
        labels = self.workbench.labels
        try:
            runs, projects, filters = labels.runs(), labels.projects(), labels.filters()
        except LabelsUnreadableError as error:
            runs, projects, filters = {}, {}, {}
            self.problem = sentence(error)
        names = {(one.user_id, one.project_id): name for name, one in projects.items()}
        self.filters = {name: one.model_dump() for name, one in filters.items()}
        self.rows = [
            *(_live_row(one, runs, names) for one in self._going_records),
            *(_row(one, runs, names) for one in self._found),
        ]

    def _takes(self, record: RunRecord) -> bool:
        project = self._wanted["project"]
        wanted = (project.user_id, project.project_id) if isinstance(project, Project) else ("", project)
        return wanted[0] in ("", record.user_id) and wanted[1] in ("", record.project_id)

    def _show(self, run_id: str) -> None:
        opened = (self._watched(run_id) if run_id in self._going else self._get(run_id).view()) if run_id else None
        with self._open_lock:
            before, self._open = self._open, opened
            with self.hold_sync():
                self.shown = run_id
                self.view = f"anywidget:{opened.model_id}" if opened is not None else ""
        if before is not None:
            before.close()

    def _watched(self, run_id: str) -> "RunView":
        """The view of a run that goes on; when it has ended, the table is read again."""
        run = self.workbench.attach(run_id)
        run.on_end(lambda: self.begin(partial(self._read_ended, run_id)))
        return run.view()

    def _read_ended(self, run_id: str) -> None:
        """Read the table again when the archive of a run that has ended is there, which is a moment after its end."""
        with suppress(WorkbenchError):  # then the table is read without it
            self.workbench.runs.get(run_id, wait_s=_ENDED_S)
        self.read()

    def _ask_again(self, ask: Callable[[Request, bool], None], run_id: str, launch: bool) -> None:
        run = self._get(run_id)
        if launch or run.asked is None:
            ask(run.again(), True)
        else:
            ask(run.asked, False)

    def _get(self, run_id: str) -> ArchivedRun:
        return self.workbench.runs.get(run_id, wait_s=_JUST_ENDED_S)

    def _verify(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        checks = self.workbench.runs.verify(str(asked.get("run_id", "")), wait_s=_JUST_ENDED_S)
        return {"checks": [_safe(check) for check in checks]}, ()

    def _compare(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        found = self.compare(str(asked.get("left", "")), str(asked.get("right", "")))
        parts = {name: [asdict(row) for row in rows] for name, rows in found.parts()}
        return {"parts": parts, "files_problem": found.files_problem}, ()

    def _files(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        found = written_by(self._get(str(asked.get("run_id", ""))), self.workbench.volume)
        files = [[one.path, one.what, one.size, one.commit] for one in found[:MAX_FILES]]
        return {"files": files, "more": len(found) - len(files)}, ()

    def _label(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        name, note = str(asked.get("name", "")), str(asked.get("note", ""))
        self.workbench.labels.label_run(str(asked.get("run_id", "")), name=name, note=note)
        self._draw_rows()
        return {}, ()

    def _save_filter(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        values = asked.get("values")
        self.workbench.labels.save_filter(str(asked.get("name", "")), values if isinstance(values, dict) else {})
        self._draw_rows()
        return {}, ()

    def _forget_filter(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        self.workbench.labels.forget_filter(str(asked.get("name", "")))
        self._draw_rows()
        return {}, ()

    def _browse(self, browse: Callable[[Project], None], run_id: str) -> None:
        bundle = self._get(run_id).bundle
        browse(Project(bundle.user_id, bundle.project_id))

    def _export(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        run_id = str(asked.get("run_id", ""))
        with tempfile.TemporaryDirectory(prefix="workbench-") as name:
            path = Path(name) / "run.zip"
            self.export(run_id, path)
            return {"name": f"run-{run_id}.zip"}, (path.read_bytes(),)


def _row(one: ListedRun, runs: Mapping[str, RunLabel], names: Mapping[tuple[str, str], str]) -> Row:
    bundle, label = one.bundle, runs.get(one.run_id, RunLabel())
    return Row(
        run_id=one.run_id,
        cells=list(one.row()[1:-1]),
        reason=one.reason,
        at_ms=bundle.accepted_at_ms if bundle else 0,
        took_ms=bundle.ended_at_ms - bundle.accepted_at_ms if bundle else 0,
        usd=bundle.cost.usd if bundle and bundle.cost else 0.0,
        problem=one_line(one.problem),
        live=False,
        name=label.name,
        note=label.note,
        project=names.get((bundle.user_id, bundle.project_id), "") if bundle else "",
    )


def _live_row(record: RunRecord, runs: Mapping[str, RunLabel], names: Mapping[tuple[str, str], str]) -> Row:
    label = runs.get(record.run_id, RunLabel())
    took_ms = max(0, int(time.time() * 1000) - record.accepted_at_ms)
    when = f"{datetime.fromtimestamp(record.accepted_at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    return Row(
        run_id=record.run_id,
        cells=[
            when,
            one_line(record.action, 40),
            one_line(record.project_id, 40),
            "running",
            f"{took_ms // 1000} s",
            "",
            "",
        ],
        reason="",
        at_ms=record.accepted_at_ms,
        took_ms=took_ms,
        usd=0.0,
        problem="",
        live=True,
        name=label.name,
        note=label.note,
        project=names.get((record.user_id, record.project_id), ""),
    )


def _safe(check: Check) -> dict[str, Any]:
    return {"name": one_line(check.name), "ok": check.ok, "detail": one_line(check.detail, 400)}
