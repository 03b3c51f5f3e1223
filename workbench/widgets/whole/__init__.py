"""The whole workbench as one panel: a tab for each widget."""

import html
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import traitlets

from workbench.session import Workbench
from workbench.widgets.base import Buffers, Panel, Still, front_end
from workbench.widgets.launcher import Launcher
from workbench.widgets.replay import Replay


class Tab(NamedTuple):
    """A tab's key, its title, and what makes its widget."""

    key: str
    title: str
    make: Callable[[Workbench], Panel]


TABS = (
    Tab("launch", "Launch", Launcher),
    Tab("replay", "Replay", lambda workbench: Replay(workbench=workbench)),
)


class Whole(Panel):
    """Everything for one target. `widgets` are its parts by key: `panel.widgets["launch"].launch(…)`.

    Closing it closes its parts, and the connection when `owns` says that it is its own.
    """

    _esm, _css = front_end(__file__)
    label = "Workbench"

    tabs: traitlets.List[dict[str, str]] = traitlets.List().tag(sync=True)
    chosen = traitlets.Unicode("").tag(sync=True)

    def __init__(self, workbench: Workbench, *, owns: bool = False) -> None:
        super().__init__()
        self.workbench = workbench
        self._owns = owns
        self.widgets: dict[str, Panel] = {tab.key: tab.make(workbench) for tab in TABS}
        self.tabs = [
            {"key": tab.key, "title": tab.title, "widget": f"anywidget:{self.widgets[tab.key].model_id}"}
            for tab in TABS
        ]
        self.chosen = TABS[0].key

    def show(self, key: str) -> None:
        """Choose a tab. Raises KeyError for one that there is not."""
        self.widgets[key]
        self.chosen = key

    def close(self) -> None:
        """Close every part. Idempotent."""
        for widget in self.widgets.values():
            widget.close()
        if self._owns:
            self.workbench.close()
        super().close()

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        """Remember which tab is shown, for the next page."""
        match message:
            case {"type": "show", "key": str(key)} if key in self.widgets:
                self.chosen = key

    def still(self) -> Still:
        """The parts one after the other."""
        parts = [(tab.title, self.widgets[tab.key].still()) for tab in TABS]
        return Still(
            html="".join(f"<h4>{html.escape(title)}</h4>{part['html']}" for title, part in parts),
            plain="\n\n".join(f"{title}\n{part['plain']}" for title, part in parts),
        )
