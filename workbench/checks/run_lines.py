"""Lines about runs: that one works, its sandbox's end, repeated requests, resuming, tenants."""

import modal

from modal_app.contract.errors import ErrorCode
from modal_app.contract.headers import KEY_HEADER
from modal_app.sandboxes.fleet import RUN_TAG
from workbench.checks.caller import Reading
from workbench.checks.lines import Verdict, fail, ok, skipped
from workbench.checks.subject import STREAM_S, Subject


def works(subject: Subject) -> Verdict:
    """A plain job ends with `done`."""
    seen = subject.streamed
    if seen.end.get("type") == "done":
        return ok(f"a job was done {seen.events[-1][0]:.2f} s after its request")
    return fail(f"a plain job ended as {seen}", "see `modal app logs`, or the app's log on Modal, for the cause")


def termination(subject: Subject) -> Verdict:
    """A sandbox is gone however its run ends: done, failed, late, cancelled."""
    paths = {
        "done": subject.streamed,
        "failed": subject.failing,
        "late": subject.late,
        "cancelled": subject.cancelled,
    }
    unknown = [f"{path} ({seen})" for path, seen in paths.items() if not _sandbox(seen)]
    if _sandbox(subject.cancelled) and subject.cancelled.end.get("code") != ErrorCode.CANCELLED:
        unknown.append(f"cancelled ({subject.cancelled}, since its output came too late to cancel it)")
    kept = [path for path, seen in paths.items() if _sandbox(seen) and not _sandbox(seen).get("terminated")]
    alive = [path for path, seen in paths.items() if subject.owned and _alive(subject, seen.run_id)]
    if kept or alive:
        return fail(
            f"not terminated when the run had ended: {', '.join(sorted({*kept, *alive}))}",
            "terminate the sandbox in the `finally` of the run's owner, and see it end before the terminal event",
        )
    if unknown:
        return skipped(f"not shown for these runs: {', '.join(unknown)}")
    if not subject.owned:
        return skipped(f"only the endpoint's own word: it says terminated for {', '.join(paths)}")
    return ok(f"none is left after {', '.join(paths)}, by the platform's list")


def _sandbox(seen: Reading) -> dict[str, object]:
    found = seen.end.get("sandbox")
    return found if isinstance(found, dict) else {}


def _alive(subject: Subject, run_id: str) -> bool:
    app_id = modal.App.lookup(subject.app_name).app_id
    return bool(run_id) and bool(list(modal.Sandbox.list(app_id=app_id, tags={RUN_TAG: run_id})))


def idempotency(subject: Subject) -> Verdict:
    """The same key finds the same run; the same key with another body is a conflict."""
    first = subject.streamed
    if not first.end or not first.run_id:
        return skipped(f"there is no ended run to repeat: {first}")
    again = subject.caller.job(subject.project, subject.code, timeout_s=STREAM_S, key=subject.key)
    fix = f"keep the run's id under the {KEY_HEADER}, and let every hop pass that header on"
    if again.run_id != first.run_id:
        return fail(f"the same {KEY_HEADER} and body started a second run ({again})", fix)
    other = subject.caller.job(subject.project, f"{subject.code}\n", timeout_s=STREAM_S, key=subject.key)
    if other.status != 409 or ErrorCode.IDEMPOTENCY_CONFLICT not in other.body:
        return fail(f"the same {KEY_HEADER} with another body is no conflict: {other}", fix)
    return ok("the same key joined the run that there was; with another body it was refused as a conflict")


def resuming(subject: Subject) -> Verdict:
    """A stream continues behind Last-Event-ID, and behind its last event there is nothing: 204."""
    first = subject.streamed
    if not first.end or not first.run_id:
        return skipped(f"there is no ended run to resume: {first}")
    seqs = [event.get("seq") for _, event in first.events]
    fix = "serve GET /generate/{run_id} from the stored events, and let every hop pass Last-Event-ID and 204 on"
    path, middle = f"/generate/{first.run_id}", seqs[len(seqs) // 2]
    rest = subject.caller.read("GET", path, headers={"Last-Event-ID": str(middle)})
    came = [event.get("seq") for _, event in rest.events]
    if came != seqs[len(seqs) // 2 + 1 :]:
        return fail(f"behind event {middle} came {came[:3]}… of {len(came)} events ({rest})", fix)
    end = subject.caller.read("GET", path, headers={"Last-Event-ID": str(seqs[-1])})
    if end.status != 204:
        return fail(f"behind the last event came HTTP {end.status}, and not 204: browsers reconnect for ever", fix)
    return ok(f"behind event {middle} came the other {len(came)} and none twice; behind the last, 204")


def tenants(subject: Subject) -> Verdict:
    """Another user finds neither the first one's file nor its run."""
    first, second = subject.streamed, subject.neighbour
    if first.end.get("type") != "done" or second.end.get("type") != "done":
        return skipped(f"both tenants' jobs must be done: {first}, {second}")
    found = []
    if subject.nonce in second.text:
        found.append("another tenant's job reads the first one's file")
    path, other = f"/generate/{first.run_id}", {"user_id": subject.other.user_id}
    answer = subject.caller.ask("GET", path, params=other, headers={"Accept": "application/json"})
    if answer.status_code != 404:
        found.append(f"another user's run is shown (HTTP {answer.status_code})")
    if found:
        fix = "mount /projects/{user_id}/{project_id} alone, and compare a run's user with the one who asks"
        return fail("; ".join(found), fix)
    return ok("another tenant's job did not find the file, and the run is 404 for another user")
