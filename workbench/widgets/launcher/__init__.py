"""A widget with forms for requests: shows the call that a form makes, launches it, and shows its run. Never blocks."""

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import anywidget
import traitlets

from modal_app.contract.requests import Request
from workbench.deployment.deploy import DeployFailedError
from workbench.runs.project import Project, make_request
from workbench.runs.run import Run
from workbench.session import Workbench
from workbench.widgets.base import Buffers, Panel, front_end, sentence
from workbench.widgets.displays import Still
from workbench.widgets.launcher.forms import Checked, Form, check, forms, values_of
from workbench.widgets.launcher.launch_code import calls
from workbench.widgets.projects import Offered, called, ids, offered, used_before
from workbench.widgets.run_view import RunView

_KEPT = 8  # runs whose views are kept
_FORMS = forms()
_SCRIPTED = (
    "What is deployed here asks the scripted model, whatever model is named below: its answers are written down "
    "before, and nothing is spent, whatever price is told."
)


@dataclass(frozen=True)
class Draft:
    """The state of the form: what is filled in."""

    form: Form
    project: Project
    values: Mapping[str, Any]

    def checked(self) -> Checked:
        """The request that the form makes, or what is wrong with its fields."""
        return check(self.form, self.project.user_id, self.project.project_id, self.values)


