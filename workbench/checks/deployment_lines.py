"""Lines about what is deployed: secrets, volumes, time-outs, cold start, rotation."""

import re
import secrets

import modal
from modal.exception import NotFoundError

from modal_app.contract.caps import MAX_TIMEOUT_S, MAX_WAIT_S
from modal_app.sandboxes.fleet import sub_path
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS
from workbench.checks.caller import Caller
from workbench.checks.lines import Verdict, fail, ok, partly, skipped
from workbench.checks.subject import MARK, SHORT_S, Subject
from workbench.deployment import app_secrets
from workbench.deployment import deploy as deployment
from workbench.deployment.deployments import Deployments
from workbench.deployment.endpoint import Endpoint

_AT_MOST = re.compile(r"at most (-?\d+) on this endpoint")
_UNAUTHORIZED = 401


def secrets_configured(subject: Subject) -> Verdict:
    """Nobody gets in without the secret, the right one does, and the target has what the next container needs."""
    answers = {
        "no secret": subject.caller.stranger("POST", "/generate", json={}).status_code,
        "an empty one": subject.caller.stranger("POST", "/generate", "", json={}).status_code,
        "a wrong one": subject.caller.stranger("POST", "/generate", secrets.token_hex(16), json={}).status_code,
    }
    told = ", ".join(f"{who}: HTTP {status}" for who, status in answers.items())
    if any(status != _UNAUTHORIZED for status in answers.values()):
        return fail(
            f"the door is open: {told}",
            "store a secret (`workbench deploy` does) and let no hop in front add it for callers that show none",
        )
    right = subject.caller.ask("POST", "/generate", json={}).status_code
    if right == _UNAUTHORIZED:
        return fail("the right secret gets HTTP 401", "run `workbench deploy`, or let the hop in front pass it on")
    if not subject.owned:
        unknown = "an endpoint given by URL does not tell which secrets are stored: check it as an app of its target"
        return partly(f"{told}; the right one passes", unknown)
    missing = [one.name for one in Deployments(subject.target, subject.app_name).stored_secrets() if not one.present]
    if missing:
        return fail(f"missing: {', '.join(missing)}; the next container cannot start", "run `workbench deploy`")
    return ok(f"{told}; the right one passes; all secrets are stored")


def volumes(subject: Subject) -> Verdict:
    """The volumes exist, and what a job writes is in the project volume once it is done."""
    names = [f"{subject.app_name}-{what}" for what in ("projects", "global", "runs")]
    if subject.owned:
        missing = [name for name in names if not _there(name)]
        if missing:
            return fail(f"missing: {', '.join(missing)}", "run `workbench deploy`, which creates them")
    if subject.streamed.end.get("type") != "done":
        return skipped(f"the job that writes a mark ended as {subject.streamed}")
    found = _committed(subject)
    if found != subject.nonce:
        return fail(
            f"a job is done, and its file is not in the project volume: {'it is absent' if found is None else 'other'}",
            "mount the project's part of the volume at /workspace, and commit before `done`",
        )
    created = f"{', '.join(names)} exist; " if subject.owned else ""
    return ok(f"{created}a job's file was in the volume when it was done")


def _there(name: str) -> bool:
    try:
        modal.Volume.from_name(name).hydrate()
    except NotFoundError:
        return False
    return True


def _committed(subject: Subject) -> str | None:
    project = subject.project
    if not subject.owned:
        read = subject.caller.run(project, {"action": "files", "op": "read", "path": MARK})
        result = read.end.get("result")
        return str(result["content"]) if isinstance(result, dict) and "content" in result else None
    path = f"{sub_path(project.user_id, project.project_id)}/{MARK}"
    try:
        return b"".join(modal.Volume.from_name(f"{subject.app_name}-projects").read_file(path)).decode()
    except (*PLATFORM_ERRORS, FileNotFoundError):
        return None


