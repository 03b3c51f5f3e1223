"""Widgets whose pages ask for things that take a moment: each question gets its answer, or why there is none.

The work is done in a thread for it alone, so neither a cell nor another question waits for it.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from workbench.widgets.base import Buffers, Panel, front_end, sentence

SETTLE_S = (
    15.0  # how long a cell that shows the widget waits for what was begun, so that readers without a kernel see it
)

Answer = tuple[Mapping[str, Any], Sequence[bytes]]
_ASKING = Path(__file__).parent / "asking.js"


def asking_front_end(file: str, *more: str) -> tuple[str, str]:
    """As `front_end`, with what asks questions in front of `more`."""
    return front_end(file, str(_ASKING), *more)


class AskingPanel(Panel):
    """A widget with `questions`: names of its methods that take a question and return its answer.

    A question is `{"type": "ask", "id": number, "what": name, …}`; its answer has the same id, and is either
    `{"type": "answer", …}` with buffers or `{"type": "failed", "message": …}`.
    """

    questions: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **traits: Any) -> None:
        self._begun = 0
        self._settled = threading.Condition()
        super().__init__(**traits)

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        """Answer a question; whatever else comes is for the subclass."""
        match message:
            case {"type": "ask", "id": int(number), "what": str(what)} if what in self.questions:
                answer: Callable[[Mapping[str, Any], Buffers], Answer] = getattr(self, self.questions[what])
                self.begin(self._answer, number, answer, message, buffers)

    def begin(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do something in a thread for it alone; `settle` waits for it."""
        with self._settled:
            self._begun += 1
        self.in_background(self._counted, work, *arguments)

    def settle(self, timeout_s: float = SETTLE_S) -> bool:
        """Wait until nothing that was begun is under way; returns whether that is so."""
        with self._settled:
            return self._settled.wait_for(lambda: self._begun == 0, timeout_s)

    def _counted(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        finally:
            with self._settled:
                self._begun -= 1
                self._settled.notify_all()

    def _answer(
        self,
        number: int,
        answer: Callable[[Mapping[str, Any], Buffers], Answer],
        message: Mapping[str, Any],
        buffers: Buffers,
    ) -> None:
        try:
            content, data = answer(message, buffers)
        except Exception as error:  # noqa: BLE001  # the boundary: the page shows it where it has asked
            self.send({"type": "failed", "id": number, "message": sentence(error)})
            return
        self.send({"type": "answer", "id": number, **content}, buffers=list(data))
