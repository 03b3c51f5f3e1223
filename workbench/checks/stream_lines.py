"""The line about streaming end to end: what the job, the endpoint and the caller each saw of the same lines."""

import re

from modal_app.contract import sse
from workbench.checks.caller import Caller, Reading
from workbench.checks.lines import Verdict, fail, ok, skipped
from workbench.checks.subject import STREAM_S, Subject

_STAMP = re.compile(r"^\d+ (\d+\.\d+)$", re.MULTILINE)
_KEPT = 0.5  # of the spread that the job saw must be left


def streaming(subject: Subject) -> Verdict:
    """Events arrive as they are printed, plain, and with the headers that keep hops from holding them back."""
    seen = subject.streamed
    if not seen.output:
        return skipped(f"there was no output: {seen}")
    found = _amiss(seen)
    if not found:
        return ok(_spreads(seen))
    where = "a hop between the endpoint and here, or the endpoint itself"
    if subject.direct.url != subject.caller.endpoint.url:
        with Caller(subject.direct) as direct:
            beside = direct.job(subject.fresh(), subject.code, timeout_s=STREAM_S)
            subject.caller.runs += direct.runs
        own = set(_amiss(beside)) >= set(found)
        where = "the endpoint itself" if own else f"the hop at {subject.caller.endpoint.url}"
    if "the job" in " ".join(found):
        where = "the job's own output, before the endpoint has it"
    return fail(
        f"{'; '.join(found)}; {_spreads(seen)}; where: {where}",
        "turn off buffering and compression for text/event-stream in that hop (nginx: proxy_buffering off, gzip off), "
        "pass Cache-Control and X-Accel-Buffering on, and run programs unbuffered (PYTHONUNBUFFERED=1)",
    )


def _amiss(seen: Reading) -> list[str]:
    found = []
    job, endpoint, here = _measure(seen)
    if endpoint < job * _KEPT:
        found.append("buffers: the job's lines reach the endpoint all at once")
    elif here < endpoint * _KEPT:
        found.append("buffers: what the endpoint sends one by one arrives all at once")
    if (encoding := seen.headers.get("content-encoding", "identity")) != "identity":
        found.append(f"compresses: Content-Encoding is {encoding[:20]}")
    for name, wanted in sse.HEADERS.items():
        given = seen.headers.get(name, "")
        lacking = [part for part in re.split("[,;] *", wanted) if part not in given.lower()]
        if lacking:
            found.append(f"strips: {name} lacks {', '.join(lacking)}")
    if not seen.comments:
        found.append("strips: no heartbeat came")
    return found


def _measure(seen: Reading) -> tuple[float, float, float]:
    """Seconds from the first line to the last: by the job's clock, by the endpoint's, and by the caller's."""
    stamps = [float(one) for one in _STAMP.findall(seen.text)] or [0.0]
    sent = [float(event.get("elapsed_ms", 0)) / 1000 for _, event in seen.output]
    arrived = [at for at, _ in seen.output]
    return stamps[-1] - stamps[0], sent[-1] - sent[0], arrived[-1] - arrived[0]


def _spreads(seen: Reading) -> str:
    job, endpoint, here = _measure(seen)
    return f"first to last line: {job:.2f} s in the job, {endpoint:.2f} s at the endpoint, {here:.2f} s here"
