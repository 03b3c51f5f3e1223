"""Function calls in flight: their inputs, their results, and the two streams of data that a web call has.

All of it is in memory: a call belongs to the cloud that took it and ends with it. Nothing here starts containers.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from modal_proto import api_pb2

from workbench.local_cloud.base.clock import Timer
from workbench.local_cloud.base.errors import not_found
from workbench.local_cloud.base.ids import new_id

DATA_WINDOW_BYTES = 4 * 1024 * 1024  # what one side of a call may be ahead of the other
_FINISHED_CALLS_KEPT = 1000


class DataStream:
    """Chunks numbered from 1, read once; the writer waits while the reader is a window behind.

    With `replayable`, they stay for another reader as long as they are no more than a window; then `whole` is True.
    """

    def __init__(self, *, replayable: bool = False) -> None:
        self.whole = replayable
        self._chunks: list[api_pb2.DataChunk] = []
        self._last_index = 0
        self._buffered = 0
        self._closed = False
        self._changed = asyncio.Event()

    async def put(self, chunk: api_pb2.DataChunk) -> None:
        """Append a chunk; one whose index was already taken is a retry and is dropped."""
        while self._buffered >= DATA_WINDOW_BYTES and not self._closed:
            await self._wait()
        if self._closed or (chunk.index and chunk.index <= self._last_index):
            return
        self._last_index = chunk.index = chunk.index or self._last_index + 1
        self._chunks.append(chunk)
        self._buffered += len(chunk.data)
        self._notify()

    @property
    def begun(self) -> bool:
        """Whether anything was ever put."""
        return self._last_index > 0

    def close(self) -> None:
        """End the stream: readers get what is left, writers are released."""
        self._closed = True
        self._notify()

    async def read(self, *, after: int = 0) -> AsyncIterator[api_pb2.DataChunk]:
        """Yield chunks with an index above `after` until the stream is closed."""
        while True:
            self.whole = self.whole and self._buffered < DATA_WINDOW_BYTES
            while not self.whole and self._chunks and self._chunks[0].index <= after:
                self._drop_first()
            ahead = after + 1 - self._chunks[0].index if self._chunks else 0
            if ahead < len(self._chunks):
                chunk = self._chunks[max(0, ahead)]
                after = chunk.index
                yield chunk
            elif self._closed:
                return
            else:
                await self._wait()

    def _drop_first(self) -> None:
        self._buffered -= len(self._chunks.pop(0).data)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self) -> None:
        await self._changed.wait()


@dataclass(eq=False)
class Input:
    """One input of a call, and its output once there is one."""

    call: "Call"
    idx: int
    payload: api_pb2.FunctionInput
    input_id: str = field(default_factory=lambda: new_id("in"))
    retry_count: int = 0
    task_id: str = ""
    started_at: float = 0
    overdue: bool = False  # its time is up: what its container still says of this attempt does not count
    attempt_over: asyncio.Event = field(default_factory=asyncio.Event)
    time_limit: Timer | None = None  # of the attempt
    output: api_pb2.FunctionPutOutputsItem | None = None
    cancelled: bool = False

    def end_attempt(self) -> None:
        """Note that no container works on it any more."""
        self.attempt_over.set()
        if self.time_limit is not None:
            self.time_limit.cancel()

    def finish(self, result: api_pb2.GenericResult) -> None:
        """Give the input a result made here rather than by a container."""
        if self.output is None:
            self.call.finish(
                self,
                api_pb2.FunctionPutOutputsItem(input_id=self.input_id, result=result, output_created_at=time.time()),
            )


class Call:
    """One call of a function with one or more inputs."""

    def __init__(self, function_id: str, invocation: int, parent_input_id: str = "") -> None:
        self.call_id = new_id("fc")
        self.function_id = function_id
        self.invocation = invocation
        self.parent_input_id = parent_input_id
        self.created_at = time.time()
        self.inputs: dict[str, Input] = {}
        self.by_idx: dict[int, Input] = {}
        self.outputs: list[Input] = []
        self.data_in = DataStream(replayable=True)
        self.data_out = DataStream()
        self._changed = asyncio.Event()

    def add(self, idx: int, payload: api_pb2.FunctionInput) -> Input:
        """Add an input."""
        item = Input(self, idx, payload)
        self.inputs[item.input_id] = item
        self.by_idx[idx] = item
        return item

    def finished(self, first: int, last: int) -> list[Input]:
        """Inputs with an index from `first` to `last`, both included, that have an output."""
        last = min(last, max(self.by_idx, default=-1))
        found = (self.by_idx.get(idx) for idx in range(first, last + 1))
        return [item for item in found if item is not None and item.output is not None]

    def finish(self, item: Input, output: api_pb2.FunctionPutOutputsItem) -> None:
        """Record an input's output, once; later ones are retries and are dropped."""
        if item.output is not None:
            return
        item.output = output
        item.end_attempt()
        self.outputs.append(item)
        if self.done:
            self.data_out.close()
            self.data_in.close()
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def can_start_again(self) -> bool:
        """Whether a container that was taken away can be replaced without anybody noticing."""
        return not self.data_out.begun and self.data_in.whole

    @property
    def done(self) -> bool:
        """Whether every input has an output."""
        return len(self.outputs) == len(self.inputs)

    async def wait_until(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Return when an output has made `ready` true, or after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        while not ready() and (left := deadline - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return


class Calls:
    """Calls by id; finished ones are kept for a while so that late readers find them."""

    def __init__(self) -> None:
        self._calls: dict[str, Call] = {}

    def create(
        self,
        function_id: str,
        invocation: int = api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC,
        *,
        parent_input_id: str = "",
    ) -> Call:
        """Open a call."""
        if len(self._calls) > _FINISHED_CALLS_KEPT:
            for old in [call for call in self._calls.values() if call.done][: _FINISHED_CALLS_KEPT // 2]:
                del self._calls[old.call_id]
        call = Call(function_id, invocation, parent_input_id)
        self._calls[call.call_id] = call
        return call

    def get(self, call_id: str) -> Call:
        """One call by id; raises CloudError NOT_FOUND."""
        if call_id not in self._calls:
            raise not_found(f"Function call {call_id} not found.")
        return self._calls[call_id]

    def of_function(self, function_id: str) -> list[Call]:
        """The calls of one function that are known, oldest first."""
        return [call for call in self._calls.values() if call.function_id == function_id]

    def below(self, call: Call) -> list[Call]:
        """A call and those that its inputs have made, and theirs; it comes first."""
        made: dict[str, list[Call]] = {}
        for one in self._calls.values():
            made.setdefault(one.parent_input_id, []).append(one)
        found = [call]
        for one in found:
            found += [child for input_id in one.inputs for child in made.get(input_id, ()) if child is not one]
        return found

    def forget(self, call: Call) -> None:
        """Drop a call that nobody will ask for again."""
        self._calls.pop(call.call_id, None)
