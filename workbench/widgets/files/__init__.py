"""A widget that browses the files of a project: one used before, one whose ids are typed, or another widget's.

It follows the project of another widget, the leader, until somebody picks one here.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import anywidget
import traitlets

from workbench.runs.project import Project
from workbench.session import Workbench
from workbench.widgets.asking import AskingPanel
from workbench.widgets.base import Buffers, Panel, front_end, sentence
from workbench.widgets.displays import Still
from workbench.widgets.launcher.forms import check, forms
from workbench.widgets.projects import Offered, called, ids, offered, used_before
from workbench.widgets.volume_browser import VolumeBrowser

_LIST = next(form for form in forms() if (form.action, form.op) == ("files", "list"))


class Files(AskingPanel):
    """Browses the projects of a workbench. `pick` shows a project; the leader calls `follow` with its own."""

    _esm, _css = front_end(__file__, "../shared/projects.js")
    label = "Files"

    project = traitlets.Dict().tag(sync=True)
    offered: traitlets.List[Offered] = traitlets.List().tag(sync=True)
    errors = traitlets.Dict().tag(sync=True)
    leader = traitlets.Unicode("").tag(sync=True)
    following = traitlets.Bool(False).tag(sync=True)
    opening = traitlets.Bool(False).tag(sync=True)
    why = traitlets.Unicode("").tag(sync=True)
    view: VolumeBrowser | None = anywidget.WidgetTrait().tag(sync=True)

    def __init__(
        self,
        workbench: Workbench,
        *,
        project: Project | None = None,
        leader: str = "",
        on_run: Callable[[str], None] | None = None,
    ) -> None:
        """`leader` is the name of the widget whose project is followed, for the page to show; empty for none.

        `on_run` is called with the id of a run that is to be opened.
        """
        super().__init__(leader=leader, following=bool(leader))
        self.workbench = workbench
        self._on_run = on_run
        self._wanted: Project | None = None
        self._led = project
        self._known: list[Project] = []
        self._opening = threading.Lock()
        if project is not None:
            self._show(project)

    def pick(self, project: Project) -> None:
        """Show a project's files, read in the background, and stop following the leader's project."""
        self.soon(self._pick, project)

    def follow(self, project: Project) -> None:
        """Show the project that the leader has now, unless one was picked here."""
        self.soon(self._follow, project)

    def refresh(self) -> None:
        """Read the files again, in the background."""
        self.soon(self._refresh)

    def close(self) -> None:
        """Close the widget and its browser. Idempotent."""
        super().close()
        with self._opening:
            if self.view is not None:
                self.view.close()

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        """Handle the page's choice of a project."""
        match message:
            case {"type": "hello"}:
                self.in_background(self._look_around)
            case {"type": "pick", "user_id": str(user_id), "project_id": str(project_id)}:
                self._pick(Project(user_id, project_id))
            case {"type": "name", "name": str(name)}:
                now = Project(self.project.get("user_id", ""), self.project.get("project_id", ""))
                self._pick(called(name, now if now.project_id else Project.new(), self.workbench.labels))
                self._offer([])
            case {"type": "follow"} if self.leader and self._led is not None:
                self.following = True
                self._show(self._led)

    def inner(self) -> Iterable[Panel]:
        """The browser of the project that is picked."""
        return () if self.view is None else (self.view,)

    def still(self) -> Still:
        """The files of the project that is picked."""
        self.settle()
        if self.view is not None:
            return self.view.still()
        note = self.why or "no project is picked"
        return Still(html=note, plain=note)

    def _pick(self, project: Project) -> None:
        self.errors = check(_LIST, project.user_id, project.project_id, {}).errors
        if not self.errors:
            self.following = False
            self._show(project)

    def _follow(self, project: Project) -> None:
        if check(_LIST, project.user_id, project.project_id, {}).errors:
            return  # the ids are still being typed
        self._led = project
        self._offer([project])
        if self.following:
            self._show(project)

    def _refresh(self) -> None:
        self.in_background(self._look_around)
        if self.view is not None:
            self.view.refresh()
        elif self._wanted is not None:
            wanted, self._wanted = self._wanted, None
            self._show(wanted)

    def _show(self, project: Project) -> None:
        if project == self._wanted:
            return
        self._wanted = project
        with self.hold_sync():
            self.project, self.errors, self.opening = dict(ids(project)), {}, True
        self.begin(self._open, project)

    def _open(self, project: Project) -> None:
        try:
            self.workbench.endpoint  # noqa: B018  # raises when nothing is deployed: no volume must be created then
            view, why = VolumeBrowser(self.workbench.volume(project), on_run=self._on_run), ""
        except Exception as error:  # noqa: BLE001  # any failure is shown by the page in place of the files
            view, why = None, sentence(error)
        with self._opening:
            late = self._closed or project != self._wanted
            out = view if late else self.view
            if not late:
                with self.hold_sync():
                    self.view, self.why, self.opening = view, why, False
        if out is not None:
            out.close()

    def _look_around(self) -> None:
        self._offer(used_before(self.workbench))

    def _offer(self, projects: list[Project]) -> None:
        self._known = list(dict.fromkeys([*projects, *self._known]))
        self.offered = offered(self._known, self.workbench.labels)
