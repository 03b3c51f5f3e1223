"""Widgets that show what they read from somewhere, in a background thread, again whenever they are refreshed."""

from collections.abc import Mapping
from typing import Any, ClassVar

import traitlets

from workbench.widgets.asking import AskingPanel
from workbench.widgets.base import Buffers, sentence


class ReadingPanel(AskingPanel):
    """A widget with a method `look`, which reads, and a method `draw`, which puts what was read into traits.

    `condition` is "loading", "ready" or "error"; `why` then tells the reason, after the words of `cannot`.
    """

    cannot: ClassVar[str] = ""

    condition = traitlets.Unicode("loading").tag(sync=True)
    why = traitlets.Unicode("").tag(sync=True)

    def look(self) -> Any:
        """Read what is to be shown. May block; an exception is shown by the page."""
        raise NotImplementedError

    def draw(self, found: Any) -> None:
        """Put what was read into the traits, all in one change."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Read again, in the background."""
        self.begin(self.read)

    def read(self) -> None:
        """Read again, and return when that is done."""
        try:
            found = self.look()
        except Exception as error:  # noqa: BLE001  # any failure is shown by the page in place of the content
            with self.hold_sync():
                self.condition, self.why = "error", f"{self.cannot}{sentence(error)}"
            return
        with self.hold_sync():
            self.draw(found)
            self.condition, self.why = "ready", ""

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        """Handle questions, and the page's wish to refresh."""
        if message.get("type") == "refresh":
            self.refresh()
        super().handle(message, buffers)
