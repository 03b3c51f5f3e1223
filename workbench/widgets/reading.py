"""Widgets that show what they have read: looked up in a thread for it alone, again when somebody wants it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import traitlets

from workbench.widgets.asking import AskingPanel
from workbench.widgets.base import Buffers, sentence


class ReadingPanel(AskingPanel):
    """A widget that has `look`, which reads, and `draw`, which puts what was read into traits.

    `condition` is `loading`, `ready`, or `error`, and then `why` tells the reason, behind `cannot`.
    """

    cannot: ClassVar[str] = ""

    condition = traitlets.Unicode("loading").tag(sync=True)
    why = traitlets.Unicode("").tag(sync=True)

    def look(self) -> Any:
        """Read; may block, and raise whatever is to be told."""
        raise NotImplementedError

    def draw(self, found: Any) -> None:
        """Put what was read into the traits, all of them at once."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Look again, in the background."""
        self.begin(self.read)

    def read(self) -> None:
        """Look again, and wait for it."""
        try:
            found = self.look()
        except Exception as error:  # noqa: BLE001  # the boundary: the page shows it in place of what is not there
            with self.hold_sync():
                self.condition, self.why = "error", f"{self.cannot}{sentence(error)}"
            return
        with self.hold_sync():
            self.draw(found)
            self.condition, self.why = "ready", ""

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        """Questions, and the wish to look again."""
        if message.get("type") == "refresh":
            self.refresh()
        super().handle(message, buffers)
