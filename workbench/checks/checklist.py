"""The run of the checklist: its lines in order, what it may cost, and the cleaning up behind it."""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import httpx
import modal

from modal_app.sandboxes.fleet import sub_path
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS
from workbench.checks import deployment_lines, door_lines, run_lines, stream_lines
from workbench.checks.caller import Caller
from workbench.checks.lines import COLD_START_S, Line, Report, Verdict, fail
from workbench.checks.subject import JOBS, MARK, SANDBOX_SECONDS, Subject
from workbench.deployment.endpoint import Endpoint, check_url
from workbench.deployment.targets import Target
from workbench.errors import WorkbenchError

COST = f"{JOBS} jobs in sandboxes, {SANDBOX_SECONDS} seconds of them at most, in new projects that are removed again"


class CheckImpossibleError(WorkbenchError):
    """The endpoint does not answer, so that nothing can be measured."""


def check(
    target: Target,
    app_name: str,
    direct: Endpoint,
    *,
    through: str = "",
    cold_start_s: float = COLD_START_S,
    upstream_s: float | None = None,
    rotation: bool = False,
    on_line: Callable[[Line], None] = lambda line: None,
) -> Report:
    """Measure every line. `through` is another address of the endpoint: that of the proxy which its callers use.

    Raises CheckImpossibleError.
    """
    began = time.monotonic()
    asked = direct.model_copy(update={"url": check_url(through)}) if through else direct
    with Caller(asked) as caller:
        _answers(caller)
        subject = Subject(target, app_name, caller, direct, cold_start_s, upstream_s)
        lines = []
        try:
            for name, look in _lines(rotation=rotation):
                line = Line(name=name, **_verdict(look, subject).model_dump())
                lines.append(line)
                on_line(line)
        finally:
            _clean(subject)
    took_s = round(time.monotonic() - began, 3)
    return Report(target=target.kind, url=asked.url, lines=tuple(lines), runs=caller.runs, took_s=took_s)


def _lines(*, rotation: bool) -> tuple[tuple[str, Callable[[Subject], Verdict]], ...]:
    return (
        ("secrets configured", deployment_lines.secrets_configured),
        ("paths validated", door_lines.paths),
        ("a job runs", run_lines.works),
        ("volumes created and mounted", deployment_lines.volumes),
        ("streaming end to end", stream_lines.streaming),
        ("cold start within budget", deployment_lines.cold_start),
        ("idempotency", run_lines.idempotency),
        ("resume and its end", run_lines.resuming),
        ("tenants apart", run_lines.tenants),
        ("time-outs aligned", deployment_lines.timeouts),
        ("errors sanitised", door_lines.errors),
        ("sandbox terminated on every path", run_lines.termination),
        ("secret rotation", partial(deployment_lines.rotation, wanted=rotation)),
    )


def _answers(caller: Caller) -> None:
    try:
        caller.ask("GET", "/health")
    except httpx.HTTPError as error:
        message = f"{caller.endpoint.url} does not answer ({type(error).__name__}): is it deployed there?"
        raise CheckImpossibleError(message) from None


def _verdict(look: Callable[[Subject], Verdict], subject: Subject) -> Verdict:
    try:
        return look(subject)
    except (httpx.HTTPError, WorkbenchError, *PLATFORM_ERRORS) as error:
        why = str(error) if isinstance(error, WorkbenchError) else type(error).__name__
        return fail(f"it could not be measured: {why}", "see that the endpoint and its target answer, and check again")


def _clean(subject: Subject) -> None:
    """Remove what the jobs have left in volumes; and cancel those that have not ended."""
    subject.caller.cancel()
    if not subject.owned:
        with suppress(httpx.HTTPError):
            subject.caller.run(subject.project, {"action": "files", "op": "delete", "path": MARK})
        return
    for project in (subject.project, subject.other, *subject.made):
        with suppress(*PLATFORM_ERRORS, FileNotFoundError):
            path = sub_path(project.user_id, project.project_id)
            modal.Volume.from_name(f"{subject.app_name}-projects").remove_file(path, recursive=True)


NAMES = tuple(name for name, _ in _lines(rotation=False))
"""The names of all lines, in their order."""