class Launcher(Panel):
    """Launches runs on a workbench. `launch` does the same as the page's button; `runs` are those launched here."""

    _esm, _css = front_end(__file__, "../shared/projects.js")
    label = "Launcher"

    forms: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    draft = traitlets.Dict().tag(sync=True)
    filled = traitlets.Int(0).tag(sync=True)
    errors = traitlets.Dict().tag(sync=True)
    calls = traitlets.Dict().tag(sync=True)
    calls_note = traitlets.Unicode("").tag(sync=True)
    where = traitlets.Unicode("").tag(sync=True)
    notes = traitlets.Dict().tag(sync=True)
    offered: traitlets.List[Offered] = traitlets.List().tag(sync=True)
    launching = traitlets.Bool(False).tag(sync=True)
    launched: traitlets.List[str] = traitlets.List().tag(sync=True)
    chosen = traitlets.Int(0).tag(sync=True)
    view: RunView | None = anywidget.WidgetTrait().tag(sync=True)

    def __init__(self, workbench: Workbench, *, project: Project | None = None, action: str = "python") -> None:
        super().__init__(forms=[form.drawn() for form in _FORMS])
        self._workbench = workbench
        self._views: list[RunView] = []
        self.runs: list[Run] = []
        self.where = f"{workbench.app_name} on {workbench.target.url or workbench.target.kind}"
        self._draft = Draft(_form(action), project or Project.new(), {})
        self._show_draft()

    @property
    def project(self) -> Project:
        """The project that is filled in; while its ids are being typed, they may not be UUIDs. Changes with `draft`."""
        return self._draft.project

    def launch(self, project: Project, action: str, **fields: Any) -> Run:
        """Start a run and show it, as the button does. Raises what `Workbench.launch` raises."""
        return self.start(make_request(project, action, **fields))

    def start(self, request: Request) -> Run:
        """Start a run of a parsed request and show it."""
        run = self._workbench.start(request)
        view = run.view()
        self.runs.append(run)
        self._views.append(view)
        if len(self._views) > _KEPT:
            self._views.pop(0).close()
            self.runs.pop(0)
            self.launched = self.launched[1:]
        op = f" {request.op}" if hasattr(request, "op") else ""
        self.launched = [*self.launched, f"{request.action}{op}"]
        self._choose(len(self._views) - 1)
        self._offer([Project(request.user_id, request.project_id)])
        return run

    def fill(self, request: Request) -> None:
        """Fill the form in as for this request, to be edited and launched. May be called from any thread."""
        form = next(one for one in _FORMS if isinstance(request, one.model))
        project = Project(request.user_id, request.project_id)
        self.soon(self._fill_in, Draft(form, project, values_of(form, request)))

    def refresh(self) -> None:
        """Find out again what is deployed and which projects were used, in the background."""
        self.in_background(self._look_around)

    def close(self) -> None:
        """End the launcher and its views; the runs go on. Idempotent."""
        for view in self._views:
            view.close()
        super().close()

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        """Handle what the page says: what was typed, or that it is to be launched."""
        match message:
            case {"type": "hello"}:
                self.refresh()
            case {"type": "draft" | "launch" as wish, "form": int(index), "project": dict(ids), "values": dict(values)}:
                project = Project(str(ids.get("user_id", "")).strip(), str(ids.get("project_id", "")).strip())
                self._draft = Draft(_FORMS[index], project, values)
                self._check()
                if wish == "launch":
                    self._launch_draft()
            case {"type": "new_project"}:
                self._move(Project.new())
            case {"type": "name", "name": str(name)}:
                self._move(called(name, self.project, self._workbench.labels))
                self._offer([])
            case {"type": "choose", "index": int(index)} if 0 <= index < len(self._views):
                self._choose(index)

    def inner(self) -> Iterable[Panel]:
        """The runs that were started."""
        return tuple(self._views)

    def still(self) -> Still:
        """The target of runs, and the run that is shown."""
        shown = self.view.still() if self.view is not None else Still(html="no run yet", plain="no run yet")
        where = f"Launcher for {self.where}"
        return Still(html=f"<div>{html.escape(where)}</div>{shown['html']}", plain=f"{where}\n{shown['plain']}")

    def _launch_draft(self) -> None:
        checked = self._draft.checked()
        if checked.request is not None and not self.launching:
            self.launching = True
            self.in_background(self._launch, checked.request)

    def _launch(self, request: Request) -> None:
        try:
            self.start(request)
        finally:
            self.launching = False

    def _choose(self, index: int) -> None:
        with self.hold_sync():
            self.chosen = index
            self.view = self._views[index]

    def _fill(self, draft: Draft) -> None:
        self._draft = draft
        self._check()

    def _fill_in(self, draft: Draft) -> None:
        """Fill the form in, in pages that show another one, too: `filled` tells them that this is not from them."""
        self._fill(draft)
        self.filled += 1

    def _move(self, project: Project) -> None:
        self._fill(Draft(self._draft.form, project, self._draft.values))

    def _offer(self, projects: list[Project]) -> None:
        """Offer these projects before those that were offered already."""
        before = [Project(one["user_id"], one["project_id"]) for one in self.offered]
        self.offered = offered([*projects, *before], self._workbench.labels)

    def _show_draft(self) -> None:
        draft = self._draft
        self.draft = {
            "form": _FORMS.index(draft.form),
            "project": dict(ids(draft.project)),
            "values": dict(draft.values),
        }

    def _check(self) -> None:
        """Set the traits that tell what is wrong with the draft, or which call it makes, and the draft itself."""
        checked = self._draft.checked()
        self._show_draft()
        self.errors = checked.errors
        if checked.request is None:
            self.calls, self.calls_note = {}, "the call is shown when the form is filled in"
            return
        try:
            url = self._workbench.endpoint.url
        except DeployFailedError as error:
            self.calls, self.calls_note = {}, sentence(error)
            return
        target = self._workbench.target.url or self._workbench.target.kind
        self.calls = calls(checked.request, url, target=target, app_name=self._workbench.app_name)
        self.calls_note = ""

    def _look_around(self) -> None:
        """Find out, which takes a moment, whether the deployment has Claude, and which projects were used before."""
        why = self._workbench.why_without_claude if self._workbench.target.kind != "url" else None
        if why:
            self.notes = {"claude": f"What is deployed from here has no Claude CLI: {why}"}
        elif self._workbench.has_scripted_model:
            self.notes = {"claude": _SCRIPTED}
        else:
            self.notes = {}
        self.soon(self._check)
        launched = [run.request for run in self.runs if run.request is not None]
        here = [Project(one.user_id, one.project_id) for one in launched]
        self._offer([*here, *used_before(self._workbench)])


def _form(action: str) -> Form:
    return next(form for form in _FORMS if form.action == action)
