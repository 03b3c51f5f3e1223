"""A widget that browses a project's committed files: a tree, previews, the history, and restoring.

Files are read in background threads. Their names and contents reach the page only as text, as images, or as HTML in an
isolated iframe.
"""

import html
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, ClassVar, TypedDict

import traitlets

from workbench.files.history import HistoryUnavailableError, run_of
from workbench.files.preview import Preview, highlighted, shown_size
from workbench.files.project_files import CUT, MAX_UPLOAD_BYTES, ProjectVolume, VolumeEntry, tree_lines
from workbench.text.plain_text import one_line, printable
from workbench.text.static_html import table
from workbench.widgets.asking import Answer, asking_front_end
from workbench.widgets.base import Buffers
from workbench.widgets.displays import Still
from workbench.widgets.reading import ReadingPanel

MAX_DOWNLOAD_BYTES = 64 * 1024 * 1024  # in one message; larger files need `modal volume get`
MAX_DIFF_CHARS = 256 * 1024
MAX_ROWS = 1000  # of the static form, a diff, a blame
MAX_COMMITS = 200


class Entry(TypedDict):
    """A row of the tree; `kind` as in VolumeEntry, `mtime` Unix time in seconds."""

    path: str
    kind: str
    size: int
    mtime: int


class Mount(TypedDict):
    """The uncommitted changes in a live mount; `holder` names the sandbox or container that has it."""

    holder: str
    files: int
    size: int
    paths: list[str]


