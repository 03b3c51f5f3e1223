"""A job's output on its way to the journal: counted, cut into texts, never buffered beyond a character."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import JsonValue

from modal_app.contract.caps import MAX_OUTPUT_BYTES, MAX_RESULT_BYTES
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import Channel
from modal_app.contract.sse import TextSplitter


@dataclass(frozen=True)
class Piece:
    """One piece of output, as the event `stream` tells it: `text`, or a `message` of the Claude CLI."""

    channel: Channel
    text: str = ""
    message: dict[str, JsonValue] | None = None
    message_id: str | None = None
    replaces: str | None = None
    cut: bool | None = None


class Output:
    """Writes what a run's commands say."""

    def __init__(self, write: Callable[[Piece], Awaitable[None]], *, max_bytes: int = MAX_OUTPUT_BYTES) -> None:
        self._write = write
        self._left = max_bytes
        self._splitters: dict[Channel, TextSplitter] = {"stdout": TextSplitter(), "stderr": TextSplitter()}

    async def __call__(self, channel: str, data: bytes) -> None:
        """Take a piece of output; raises ContractError `output_limit` when the run has printed too much."""
        name: Channel = "stderr" if channel == "stderr" else "stdout"
        self.count(data)
        for text in self._splitters[name].feed(data):
            await self._write(Piece(name, text))

    def count(self, data: bytes) -> None:
        """Count what a command printed; raises ContractError `output_limit` when the run has printed too much."""
        self._left -= len(data)
        if self._left < 0:
            raise ContractError(ErrorCode.OUTPUT_LIMIT, "the job printed more than a run may")

    async def tell(self, piece: Piece) -> None:
        """Write a piece that was made of bytes counted before."""
        await self._write(piece)

    async def flush(self) -> None:
        """Write what is left of a cut character."""
        for name, splitter in self._splitters.items():
            for text in splitter.flush():
                await self._write(Piece(name, text))


class Captured:
    """Keeps what a command prints to stdout as its result, up to a limit, and passes stderr on."""

    def __init__(self, output: Output, *, max_bytes: int = MAX_RESULT_BYTES) -> None:
        self.data = bytearray()
        self._output = output
        self._max_bytes = max_bytes

    async def __call__(self, channel: str, data: bytes) -> None:
        """Take a piece of output; raises ContractError `too_large`."""
        if channel == "stderr":
            await self._output(channel, data)
            return
        if len(self.data) + len(data) > self._max_bytes:
            raise ContractError(ErrorCode.TOO_LARGE, f"the result is larger than {self._max_bytes} bytes")
        self.data += data

    @property
    def text(self) -> str:
        """What was kept, with U+FFFD for what is not UTF-8."""
        return self.data.decode(errors="replace")
