"""The whole workbench as one widget: a tab for each part, made when its tab is opened for the first time.

Opening the panel reads nothing and cannot fail: if nothing is deployed, the page says so, and what to do.
"""

import html
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import traitlets

from modal_app.contract.requests import Request
from workbench.runs.project import Project
from workbench.session import Workbench
from workbench.widgets.active_rules import ShownAnswers, ShownRule, active_answers, active_rules, halt
from workbench.widgets.base import Buffers, Panel, front_end, sentence
from workbench.widgets.deploy_panel import DeployPanel
from workbench.widgets.displays import Still
from workbench.widgets.failures import Failures
from workbench.widgets.files import Files
from workbench.widgets.launcher import Launcher
from workbench.widgets.replay import Replay
from workbench.widgets.runs_table import RunsTable


class Tab(NamedTuple):
    """A tab: its key, its title, and the function that makes its widget."""

    key: str
    title: str
    make: Callable[["WorkbenchPanel"], Panel]


class WorkbenchPanel(Panel):
    """Everything for one target. `part` gives its widgets: `panel.part("launch").launch(…)`, `panel.part("runs")`.

    Closing it closes its parts; with `owns`, also the connection.
    """

    _esm, _css = front_end(__file__)
    label = "Workbench"

    tabs: traitlets.List[dict[str, str]] = traitlets.List().tag(sync=True)
    parts: "traitlets.Dict[str, str]" = traitlets.Dict().tag(sync=True)
    chosen = traitlets.Unicode("").tag(sync=True)
    missing = traitlets.Unicode("").tag(sync=True)
    can_deploy = traitlets.Bool(False).tag(sync=True)
    can_fail = traitlets.Bool(False).tag(sync=True)
    rules: "traitlets.List[ShownRule]" = traitlets.List().tag(sync=True)
    answers: "traitlets.List[ShownAnswers]" = traitlets.List().tag(sync=True)

    def __init__(self, workbench: Workbench, *, owns: bool = False) -> None:
        super().__init__(can_deploy=workbench.target.kind != "url", can_fail=workbench.target.kind == "local")
        self.workbench = workbench
        self._owns = owns
        self._made: dict[str, Panel] = {}
        self._making = threading.RLock()
        self.tabs = [{"key": tab.key, "title": tab.title} for tab in TABS]
        self.show(TABS[0].key)

    def part(self, key: str) -> Panel:
        """The widget of a tab, made when it is asked for first. Raises KeyError for an unknown key."""
        tab = next((one for one in TABS if one.key == key), None)
        if tab is None:
            raise KeyError(key)
        with self._making:
            if key not in self._made:
                if self._closed:
                    raise RuntimeError("the panel is closed: open another one")
                self._made[key] = tab.make(self)
                self.parts = {**self.parts, key: f"anywidget:{self._made[key].model_id}"}
            return self._made[key]

    def show(self, key: str) -> None:
        """Choose a tab by its key. Raises KeyError for an unknown key."""
        self._open(key)
        self.chosen = key

    def close(self) -> None:
        """Close every part, and the connection if it is the panel's own. Idempotent."""
        super().close()
        with self._making:
            for part in self._made.values():
                part.close()
        if self._owns:
            self.workbench.close()

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        """Open the tab that the page asks for, and keep which one is shown, for pages that are opened later."""
        match message:
            case {"type": "hello"}:
                self.in_background(self._look)
            case {"type": "look"} if self.can_fail:
                self.in_background(self._look_at_rules)
            case {"type": "halt"} if self.can_fail:
                self.in_background(self._halt)
            case {"type": "show", "key": str(key)} if any(key == tab.key for tab in TABS):
                self.chosen = key
                self.in_background(self._open, key)

    def inner(self) -> Iterable[Panel]:
        """The tabs that were opened."""
        return tuple(self._made.values())

    def still(self) -> Still:
        """The static forms of the parts that were opened, one below the other."""
        parts = [(tab.title, self._made[tab.key].still()) for tab in TABS if tab.key in self._made]
        return Still(
            html="".join(f"<h4>{html.escape(title)}</h4>{part['html']}" for title, part in parts),
            plain="\n\n".join(f"{title}\n{part['plain']}" for title, part in parts),
        )

    def _open(self, key: str) -> None:
        known = key in self._made
        part = self.part(key)
        if known and isinstance(part, RunsTable | Files | DeployPanel):
            part.refresh()  # what it shows may have changed since it was read

    def _look(self) -> None:
        """Find out whether an endpoint is deployed."""
        try:
            self.workbench.endpoint  # noqa: B018  # raises when nothing is deployed
        except Exception as error:  # noqa: BLE001  # any failure is shown by the page, with what to do
            self.missing = sentence(error)
        else:
            self.missing = ""

    def _look_at_rules(self) -> None:
        rules, answers = active_rules(self.workbench), active_answers(self.workbench)
        with self.hold_sync():
            self.rules, self.answers = rules, answers

    def _halt(self) -> None:
        halt(self.workbench)
        self._look_at_rules()

    def _files(self) -> Files:
        launcher = self.part("launch")
        assert isinstance(launcher, Launcher)
        files = Files(self.workbench, project=launcher.project, leader="Launch", on_run=self._open_run)
        launcher.observe(lambda _change: files.follow(launcher.project), "draft")
        return files

    def _runs(self) -> RunsTable:
        return RunsTable(self.workbench, on_replay=self._replay, on_request=self._ask_again, on_files=self._browse)

    def _open_run(self, run_id: str) -> None:
        table = self.part("runs")
        assert isinstance(table, RunsTable)
        self.chosen = "runs"
        table.show(run_id)

    def _browse(self, project: Project) -> None:
        files = self.part("files")
        assert isinstance(files, Files)
        self.chosen = "files"
        files.pick(project)

    def _ask_again(self, request: Request, launch: bool) -> None:
        launcher = self.part("launch")
        assert isinstance(launcher, Launcher)
        launcher.fill(request)
        self.chosen = "launch"
        if launch:
            launcher.start(request)

    def _replay(self, run_id: str) -> None:
        replay = self.part("replay")
        assert isinstance(replay, Replay)
        self.chosen = "replay"
        replay.fetch(run_id)

    def _deployment(self) -> DeployPanel:
        panel = DeployPanel(self.workbench)
        panel.observe(self._deployed, "busy")
        return panel

    def _deployed(self, change: Mapping[str, Any]) -> None:
        """After a deployment has changed, refresh all other parts."""
        if change["new"]:
            return
        self.in_background(self._look)
        for part in tuple(self._made.values()):
            if isinstance(part, Launcher | RunsTable | Files):
                part.refresh()


TABS = (
    Tab("launch", "Launch", lambda panel: Launcher(panel.workbench)),
    Tab("runs", "Runs", WorkbenchPanel._runs),
    Tab("files", "Files", WorkbenchPanel._files),
    Tab("deploy", "Deployment", WorkbenchPanel._deployment),
    Tab("replay", "Replay", lambda panel: Replay(workbench=panel.workbench)),
    Tab("failures", "Failures", lambda panel: Failures(panel.workbench)),
)
