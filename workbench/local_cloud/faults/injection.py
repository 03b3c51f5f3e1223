"""Injects the faults of the rules that fire, at the places where the cloud calls in: RPCs, commits, web responses."""

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from google.protobuf.message import Message

from workbench.local_cloud.base.clock import Clock
from workbench.local_cloud.base.clocks import Clocks
from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.faults.protocol import At
from workbench.local_cloud.faults.rules import FaultRule, Faults, Fired, Subject

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_UNLIMITED_S = 24 * 3600.0


class Targets(Protocol):
    """Finds the subject of a call (the app, sandbox, container or exec that it concerns), and can harm it."""

    def of_request(self, request: Message) -> Subject:
        """Return the subject of an RPC, from the ids in its request and from the caller."""
        ...

    def of_holder(self, holder_id: str, path: str) -> Subject:
        """Return the subject of a commit: `holder_id` is the sandbox or container whose mount is committed."""
        ...

    def of_function(self, function_id: str, path: str) -> Subject:
        """Return the subject of a request for `path` to a web function: its app."""
        ...

    def reaches(self, rule: FaultRule, subject: Subject) -> bool:
        """Whether the subject has what the rule ends; True for a rule that ends nothing."""
        ...

    async def harm(self, rule: FaultRule, subject: Subject) -> bool:
        """Kill, preempt or exhaust the subject as the rule says; returns whether it has ended anything."""
        ...


class Injector:
    """Asks the rules at each place, and does what those that fire say: wait, harm the subject, fail the call."""

    def __init__(self, faults: Faults, clocks: Clocks, targets: Targets) -> None:
        self.faults = faults
        self._clocks = clocks
        self._targets = targets

    async def on_call(self, at: At, name: str, request: Message) -> None:
        """Apply the rules for an RPC before it is done (`at` is `call`) or after (`answer`).

        Raises CloudError when a rule says so.
        """
        if self.faults:
            subject = self._targets.of_request(request)
            for fired in self._draw(at, name, lambda: subject):
                await self._harm(fired, subject)

    async def on_stream(self, name: str, request: Message, messages: AsyncIterator[Message]) -> AsyncIterator[Message]:
        """Pass a streamed answer on, as slowly and as far as the rules allow. Raises CloudError when one ends it."""
        drawn = self._draw("stream", name, lambda: self._targets.of_request(request)) if self.faults else []
        clock = self._clocks.of(self._targets.of_request(request).app_id) if drawn else self._clocks.whole
        passed = 0
        async for message in messages:
            for fired in drawn:
                rule = fired.rule
                if passed == rule.after_messages:
                    await self._harm(fired, self._targets.of_request(request))
                if passed >= rule.after_messages and rule.bytes_per_s:
                    await clock.sleep(message.ByteSize() / rule.bytes_per_s)
            passed += 1
            yield message
        for fired in drawn:
            # A stream that was shorter breaks at its end.
            if passed <= fired.rule.after_messages and not fired.rule.bytes_per_s:
                await self._harm(fired, self._targets.of_request(request))

    async def on_commit(self, author: str, path: str) -> bool:
        """Apply the rules for a commit of a mount before it is made. Raises CloudError when a rule says so.

        Returns False when the commit is not to be made: lost, though acknowledged, or its maker is killed in it.
        `author` begins with `kind:id` of who commits; `path` is the mount's sub-path.
        """
        lost = False
        if self.faults:
            subject = self._targets.of_holder(author.partition(":")[2].partition(" ")[0], path)
            for fired in self._draw("commit", author, lambda: subject):
                await self._harm(fired, subject)
                lost = lost or fired.rule.lose or fired.rule.ends_commit
        return not lost

    def on_web(self, function_id: str, path: str) -> list[Fired]:
        """Return the rules that fire for one response of a web function."""
        return self.faults.draw("web", path, lambda: self._targets.of_function(function_id, path))

    async def harm_container(self, fired: Fired, task_id: str) -> None:
        """End the function container `task_id` as a rule says, whose other actions are the caller's."""
        await self._end(fired, Subject(task_id=task_id))

    def _draw(self, at: At, what: str, subject: Callable[[], Subject]) -> list[Fired]:
        return self.faults.draw(at, what, subject, self._targets.reaches)

    async def _end(self, fired: Fired, subject: Subject) -> None:
        if fired.rule.ends_something and not await self._targets.harm(fired.rule, subject) and fired.rule.only_ends:
            self.faults.take_back(fired)

    async def _harm(self, fired: Fired, subject: Subject) -> None:
        rule = fired.rule
        if rule.delay_s:
            await self._clocks.of(subject.app_id).sleep(rule.delay_s)
        await self._end(fired, subject)
        if rule.reason is not None:
            raise CloudError(rule.reason, f"injected by a fault rule: {rule.reason}")


class SlowedResponse:
    """An ASGI `send` that buffers a web function's response and slows it down, as rules say."""

    def __init__(self, send: Send, rules: list[FaultRule], clock: Clock) -> None:
        self._send = send
        self._clock = clock
        self._held = b""
        self._hold_bytes = max((rule.buffer_bytes or 0 for rule in rules), default=0)
        self._bytes_per_s = min((rule.bytes_per_s for rule in rules if rule.bytes_per_s), default=None)
        self._slice_bytes = min((rule.slice_bytes for rule in rules if rule.slice_bytes), default=None)
        self._idle_s = min((rule.idle_cut_s for rule in rules if rule.idle_cut_s), default=None)
        self.passed_at = clock.monotonic()
        """When a byte last passed, by this clock."""

    async def idle(self) -> None:
        """Return when no byte has passed for as long as the rules allow; never, when they set no limit."""
        while self._idle_s is None or (left := self.passed_at + self._idle_s - self._clock.monotonic()) > 0:
            await self._clock.sleep(_UNLIMITED_S if self._idle_s is None else left)

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Pass an ASGI message of a response on, now or together with later ones."""
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        self._held += message.get("body", b"")
        if message.get("more_body") and len(self._held) < self._hold_bytes:
            return
        data, self._held = self._held, b""
        step = self._slice_bytes or len(data) or 1
        for start in range(0, max(len(data), 1), step):
            piece = data[start : start + step]
            if self._bytes_per_s:
                await self._clock.sleep(len(piece) / self._bytes_per_s)
            more = message.get("more_body", False) or start + step < len(data)
            await self._send({**message, "body": piece, "more_body": more})
            self.passed_at = self._clock.monotonic()
