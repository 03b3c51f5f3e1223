"""Widgets: Python owns the state, one plain JavaScript file draws it. Guest text enters the page only as text."""

from workbench.widgets.launcher import Launcher
from workbench.widgets.replay import Replay
from workbench.widgets.run_view import RunView
from workbench.widgets.volume_browser import VolumeBrowser
from workbench.widgets.whole import Whole

__all__ = ["Launcher", "Replay", "RunView", "VolumeBrowser", "Whole"]
