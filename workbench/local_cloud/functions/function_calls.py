"""Function calls: their inputs and outputs, and the two data streams of a web call or a generator.

All of it is in memory: a call is lost when the cloud's process ends. Containers are started elsewhere, in `pool.py`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from modal_proto import api_pb2

from workbench.local_cloud.base.clock import Timer
from workbench.local_cloud.base.errors import not_found
from workbench.local_cloud.base.ids import new_id

DATA_WINDOW_BYTES = 4 * 1024 * 1024  # of a stream that are written but not read
_FINISHED_CALLS_KEPT = 10_000
_FORGOTTEN_S = 3600.0  # a caller that lives asks for outputs each minute, or gives inputs
_FINISHED_BYTES_KEPT = 256 * 1024 * 1024  # of their results in all
_READING_S = 60.0  # for so long after its end a call is kept even beyond that: its client may still be reading


class DataStream:
    """Chunks with indices from 1, for one reader; the writer waits while the reader is `DATA_WINDOW_BYTES` behind."""

    def __init__(self, *, replayable: bool = False, on_freed: Callable[[int], None] = lambda _: None) -> None:
        """`replayable` keeps chunks that were read, for another reader, until they reach `DATA_WINDOW_BYTES`.

        `whole` is True while all chunks since the first are kept in this way. `on_freed` is called with the bytes of
        each chunk that is kept no longer.
        """
        self.whole = replayable
        self._on_freed = on_freed
        self._chunks: list[api_pb2.DataChunk] = []
        self._last_index = 0
        self._buffered = 0
        self._closed = False
        self._changed = asyncio.Event()

    async def put(self, chunk: api_pb2.DataChunk) -> None:
        """Append a chunk, after waiting for room. One whose index was put already is a retry, and is dropped."""
        while self._buffered >= DATA_WINDOW_BYTES and not self._closed:
            await self._wait()
        if self._closed or (chunk.index and chunk.index <= self._last_index):
            return
        self._last_index = chunk.index = chunk.index or self._last_index + 1
        self._chunks.append(chunk)
        self._buffered += len(chunk.data)
        self._notify()

    @property
    def kept_bytes(self) -> int:
        """The bytes of the chunks that are kept."""
        return self._buffered

    @property
    def begun(self) -> bool:
        """Whether any chunk was ever put."""
        return self._last_index > 0

    def close(self) -> None:
        """End the stream: the reader gets what is left, and a waiting writer returns."""
        self._closed = True
        self._notify()

    def drop(self) -> None:
        """End the stream and free what is left, which nobody will read."""
        self._chunks.clear()
        self._buffered = 0
        self.close()

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
        freed = len(self._chunks.pop(0).data)
        self._buffered -= freed
        self._on_freed(freed)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self) -> None:
        await self._changed.wait()


@dataclass(eq=False)
class Input:
    """One input of a call, the attempt that is made now, and the output once there is one.

    `idx` is its position in the call, `task_id` the container that has it (empty: none), `queued_at` the monotonic time
    of its app's clock. `started_at` and `made_at` are Unix seconds, of the app's clock and of real time.
    """

    call: "Call"
    idx: int
    payload: api_pb2.FunctionInput
    input_id: str = field(default_factory=lambda: new_id("in"))
    retry_count: int = 0
    task_id: str = ""
    started_at: float = 0
    made_at: float = field(default_factory=time.time)
    method_name: str = ""  # of a class
    queued_at: float = 0
    overdue: bool = False  # the attempt has timed out: its container's output no longer counts
    attempt_over: asyncio.Event = field(default_factory=asyncio.Event)
    time_limit: Timer | None = None  # of the attempt
    output: api_pb2.FunctionPutOutputsItem | None = None
    cancelled: bool = False
    released: bool = False  # of its output only the status and the time are left

    def release(self) -> None:
        """Free the output, which its reader has; only its status and its time are kept."""
        if self.output is not None and not self.released:
            self.released = True
            before = self.output.ByteSize()
            result = api_pb2.GenericResult(status=self.output.result.status)
            self.output = api_pb2.FunctionPutOutputsItem(
                input_id=self.input_id, result=result, output_created_at=self.output.output_created_at
            )
            self.call.freed(before - self.output.ByteSize())

    def end_attempt(self) -> None:
        """Record that no container works on the input any more, and stop its timeout."""
        self.attempt_over.set()
        if self.time_limit is not None:
            self.time_limit.cancel()

    def finish(self, result: api_pb2.GenericResult) -> None:
        """Give the input a result that does not come from a container; does nothing when it has an output."""
        if self.output is None:
            self.call.finish(
                self,
                api_pb2.FunctionPutOutputsItem(input_id=self.input_id, result=result, output_created_at=time.time()),
            )


class Call:
    """One call of a function, with one or more inputs. It may get further ones while it is `open`.

    `invocation` is the protocol's FunctionCallInvocationType. `outputs` are the inputs that have an output, in the
    order in which they got it. `data_in` is what a web call's client sends, `data_out` what the function yields.
    `touched_at` is when it was last asked for by its id, on the monotonic clock.
    """

    def __init__(
        self,
        function_id: str,
        invocation: int,
        parent_input_id: str = "",
        *,
        open: bool = False,  # noqa: A002  # what it is, and no file
        on_done: "Callable[[Call], None]" = lambda _: None,
        on_freed: "Callable[[Call, int], None]" = lambda _, __: None,
    ) -> None:
        """`on_done` is called once, when the call is done; `on_freed` with bytes of results that are kept no longer."""
        self.call_id = new_id("fc")
        self.function_id = function_id
        self.invocation = invocation
        self.parent_input_id = parent_input_id
        self.open = open
        self.touched_at = time.monotonic()
        self._complete = False
        self.created_at = time.time()
        self.inputs: dict[str, Input] = {}
        self.by_idx: dict[int, Input] = {}
        self.outputs: list[Input] = []
        self.data_in = DataStream(replayable=True)
        self.data_out = DataStream(on_freed=self.freed)
        self._changed = asyncio.Event()
        self._on_done = on_done
        self._on_freed = on_freed

    def add(self, idx: int, payload: api_pb2.FunctionInput) -> Input:
        """Add an input at the position `idx` and return it."""
        item = Input(self, idx, payload, method_name=payload.method_name)
        self.inputs[item.input_id] = item
        self.by_idx[idx] = item
        return item

    def finished(self, first: int, last: int) -> list[Input]:
        """Return the inputs that have an output to read, with an index from `first` to `last`, both included."""
        last = min(last, max(self.by_idx, default=-1))
        found = (self.by_idx.get(idx) for idx in range(first, last + 1))
        return [item for item in found if item is not None and item.output is not None and not item.released]

    def finish(self, item: Input, output: api_pb2.FunctionPutOutputsItem) -> None:
        """Record an input's output. Only the first one counts: later ones are retries, and are dropped."""
        if item.output is not None:
            return
        item.output = output
        item.payload = api_pb2.FunctionInput()  # no attempt follows that would need it
        item.end_attempt()
        self.outputs.append(item)
        if self.done:
            self._end()
        self._changed.set()
        self._changed = asyncio.Event()

    def close_inputs(self) -> None:
        """Record that the call gets no further inputs. Idempotent."""
        self._complete = True
        if self.open:
            self.open = False
            if self.done:
                self._end()

    def _end(self) -> None:
        self.data_out.close()
        self.data_in.drop()  # no attempt follows that would need it
        self._on_done(self)

    @property
    def kept_bytes(self) -> int:
        """The bytes of the results that are kept: outputs, and what the function has yielded and nobody has read."""
        outputs: int = sum(item.output.ByteSize() for item in self.outputs if item.output is not None)
        return outputs + self.data_out.kept_bytes

    def freed(self, count: int) -> None:
        """Record that `count` bytes of the results are kept no longer."""
        self._on_freed(self, count)

    @property
    def can_start_again(self) -> bool:
        """Whether another container can repeat the call: no output was sent yet, and all input is kept."""
        return not self.data_out.begun and self.data_in.whole

    @property
    def done(self) -> bool:
        """Whether every input has an output, and there will be no further one."""
        return bool(self.inputs or self._complete) and not self.open and len(self.outputs) == len(self.inputs)

    async def wait_until(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Return when `ready` returns True, which is checked at each new output, or after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        while not ready() and (left := deadline - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return


@dataclass
class _Finished:
    """What a finished call holds, and when it has finished, by the monotonic clock."""

    kept_bytes: int
    at: float = field(default_factory=time.monotonic)


class Calls:
    """Calls by id. Those that finished last are kept, so that their outputs can be read later.

    These are at most 10,000 calls, with 256 MiB of results in all once they have finished a minute ago.
    """

    def __init__(self) -> None:
        self._calls: dict[str, Call] = {}
        self._finished: dict[str, _Finished] = {}  # by id, in the order in which they finished
        self._kept_bytes = 0
        self._shortening: asyncio.TimerHandle | None = None

    def create(
        self,
        function_id: str,
        invocation: int = api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC,
        *,
        parent_input_id: str = "",
        open: bool = False,  # noqa: A002  # what it is, and no file
    ) -> Call:
        """Make a call without inputs; `parent_input_id` is the input that makes it, if any.

        One that is `open` is not finished before its `close_inputs`.
        """
        call = Call(function_id, invocation, parent_input_id, open=open, on_done=self._keep, on_freed=self._count_less)
        self._calls[call.call_id] = call
        return call

    def _keep(self, call: Call) -> None:
        if call.call_id not in self._calls:
            return
        self._not_finished(call)  # a late input may have begun it again
        finished = self._finished[call.call_id] = _Finished(call.kept_bytes)
        self._kept_bytes += finished.kept_bytes
        if len(self._finished) > _FINISHED_CALLS_KEPT:
            self.forget(self._calls[next(iter(self._finished))])
        if self._shortening is None:
            self._shorten()

    def _count_less(self, call: Call, count: int) -> None:
        if (finished := self._finished.get(call.call_id)) is not None:
            finished.kept_bytes -= count
            self._kept_bytes -= count

    def _shorten(self) -> None:
        """Forget the calls that finished first until the results of the others fit; later, when these are too new."""
        self._shortening = None
        while self._finished and self._kept_bytes > _FINISHED_BYTES_KEPT:
            oldest, finished = next(iter(self._finished.items()))
            left_s = finished.at + _READING_S - time.monotonic()
            if left_s > 0:
                self._shortening = asyncio.get_running_loop().call_later(left_s, self._shorten)
                return
            self.forget(self._calls[oldest])

    def find(self, call_id: str) -> Call | None:
        """Return a call by id, or None."""
        return self._calls.get(call_id)

    def get(self, call_id: str) -> Call:
        """Return a call by id; raises CloudError NOT_FOUND."""
        if call_id not in self._calls:
            raise not_found(f"Function call {call_id} not found: calls are kept until the local cloud ends, at most.")
        call = self._calls[call_id]
        call.touched_at = time.monotonic()
        return call

    def close_inputs_of(self, is_of: Callable[[str], bool]) -> None:
        """Record that open calls get no further inputs; `is_of` tells it by the function's id."""
        for call in list(self._calls.values()):
            if call.open and is_of(call.function_id):
                call.close_inputs()

    def close_forgotten(self) -> None:
        """Record that calls get no further inputs whose callers have not been heard of for an hour."""
        before = time.monotonic() - _FORGOTTEN_S
        for call in list(self._calls.values()):
            if call.open and call.touched_at < before:
                call.close_inputs()

    def of_function(self, function_id: str) -> list[Call]:
        """Return the calls of one function, oldest first."""
        return [call for call in self._calls.values() if call.function_id == function_id]

    def all(self) -> list[Call]:
        """Return every call, oldest first."""
        return list(self._calls.values())

    def running(self) -> list[Call]:
        """Return the calls of which an input has no output yet; not those that only wait for further inputs."""
        return [call for call in self._calls.values() if len(call.outputs) < len(call.inputs)]

    def below(self, call: Call) -> list[Call]:
        """Return a call, the calls that its inputs have made, those that these have made, and so on."""
        children: dict[str, list[Call]] = {}  # by the input that made them
        for known in self._calls.values():
            children.setdefault(known.parent_input_id, []).append(known)
        found = [call]
        for parent in found:
            made = (child for input_id in parent.inputs for child in children.get(input_id, ()))
            found += [child for child in made if child is not parent]
        return found

    def forget(self, call: Call) -> None:
        """Remove a call whose outputs will not be read again."""
        self._calls.pop(call.call_id, None)
        self._not_finished(call)

    def _not_finished(self, call: Call) -> None:
        if (finished := self._finished.pop(call.call_id, None)) is not None:
            self._kept_bytes -= finished.kept_bytes
