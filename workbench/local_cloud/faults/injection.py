"""Does what the rules of `faults` say, at the places where the cloud asks: RPCs, commits, web responses."""

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from google.protobuf.message import Message

from workbench.local_cloud.base.clock import Clock
from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.faults.rules import At, FaultRule, Faults, Subject

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_UNLIMITED_S = 24 * 3600.0


class Targets(Protocol):
    """Knows whom a call is about, and how to harm it."""

    def of_request(self, request: Message) -> Subject:
        """Whom an RPC is about, from the words that its request has for it and from who asks."""
        ...

    def of_holder(self, holder_id: str, path: str) -> Subject:
        """The sandbox or container that has a volume mounted."""
        ...

    def of_function(self, function_id: str, path: str) -> Subject:
        """The app of a web function that is asked for `path`."""
        ...

    async def harm(self, rule: FaultRule, subject: Subject) -> None:
        """Kill, preempt or exhaust whom a rule means; nothing when nobody is meant."""
        ...


class Injector:
    """Decides at each place whether a rule fires, and lets it: a delay, harm, an error."""

    def __init__(self, faults: Faults, clock: Clock, targets: Targets) -> None:
        self.faults = faults
        self._clock = clock
        self._targets = targets

    async def on_call(self, at: At, name: str, request: Message) -> None:
        """Before an RPC is done, or after; raises CloudError when a rule says so."""
        if self.faults:
            subject = self._targets.of_request(request)
            for rule in self.faults.draw(at, name, lambda: subject):
                await self._harm(rule, subject)

    async def on_stream(self, name: str, request: Message, messages: AsyncIterator[Message]) -> AsyncIterator[Message]:
        """Pass a streamed answer on, as slowly and as far as the rules allow."""
        rules = self.faults.draw("stream", name, lambda: self._targets.of_request(request)) if self.faults else []
        passed = 0
        async for message in messages:
            for rule in rules:
                if passed == rule.after_messages:
                    await self._harm(rule, self._targets.of_request(request))
                if passed >= rule.after_messages and rule.bytes_per_s:
                    await self._clock.sleep(message.ByteSize() / rule.bytes_per_s)
            passed += 1
            yield message
        for rule in rules:
            if passed <= rule.after_messages and not rule.bytes_per_s:  # the stream was shorter: it breaks at its end
                await self._harm(rule, self._targets.of_request(request))

    async def on_commit(self, author: str, path: str) -> bool:
        """Before a mount is committed; False when it must be acknowledged and not happen. Raises CloudError.

        `author` is `kind:id`, and what else is known of who commits.
        """
        lost = False
        if self.faults:
            subject = self._targets.of_holder(author.partition(":")[2].partition(" ")[0], path)
            for rule in self.faults.draw("commit", author, lambda: subject):
                await self._harm(rule, subject)
                lost = lost or rule.lose
        return not lost

    def on_web(self, function_id: str, path: str) -> list[FaultRule]:
        """The rules for one response of a web function."""
        return self.faults.draw("web", path, lambda: self._targets.of_function(function_id, path))

    async def harm_container(self, rule: FaultRule, task_id: str) -> None:
        """Do to one function container what a rule says."""
        await self._harm(rule, Subject(task_id=task_id))

    async def _harm(self, rule: FaultRule, subject: Subject) -> None:
        if rule.delay_s:
            await self._clock.sleep(rule.delay_s)
        await self._targets.harm(rule, subject)
        if rule.reason is not None:
            raise CloudError(rule.reason, f"injected by a fault rule: {rule.reason}")


class SlowedResponse:
    """A hop between a web function and its client that buffers and slows as rules say."""

    def __init__(self, send: Send, rules: list[FaultRule], clock: Clock) -> None:
        self._send = send
        self._clock = clock
        self._held = b""
        self._hold_bytes = max((rule.buffer_bytes or 0 for rule in rules), default=0)
        self._bytes_per_s = min((rule.bytes_per_s for rule in rules if rule.bytes_per_s), default=None)
        self._slice_bytes = min((rule.slice_bytes for rule in rules if rule.slice_bytes), default=None)
        self._idle_s = min((rule.idle_cut_s for rule in rules if rule.idle_cut_s), default=None)
        self.passed_at = clock.monotonic()
        """When a byte last passed, by the cloud's clock."""

    async def idle(self) -> None:
        """Return when no byte has passed for as long as the rules allow; never, when they set no limit."""
        while self._idle_s is None or (left := self.passed_at + self._idle_s - self._clock.monotonic()) > 0:
            await self._clock.sleep(_UNLIMITED_S if self._idle_s is None else left)

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Pass a message of a response on, now or with later ones."""
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
