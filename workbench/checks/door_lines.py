"""Lines about what is refused, and in which words: paths, and errors."""

import json
import re
import uuid

from modal_app.contract.errors import ErrorCode
from workbench.checks.lines import Verdict, fail, ok, skipped
from workbench.checks.subject import Subject

_BAD_PATHS = ("../secret", "/etc/passwd", "a/../../b", "a//b", ".", "a\x00b")
_BAD_IDS = ("../other", "not-a-uuid", "00000000-0000-0000-0000-00000000000G", "")
_LEAKS = re.compile(r"Traceback|File \"|site-packages|/root/|\.py\b.*line \d+|modal_app|Exception\b|<module>")
_FIELDS = {"error", "code", "recoverable", "run_id"}


def paths(subject: Subject) -> Verdict:
    """Paths and ids that could name another project are refused before anything is started."""
    project = {"user_id": subject.other.user_id, "project_id": subject.other.project_id}
    asked = [(repr(path), {**project, "action": "files", "op": "read", "path": path}) for path in _BAD_PATHS]
    asked += [(f"user_id {one!r}", {**project, "user_id": one, "action": "files", "op": "list"}) for one in _BAD_IDS]
    accepted = []
    for what, body in asked:
        answer = subject.caller.ask("POST", "/generate", json=body, headers={"Accept": "application/json"})
        if answer.status_code != 400 or _code(answer.text) != ErrorCode.INVALID_REQUEST:
            accepted.append(f"{what} (HTTP {answer.status_code})")
    if accepted:
        return fail(
            f"not refused as invalid_request: {', '.join(accepted)}",
            "check user_id, project_id and every path at the door: canonical UUIDs, relative paths without '..'",
        )
    return ok(f"{len(asked)} of {len(asked)} hostile paths and ids were refused with 400")


def errors(subject: Subject) -> Verdict:
    """What is refused or fails says a code and a sentence of the endpoint's own, and nothing from inside."""
    ask = subject.caller.ask
    answers = {
        "a broken body": ask("POST", "/generate", content=b"{"),
        "an unknown field": ask("POST", "/generate", json={"nonce": subject.nonce}),
        "an unknown run": ask("GET", f"/generate/{uuid.uuid4()}"),
        "an unknown path": ask("GET", "/nowhere"),
        "no secret": subject.caller.stranger("POST", "/generate", json={}),
    }
    amiss = [f"{what}: {why}" for what, answer in answers.items() if (why := _amiss(subject, answer.text))]
    failed = subject.failing
    if failed.end.get("code") == ErrorCode.PROCESS_FAILED:
        message = str(failed.end.get("message", ""))
        if subject.nonce in message or _LEAKS.search(message):
            amiss.append("a failed job: its error repeats what the job printed")
    if amiss:
        return fail("; ".join(amiss), "answer with a code and a sentence of your own; put details into the log alone")
    if not failed.end:
        return skipped(f"refusals are clean, and the failing job was {failed}")
    return ok(f"{len(answers)} refusals and a failed job: a code and a sentence each, nothing from inside")


def _amiss(subject: Subject, text: str) -> str:
    if subject.caller.endpoint.secret.get_secret_value() in text:
        return "it holds the secret"
    if _LEAKS.search(text):
        return "it leaks text from inside the endpoint"
    if _code(text) not in set(ErrorCode):
        return "it is not a refusal of the contract"
    return ""


def _code(text: str) -> str:
    try:
        body = json.loads(text)
    except ValueError:
        return ""
    return str(body.get("code", "")) if isinstance(body, dict) and set(body) <= _FIELDS else ""
