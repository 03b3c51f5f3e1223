"""Does what the rules of `faults` say, at the places where the cloud asks: RPCs, commits, web responses."""

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from google.protobuf.message import Message

from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.clock import Clock
from workbench.local_cloud.base.errors import RpcFailure
from workbench.local_cloud.faults.rules import At, FaultRule, Faults, Subject
from workbench.local_cloud.functions.pool import Pools
from workbench.local_cloud.sandboxes.limits.watchdog import Exceeded
from workbench.local_cloud.sandboxes.sandbox_records import Record
from workbench.local_cloud.sandboxes.sandboxes import Sandboxes
from workbench.local_cloud.server.callers import caller

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Injector:
    """Knows whom a call is about, and how to harm it."""

    def __init__(self, faults: Faults, clock: Clock, apps: Apps, pools: Pools, sandboxes: Sandboxes) -> None:
        self.faults = faults
        self._clock = clock
        self._apps = apps
        self._pools = pools
        self._sandboxes = sandboxes

    async def on_call(self, at: At, name: str, request: Message) -> None:
        """Before an RPC is done, or after; raises RpcFailure when a rule says so."""
        if self.faults:
            subject = self._subject(request)
            for rule in self.faults.draw(at, name, lambda: subject):
                await self._harm(rule, subject)

    async def on_stream(self, name: str, request: Message, messages: AsyncIterator[Message]) -> AsyncIterator[Message]:
        """Pass a streamed answer on, as slowly and as far as the rules allow."""
        rules = self.faults.draw("stream", name, lambda: self._subject(request)) if self.faults else []
        passed = 0
        async for message in messages:
            for rule in rules:
                if passed == rule.after_messages:
                    await self._harm(rule, self._subject(request))
                if passed >= rule.after_messages and rule.bytes_per_s:
                    await self._clock.sleep(message.ByteSize() / rule.bytes_per_s)
            passed += 1
            yield message
        for rule in rules:
            if passed <= rule.after_messages and not rule.bytes_per_s:  # the stream was shorter: it breaks at its end
                await self._harm(rule, self._subject(request))

    async def on_commit(self, author: str, path: str) -> bool:
        """Before a mount is committed; False when it must be acknowledged and not happen. Raises RpcFailure.

        `author` is `kind:id`, and what else is known of who commits.
        """
        lost = False
        if self.faults:
            subject = self._holder(author.partition(":")[2].partition(" ")[0], path)
            for rule in self.faults.draw("commit", author, lambda: subject):
                await self._harm(rule, subject)
                lost = lost or rule.lose
        return not lost

    def on_web(self, function_id: str, path: str) -> list[FaultRule]:
        """The rules for one response of a web function."""
        app = self._apps.app_of(function_id)
        return self.faults.draw("web", path, lambda: Subject(app=app.name or app.description, path=path))

    async def harm_container(self, rule: FaultRule, task_id: str) -> None:
        """Do to one function container what a rule says."""
        await self._harm(rule, Subject(task_id=task_id))

    async def _harm(self, rule: FaultRule, subject: Subject) -> None:
        if rule.delay_s:
            await self._clock.sleep(rule.delay_s)
        record = self._record(subject.sandbox_id, subject.task_id)
        if record is not None and record.sandbox is not None:
            if rule.kill == "exec" and subject.exec_id:
                await record.sandbox.execs.kill(subject.exec_id)
            if rule.kill == "sandbox":
                await record.sandbox.terminate()
            if rule.exhaust == "memory":
                await record.sandbox.exceed(Exceeded("memory", "it used up its memory, as an injected fault"))
            if rule.exhaust == "disk":
                await record.sandbox.exceed(Exceeded("workspace", "it used up its disk, as an injected fault"))
        elif rule.kill == "container" or rule.preempt:
            self._harm_containers(rule, subject)
        if rule.code is not None:
            raise RpcFailure(rule.code, f"injected by a fault rule: {rule.code.name}")

    def _harm_containers(self, rule: FaultRule, subject: Subject) -> None:
        for task in self._pools.tasks():
            app = self._apps.app_of(task.function_id)
            names = (app.name, app.description)
            meant = task.task_id == subject.task_id if subject.task_id else subject.app in names
            if not meant or task.container is None:
                continue
            if rule.preempt:
                self._pools.preempt(task.task_id)
            else:
                task.container.kill()

    def _subject(self, request: Message) -> Subject:
        """Whom an RPC is about, from the words that its request has for it and from who asks."""

        def said(name: str) -> str:
            value = getattr(request, name, "")
            return value if isinstance(value, str) else ""

        task_id = said("task_id") or caller.get().task_id or ""
        record = self._record(said("sandbox_id"), task_id)
        path = said("path") or said("remote_path") or said("filename")
        if record is not None:
            return Subject(record.app_name, record.sandbox_id, record.name, record.task_id, said("exec_id"), path)
        app = said("app_name") or self._app_name(said("app_id"), said("function_id"), task_id)
        return Subject(app=app, task_id=task_id, path=path)

    def _app_name(self, app_id: str, function_id: str, task_id: str) -> str:
        try:
            if not app_id and not function_id and task_id:
                function_id = self._pools.task(task_id).function_id
            app = self._apps.get(app_id) if app_id else self._apps.app_of(function_id)
        except RpcFailure:
            return ""
        return app.name or app.description

    def _holder(self, holder: str, path: str) -> Subject:
        record = self._record(holder, "")
        if record is not None:
            return Subject(record.app_name, record.sandbox_id, record.name, record.task_id, path=path)
        return Subject(app=self._app_name("", "", holder), task_id=holder, path=path)

    def _record(self, sandbox_id: str, task_id: str) -> Record | None:
        try:
            return self._sandboxes.get(sandbox_id) if sandbox_id else self._sandboxes.by_task(task_id)
        except RpcFailure:
            return None


class Hop:
    """A hop between a web function and its client that buffers and slows as rules say."""

    def __init__(self, send: Send, rules: list[FaultRule], clock: Clock) -> None:
        self._send = send
        self._clock = clock
        self._held = b""
        self._hold_bytes = max((rule.buffer_bytes or 0 for rule in rules), default=0)
        self._bytes_per_s = min((rule.bytes_per_s for rule in rules if rule.bytes_per_s), default=None)

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Pass a message of a response on, now or with later ones."""
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        self._held += message.get("body", b"")
        if message.get("more_body") and len(self._held) < self._hold_bytes:
            return
        data, self._held = self._held, b""
        if self._bytes_per_s:
            await self._clock.sleep(len(data) / self._bytes_per_s)
        await self._send({**message, "body": data})
