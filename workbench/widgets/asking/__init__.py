"""Widgets whose pages ask questions that take time: each question gets an answer, or the reason why there is none.

Each question is answered in a thread of its own, so neither a cell nor another question waits for it.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from workbench.widgets.base import Buffers, Panel, front_end, sentence

SETTLE_S = 15.0  # how long showing the widget waits for work under way, so that its static form includes the results

Answer = tuple[Mapping[str, Any], Sequence[bytes]]
_ASKING = Path(__file__).parent / "asking.js"


def asking_front_end(file: str, *more: str) -> tuple[str, str]:
    """As `front_end`, with the JavaScript that asks questions put before `more`."""
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
        """Answer a question; a subclass handles all other messages."""
        match message:
            case {"type": "ask", "id": int(number), "what": str(what)} if what in self.questions:
                answer: Callable[[Mapping[str, Any], Buffers], Answer] = getattr(self, self.questions[what])
                self.begin(self._answer, number, answer, message, buffers)

    def begin(self, work: Callable[..., None], *arguments: Any) -> None:
        """Call `work` in a thread of its own; `settle` waits for it."""
        with self._settled:
            self._begun += 1
        self.in_background(self._counted, work, *arguments)

    def settle(self, timeout_s: float = SETTLE_S) -> bool:
        """Wait until no work is under way, for `timeout_s` seconds at most; returns whether it is so."""
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
        except Exception as error:  # noqa: BLE001  # any failure is shown by the page, at the question
            self.send({"type": "failed", "id": number, "message": sentence(error)})
            return
        self.send({"type": "answer", "id": number, **content}, buffers=list(data))
