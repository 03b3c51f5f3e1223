"""The targets of faults: finds the sandbox or container that a call concerns, and kills, preempts or exhausts it."""

from google.protobuf.message import Message

from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.faults.rules import FaultRule, Subject
from workbench.local_cloud.functions.pool import Pools
from workbench.local_cloud.sandboxes.limits.watchdog import Exceeded
from workbench.local_cloud.sandboxes.sandbox_records import Record
from workbench.local_cloud.sandboxes.sandboxes import Sandboxes
from workbench.local_cloud.server.callers import caller

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
                record.app_name, record.sandbox_id, record.name, record.task_id, field("exec_id"), path, argv
            )
        app = field("app_name") or self._app_name(field("app_id"), field("function_id"), task_id)
        return Subject(app=app, sandbox_name=_name_of_new(request), task_id=task_id, path=path)

    def of_holder(self, holder_id: str, path: str) -> Subject:
        """Return the subject of a commit: `holder_id` is the sandbox or container whose mount is committed."""
        record = self._record(holder_id, "")
        if record is not None:
            return Subject(record.app_name, record.sandbox_id, record.name, record.task_id, path=path)
        return Subject(app=self._app_name("", "", holder_id), task_id=holder_id, path=path)

    def of_function(self, function_id: str, path: str) -> Subject:
        """Return the subject of a request for `path` to a web function: its app. Raises CloudError NOT_FOUND."""
        app = self._apps.app_of(function_id)
        return Subject(app=app.name or app.description, path=path)

    async def harm(self, rule: FaultRule, subject: Subject) -> None:
        """Kill, preempt or exhaust the subject as the rule says; does nothing where the subject has no such part."""
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

    def _harm_containers(self, rule: FaultRule, subject: Subject) -> None:
        for task in self._pools.tasks():
            app = self._apps.app_of(task.function_id)
            names = (app.name, app.description)
            is_subject = task.task_id == subject.task_id if subject.task_id else subject.app in names
            if not is_subject or task.container is None:
                continue
            if rule.preempt:
                self._pools.preempt(task.task_id, grace_s=rule.grace_s)
            else:
                task.container.kill()

    def _app_name(self, app_id: str, function_id: str, task_id: str) -> str:
        try:
            if not app_id and not function_id and task_id:
                function_id = self._pools.task(task_id).function_id
            app = self._apps.get(app_id) if app_id else self._apps.app_of(function_id)
        except CloudError:
            return ""
        return app.name or app.description

    def _record(self, sandbox_id: str, task_id: str) -> Record | None:
        try:
            return self._sandboxes.get(sandbox_id) if sandbox_id else self._sandboxes.by_task(task_id)
        except CloudError:
            return None


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
