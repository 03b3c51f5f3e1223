"""The targets of faults: finds the sandbox or container that a call concerns, and kills, preempts or exhausts it."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from functools import partial

from google.protobuf.message import Message

from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.faults.rules import FaultRule, Subject
from workbench.local_cloud.functions.pool import Pools
from workbench.local_cloud.functions.task import Task
from workbench.local_cloud.sandboxes.engine.exec_registry import ExecRegistry
from workbench.local_cloud.sandboxes.engine.execs import Exec
from workbench.local_cloud.sandboxes.engine.spec import SandboxStartFailedError
from workbench.local_cloud.sandboxes.limits.watchdog import Exceeded
from workbench.local_cloud.sandboxes.sandbox_records import Record
from workbench.local_cloud.sandboxes.sandboxes import Sandboxes
from workbench.local_cloud.server.callers import caller

_EXCEEDED = {
    "memory": Exceeded("memory", "it used up its memory, as an injected fault"),
    "disk": Exceeded("workspace", "it used up its disk, as an injected fault"),
}
_KILLED_S = 5.0
_ARGV_CHARS = 4096  # more is not matched


class FaultTargets:
    """Implements `faults.injection.Targets` for the sandboxes and function containers of one cloud."""

    def __init__(self, apps: Apps, pools: Pools, sandboxes: Sandboxes) -> None:
        self._apps = apps
        self._pools = pools
        self._sandboxes = sandboxes

    def of_request(self, request: Message) -> Subject:
        """Return the subject of an RPC, from the ids in its request and from the caller."""

        def field(name: str) -> str:
            value = getattr(request, name, "")
            return value if isinstance(value, str) else ""

        task_id = field("task_id") or caller.get().task_id or ""
        record = self._record(field("sandbox_id"), task_id)
        path = field("path") or field("remote_path") or field("filename")
        if record is not None:
            argv = _argv(request, record)
            return Subject(
                record.app_name,
                record.sandbox_id,
                record.name,
                record.task_id,
                field("exec_id"),
                path,
                argv,
                record.app_id,
            )
        app_id, app = self._app(field("app_id"), field("function_id"), task_id)
        app = field("app_name") or app
        return Subject(app=app, sandbox_name=_name_of_new(request), task_id=task_id, path=path, app_id=app_id)

    def of_holder(self, holder_id: str, path: str) -> Subject:
        """Return the subject of a commit: `holder_id` is the sandbox or container whose mount is committed."""
        record = self._record(holder_id, "")
        if record is not None:
            return Subject(
                record.app_name, record.sandbox_id, record.name, record.task_id, path=path, app_id=record.app_id
            )
        app_id, app = self._app("", "", holder_id)
        return Subject(app=app, task_id=holder_id, path=path, app_id=app_id)

    def of_function(self, function_id: str, path: str) -> Subject:
        """Return the subject of a request for `path` to a web function: its app. Raises CloudError NOT_FOUND."""
        app = self._apps.app_of(function_id)
        return Subject(app=app.name or app.description, path=path, app_id=app.app_id)

    def reaches(self, rule: FaultRule, subject: Subject) -> bool:
        """Whether the subject has what the rule ends; True for a rule that ends nothing."""
        if rule.ends_commit:
            return (self._record(subject.sandbox_id, subject.task_id) is not None) == (rule.kill == "sandbox")
        return not rule.ends_something or bool(self._ends(rule, subject))

    async def harm(self, rule: FaultRule, subject: Subject) -> bool:
        """Kill, preempt or exhaust the subject as the rule says; returns whether it has ended anything."""
        ended = [await end() for end in self._ends(rule, subject)]
        return any(one is not False for one in ended) or rule.ends_commit

    def _ends(self, rule: FaultRule, subject: Subject) -> list[Callable[[], Awaitable[bool | None]]]:
        """What ends the parts of the subject that run and that the rule means; False of one that ended by itself."""
        record = self._record(subject.sandbox_id, subject.task_id)
        found: list[Callable[[], Awaitable[bool | None]]] = []
        if record is not None and (sandbox := record.sandbox) is not None and not sandbox.closed:
            run = sandbox.execs.find(subject.exec_id)
            if rule.kill == "exec" and run is not None and run.poll() is None:
                found.append(partial(_kill, sandbox.execs, run))
            if rule.kill == "sandbox":
                found.append(sandbox.terminate)
            if rule.exhaust is not None and sandbox.exceeded is None:
                found.append(partial(sandbox.exceed, _EXCEEDED[rule.exhaust]))
        if rule.kill == "container" or rule.preempt:
            tasks = self._tasks_of(subject, of_sandbox=record is not None)
            found += [partial(self._end_container, rule, task) for task in tasks if task.container is not None]
        return found

    async def _end_container(self, rule: FaultRule, task: Task) -> None:
        if rule.preempt:
            self._pools.preempt(task.task_id, grace_s=rule.grace_s)
        elif task.container is not None:
            task.container.kill()

    def _tasks_of(self, subject: Subject, *, of_sandbox: bool) -> list[Task]:
        """The containers that a call is about; for one about a sandbox, the container that calls."""
        task_id = subject.task_id
        if of_sandbox:
            who = caller.get(None)
            if who is None or who.kind != "container":
                return []
            task_id = who.task_id or ""
        if task_id:
            return [task for task in self._pools.tasks() if task.task_id == task_id]
        return [task for task in self._pools.tasks() if subject.app and subject.app in self._names(task)]

    def _names(self, task: Task) -> tuple[str | None, str]:
        app = self._apps.app_of(task.function_id)
        return app.name, app.description

    def _app(self, app_id: str, function_id: str, task_id: str) -> tuple[str, str]:
        """The id and the name of the app that these ids lead to; empty when they lead to none."""
        try:
            if not app_id and not function_id and task_id:
                function_id = self._pools.task(task_id).function_id
            app = self._apps.get(app_id) if app_id else self._apps.app_of(function_id)
        except CloudError:
            return "", ""
        return app.app_id, app.name or app.description

    def _record(self, sandbox_id: str, task_id: str) -> Record | None:
        try:
            return self._sandboxes.get(sandbox_id) if sandbox_id else self._sandboxes.by_task(task_id)
        except CloudError:
            return None


async def _kill(execs: ExecRegistry, run: Exec) -> bool:
    """Kill a program; returns whether it has ended by that. Its output may end some time before it does."""
    try:
        async with asyncio.timeout(_KILLED_S):
            await execs.kill(run.exec_id)
            return (await run.wait()).signal == signal.SIGKILL
    except (SandboxStartFailedError, TimeoutError):  # the sandbox ends, and all in it
        return False


def _argv(request: Message, record: Record) -> str:
    """The words of the program that a call is about, joined by spaces and cut; empty when it is about none."""
    words = getattr(request, "command_args", ())
    run = record.sandbox.execs.find(getattr(request, "exec_id", "")) if record.sandbox is not None else None
    return " ".join(words or (run.argv if run is not None else ()))[:_ARGV_CHARS]


def _name_of_new(request: Message) -> str:
    """The name that a sandbox is to have which this call makes; "" for every other call."""
    definition = getattr(request, "definition", None)
    name = getattr(definition, "name", "")
    return name if isinstance(name, str) else ""