def timeouts(subject: Subject) -> Verdict:
    """Upstream > function > sandbox > process, as an endpoint shows it: by its limits, and by a job that is late."""
    fix = "set WORKBENCH_TIMEOUT_PROCESS_S < _SANDBOX_S < _FUNCTION_S < _UPSTREAM_S, and deploy again"
    if not subject.streamed.end:
        return skipped(f"no job has an end here: {subject.streamed}")
    process, margin = _limit(subject, "timeout_s", MAX_TIMEOUT_S), _limit(subject, "wait_s", MAX_WAIT_S)
    if process is None:
        return fail(f"the endpoint takes a job of {MAX_TIMEOUT_S} s: no function lives so long", fix)
    if margin is None:
        margin = MAX_WAIT_S  # at least
    if margin <= 0:
        return fail(f"function - sandbox = {margin} s: a run may outlive the function that carries it", fix)
    late = subject.late
    if late.end.get("code") != "process_timeout":
        return fail(f"a job that misses its {SHORT_S} s ended as {late}, and not as process_timeout", fix)
    least = process + margin
    measured = f"process {process} s, function {margin} s longer than the sandbox"
    if subject.upstream_s is not None and subject.upstream_s <= least:
        return fail(f"{measured}; upstream waits {subject.upstream_s:g} s, and a response may take over {least} s", fix)
    measured += "; a late job ended as process_timeout"
    if subject.upstream_s is None:
        return partly(
            f"{measured}; for how long the caller in front waits is not known",
            f"say it with --upstream-s: it must be more than {least} s, the longest that a response may take",
        )
    return ok(f"{measured}; upstream waits {subject.upstream_s:g} s, longer than the {least} s of a response")


def _limit(subject: Subject, name: str, most: int) -> int | None:
    """The endpoint's limit, as it refuses a job that asks for the most that the contract has; None: it took the job.

    The job does nothing, so that one which is taken costs little.
    """
    refused = subject.caller.run(subject.other, {"action": "python", "code": "0", name: most})
    found = _AT_MOST.search(refused.body)
    return int(found.group(1)) if found else None


def cold_start(subject: Subject) -> Verdict:
    """From the request of a new project to the first byte of its job's output."""
    output = subject.streamed.output
    if not output:
        return skipped(f"the job had no output: it ended as {subject.streamed}")
    timings = subject.streamed.end.get("timings")
    timings = timings if isinstance(timings, dict) else {}
    first_byte_s = output[0][1].get("elapsed_ms", 1000 * output[0][0]) / 1000  # by the endpoint: hops do not count
    waited = first_byte_s + timings.get("container_start_ms", 0) / 1000
    parts = ", ".join(f"{name.removesuffix('_ms')} {timings[name]} ms" for name in sorted(timings) if name in _PARTS)
    container = "" if "container_start_ms" in timings else "; the endpoint's container was warm"
    measured = f"{waited:.2f} s to the first output, and {subject.cold_start_s:g} s are allowed ({parts}{container})"
    if waited > subject.cold_start_s:
        fix = "keep a container (WORKBENCH_MIN_CONTAINERS), `prewarm` projects, or allow more (--cold-start-s)"
        return fail(measured, fix)
    return ok(measured)


_PARTS = ("container_start_ms", "queue_ms", "sandbox_create_ms", "sandbox_ready_ms", "first_byte_ms")


def rotation(subject: Subject, *, wanted: bool) -> Verdict:
    """A rotated secret leaves the one before valid, once. It is tried on an app of the check's own."""
    if not subject.owned:
        return skipped("an endpoint given by URL cannot be deployed anew")
    if not wanted:
        return skipped("it deploys an app of its own three times: ask for it with --rotation")
    target, name = subject.target, f"{subject.app_name[:40]}-check-{secrets.token_hex(3)}"
    try:
        first = deployment.deploy(target, app_name=name, with_claude=False)
        second = deployment.deploy(target, app_name=name, with_claude=False, rotate_secret=True)
        between = [_lets_in(one.model_copy(update={"url": second.url})) for one in (first, second)]
        third = deployment.deploy(target, app_name=name, with_claude=False, rotate_secret=True)
        after = [_lets_in(one.model_copy(update={"url": third.url})) for one in (first, second, third)]
    finally:
        remove(subject, name)
    if between != [True, True] or after != [False, True, True]:
        seen = f"after one rotation: former {between[0]}, new {between[1]}; after two: {after}"
        return fail(seen, "accept WORKBENCH_SECRET_PREVIOUS beside WORKBENCH_SECRET, and nothing older")
    return ok("after a rotation both secrets are accepted; after the next, the oldest is not")


def _lets_in(endpoint: Endpoint) -> bool:
    with Caller(endpoint) as caller:
        return caller.ask("POST", "/generate", json={}).status_code != _UNAUTHORIZED


def remove(subject: Subject, name: str) -> None:
    """Take back an app of the check's own, with all that was made for it."""
    deployments = Deployments(subject.target, name)
    if deployments.look().state == "deployed":
        deployments.stop()
    for secret in (name, f"{name}-model"):
        modal.Secret.objects.delete(secret, allow_missing=True)
    for what in ("projects", "global", "runs"):
        modal.Volume.objects.delete(f"{name}-{what}", allow_missing=True)
    app_secrets.forget(subject.target, name)
