"""A job's output on its way to the journal: counted, cut into texts, never buffered beyond a character."""

from collections.abc import Awaitable, Callable

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import Channel
from modal_app.contract.limits import MAX_OUTPUT_BYTES, MAX_RESULT_BYTES
from modal_app.contract.sse import TextSplitter


class Output:
    """Writes both channels of a run's commands."""

    def __init__(self, write: Callable[[Channel, str], Awaitable[None]], *, max_bytes: int = MAX_OUTPUT_BYTES) -> None:
        self._write = write
        self._left = max_bytes
        self._splitters: dict[Channel, TextSplitter] = {"stdout": TextSplitter(), "stderr": TextSplitter()}

    async def __call__(self, channel: str, data: bytes) -> None:
        """Take a piece of output; raises ContractError `output_limit` when the run has printed too much."""
        name: Channel = "stderr" if channel == "stderr" else "stdout"
        self._left -= len(data)
        if self._left < 0:
            raise ContractError(ErrorCode.OUTPUT_LIMIT, "the job printed more than a run may")
        for text in self._splitters[name].feed(data):
            await self._write(name, text)

    async def flush(self) -> None:
        """Write what is left of a cut character."""
        for name, splitter in self._splitters.items():
            for text in splitter.flush():
                await self._write(name, text)


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
