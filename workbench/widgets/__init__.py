"""Widgets: Python owns the state, one plain JavaScript file draws it. Guest text enters the page only as text."""

from workbench.widgets.run_view import RunView
from workbench.widgets.volume_browser import VolumeBrowser

__all__ = ["RunView", "VolumeBrowser"]
