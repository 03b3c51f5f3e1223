"""A job's output on its way to the journal: counted against the run's limit and cut into texts.

Nothing is held back except the bytes of an incomplete character.
"""

import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import JsonValue

from modal_app.actions.last_words import Tail, last_words
from modal_app.contract.caps import MAX_OUTPUT_BYTES, MAX_RESULT_BYTES
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import Channel
from modal_app.contract.sse import TextSplitter


@dataclass(frozen=True)
class Piece:
    """One piece of output, with the fields of the event `stream`: a `text`, or a `message` of the Claude CLI."""

    channel: Channel
    text: str = ""
    message: dict[str, JsonValue] | None = None
    message_id: str | None = None
    replaces: str | None = None
    cut: bool | None = None


class Output:
    """Takes what a run's commands print and awaits `write(piece)`; `max_bytes` is what a run may print in all."""

    def __init__(self, write: Callable[[Piece], Awaitable[None]], *, max_bytes: int = MAX_OUTPUT_BYTES) -> None:
        self._write = write
        self._max_bytes = self._left = max_bytes
        self._splitters: dict[Channel, TextSplitter] = {"stdout": TextSplitter(), "stderr": TextSplitter()}
        self._stderr = Tail()

    async def __call__(self, channel: str, data: bytes) -> None:
        """Take output of a channel; raises ContractError `output_limit` when the run has printed too much."""
        name: Channel = "stderr" if channel == "stderr" else "stdout"
        self.count(data)
        if name == "stderr":
            self._stderr.feed(data)
        for text in self._splitters[name].feed(data):
            await self._write(Piece(name, text))

    def count(self, data: bytes) -> None:
        """Count bytes that a command printed; raises ContractError `output_limit` when the run has printed too much."""
        self._left -= len(data)
        if self._left < 0:
            message = f"the job printed more than the {self._max_bytes} bytes that a run may: write to a file instead"
            raise ContractError(ErrorCode.OUTPUT_LIMIT, message)

    async def tell(self, piece: Piece) -> None:
        """Write a piece whose bytes have been counted already, by `count`."""
        await self._write(piece)

    @property
    def last_words(self) -> str:
        """The last error that the run's programs told on stderr; guest text, on one printable line."""
        return last_words(str(self._stderr))

    async def flush(self) -> None:
        """Write what is left of an incomplete character, at the end of the output."""
        for name, splitter in self._splitters.items():
            for text in splitter.flush():
                await self._write(Piece(name, text))


def failed(program: str, exit_code: int) -> str:
    """The message of a program that failed, which has nothing that the program said.

    Its exit code may tell of a signal: shells and sandboxes add 128 to its number, and a program may do so, too.
    """
    try:
        by = f" (128 + {signal.Signals(exit_code - 128).name})"
    except ValueError:
        by = ""
    return f"{program} ended with exit code {exit_code}{by}"


class Captured:
    """Collects a command's stdout in `data`, at most `max_bytes` of it, and passes its stderr on to `output`."""

    def __init__(self, output: Output, *, max_bytes: int = MAX_RESULT_BYTES) -> None:
        self.data = bytearray()
        self._output = output
        self._max_bytes = max_bytes

    async def __call__(self, channel: str, data: bytes) -> None:
        """Take output of a channel; raises ContractError `too_large` when stdout exceeds the limit."""
        if channel == "stderr":
            await self._output(channel, data)
            return
        if len(self.data) + len(data) > self._max_bytes:
            raise ContractError(ErrorCode.TOO_LARGE, f"the result is too large: at most {self._max_bytes} bytes")
        self.data += data

    @property
    def text(self) -> str:
        """The stdout as text, with U+FFFD for what is not UTF-8."""
        return self.data.decode(errors="replace")