class VolumeBrowser(ReadingPanel):
    """Shows a project's committed files. `refresh` reads them again, `choose` shows a file."""

    _esm, _css = asking_front_end(__file__, "preview.js")
    label = "Volume"
    cannot = "the volume cannot be read: "
    questions: ClassVar[Mapping[str, str]] = {
        "preview": "_preview",
        "history": "_history",
        "diff": "_diff",
        "text_diff": "_text_diff",
        "blame": "_blame",
        "would_restore": "_would_restore",
        "restore": "_restore",
        "download": "_download",
        "upload": "_upload",
    }

    title = traitlets.Unicode("").tag(sync=True)
    entries: traitlets.List[Entry] = traitlets.List().tag(sync=True)
    mounts: traitlets.List[Mount] = traitlets.List().tag(sync=True)
    cut = traitlets.Unicode("").tag(sync=True)
    no_history = traitlets.Unicode("").tag(sync=True)
    max_upload = traitlets.Int(MAX_UPLOAD_BYTES).tag(sync=True)
    chosen = traitlets.Unicode("").tag(sync=True)
    can_open_runs = traitlets.Bool(False).tag(sync=True)

    def __init__(self, volume: ProjectVolume, *, on_run: Callable[[str], None] | None = None) -> None:
        """`on_run` is called with the id of a run that is to be opened; without it, the page has no button for it."""
        super().__init__(title=f"{volume.user_id}/{volume.project_id}", can_open_runs=on_run is not None)
        self.volume = volume
        self._on_run = on_run
        self.refresh()

    def choose(self, path: str) -> None:
        """Show a file or directory of the project, as a click does; "" is the project itself."""
        self.chosen = path

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        """Handle questions, and the page's wishes to refresh and to open the run that made a commit."""
        match message:
            case {"type": "run", "run_id": str(run_id)} if self._on_run is not None:
                self._on_run(run_id)
            case _:
                super().handle(message, buffers)

    def still(self) -> Still:
        """The tree as a table, and the uncommitted changes."""
        self.settle()
        shown = [one for one in self.entries if one["path"].split("/")[0] != ".git"]
        rows = [_row(one) for one in shown[:MAX_ROWS]]
        more = f"… and {len(shown) - MAX_ROWS} more" if len(shown) > MAX_ROWS else ""
        notes = [*(self._warning(mount) for mount in self.mounts), *(note for note in (more, self.cut) if note)]
        if self.condition == "loading":
            notes.append("still being read")
        elif self.condition == "error":
            notes.append(self.why)
        elif not rows:
            notes.append("(nothing committed)")
        title = f"Files of {self.title}"
        heading = ("path", "size", "modified (UTC)")
        lines = tree_lines([VolumeEntry(**one) for one in shown[:MAX_ROWS]])  # type: ignore[arg-type]  # as it came
        return {
            "plain": "\n".join([title, *map(printable, lines), *notes]),
            "html": f"<div><strong>{html.escape(title)}</strong>{table(heading, rows) if rows else ''}"
            + "".join(f"<p>{html.escape(note)}</p>" for note in notes)
            + "</div>",
        }

    def look(self) -> tuple[list[VolumeEntry], bool, list[Mount]]:
        """Read the committed files, whether there are more of them, and the uncommitted changes in live mounts."""
        return *self.volume.listing(), self._mounts()

    def draw(self, found: tuple[list[VolumeEntry], bool, list[Mount]]) -> None:
        """Put them into the traits that the page shows."""
        entries, more, self.mounts = found
        self.cut = CUT if more else ""
        self.entries = [Entry(path=one.path, kind=one.kind, size=one.size, mtime=one.mtime) for one in entries]

    def _mounts(self) -> list[Mount]:
        try:
            found = self.volume.uncommitted()
        except HistoryUnavailableError as error:
            self.no_history = str(error)
            return []
        return [
            Mount(holder=one.holder, files=one.files, size=one.size, paths=list(one.paths[:MAX_ROWS]))
            for one in found
            if one.files
        ]

    @staticmethod
    def _warning(mount: Mount) -> str:
        return one_line(
            f"not committed: {mount['holder']} holds {mount['files']} files, {shown_size(mount['size'])}, "
            "which nobody else can see and which are lost with it"
        )

    def _preview(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        return _drawn(self.volume.preview(_path(asked), _number(asked, "commit")))

    def _history(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        found = self.volume.history(_path(asked), limit=MAX_COMMITS)
        commits = [
            {
                "number": one.number,
                "at": one.at,
                "author": one.author,
                "run_id": run_of(one.author),
                "count": len(one.changes),
                "changes": [[change.path, change.removed] for change in one.changes[:20]],
            }
            for one in found
        ]
        return {"commits": commits, "more": len(found) == MAX_COMMITS}, ()

    def _diff(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        base, path = _number(asked, "base"), _path(asked)
        if holder := str(asked.get("holder", "")):
            mount = next((one for one in self._mounts() if one["holder"] == holder), None)
            paths = [] if mount is None else [one for one in mount["paths"] if _below(one, path)]
            return {"changes": [[one, "not committed", None, None] for one in paths], "more": False}, ()
        changes = self.volume.diff(base, _number(asked, "head"), path=path)
        rows = [
            [one.path, one.what, one.before and one.before.size, one.after and one.after.size]
            for one in changes[:MAX_ROWS]
        ]
        return {"changes": rows, "more": len(changes) > MAX_ROWS}, ()

    def _text_diff(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        head = str(asked.get("holder", "")) or _number(asked, "head")
        text = self.volume.diff_text(_path(asked), _number(asked, "base"), head)
        note = "" if len(text) <= MAX_DIFF_CHARS else f"the first {MAX_DIFF_CHARS} characters"
        return {"lines": highlighted("x.diff", text[:MAX_DIFF_CHARS]), "note": note}, ()

    def _blame(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        found = self.volume.blame(_path(asked))
        lines = [[one.commit, one.at, one.author, one.text[:2000]] for one in found[:MAX_ROWS]]
        return {"lines": lines, "note": f"the first {MAX_ROWS} lines" if len(found) > MAX_ROWS else ""}, ()

    def _would_restore(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        """The paths that a restore would remove, modify and add, before anybody asks for it."""
        commit, path = _number(asked, "commit"), _path(asked)
        now = self.volume.history(limit=1)
        changes = self.volume.diff(now[0].number, commit, path=path) if now else []
        return {
            what: [one.path for one in changes if one.what == what] for what in ("removed", "modified", "added")
        }, ()

    def _restore(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        number = self.volume.restore(_number(asked, "commit"), _path(asked))
        self.refresh()
        return {"said": "nothing differs" if number is None else f"restored as commit {number}"}, ()

    def _download(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        path, commit = _path(asked), _number(asked, "commit")
        data = self.volume.read_at(path, commit) if commit else self.volume.read(path, limit=MAX_DOWNLOAD_BYTES + 1)
        if len(data) > MAX_DOWNLOAD_BYTES:
            raise ValueError(f"more than {shown_size(MAX_DOWNLOAD_BYTES)}: use `modal volume get`")
        return {"name": path.rpartition("/")[2]}, (data,)

    def _upload(self, asked: Mapping[str, Any], buffers: Buffers) -> Answer:
        path = _path(asked)
        there = self.volume.entry(path)
        if there is not None and asked.get("replace") is not True:
            return {"exists": there.kind}, ()
        self.volume.write(path, bytes(buffers[0]) if buffers else b"")
        self.refresh()
        return {"said": f"uploaded {one_line(path)}"}, ()


def _path(asked: Mapping[str, Any]) -> str:
    return str(asked.get("path", ""))


def _number(asked: Mapping[str, Any], name: str) -> int:
    value = asked.get(name, 0)
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be the number of a commit")
    return value


def _below(path: str, directory: str) -> bool:
    return not directory or path == directory or path.startswith(f"{directory}/")


def _drawn(preview: Preview) -> Answer:
    facts = {name: value for name, value in asdict(preview).items() if name != "data"}
    return facts, (preview.data,) if preview.data else ()


def _row(one: Entry) -> tuple[str, str, str]:
    size = shown_size(one["size"]) if one["kind"] == "file" else one["kind"]
    return (printable(one["path"]), size, f"{datetime.fromtimestamp(one['mtime'], UTC):%Y-%m-%d %H:%M:%S}")
