"""Asks a widget as its page does, without a page."""

from collections.abc import Sequence
from typing import Any

from tests.conftest import wait_until
from workbench.widgets.asking import AskingPanel


class Page:
    """A page of one widget: what it was sent, and the answer to each question."""

    def __init__(self, panel: AskingPanel) -> None:
        self.panel = panel
        self.sent: list[tuple[dict[str, Any], list[bytes]]] = []
        panel.send = lambda content, buffers=None: self.sent.append((content, list(buffers or ())))

    def says(self, **message: Any) -> None:
        """What a button does."""
        self.panel._on_message(self.panel, message, [])

    def ask(self, what: str, buffers: Sequence[bytes] = (), **fields: Any) -> tuple[dict[str, Any], list[bytes]]:
        """A question and its answer."""
        number = len(self.sent) + 1000
        self.panel._on_message(self.panel, {"type": "ask", "id": number, "what": what, **fields}, list(buffers))
        wait_until(lambda: any(one.get("id") == number for one, _ in self.sent), f"no answer to {what}")
        return next((one, data) for one, data in self.sent if one.get("id") == number)

    def refused(self, what: str, **fields: Any) -> str:
        """Why a question has no answer."""
        answer, _ = self.ask(what, **fields)
        assert answer["type"] == "failed", answer
        return str(answer["message"])
