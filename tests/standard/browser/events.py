"""Runs for the browser's tests, made of events: what every channel says, hostile output, very many lines.

Imported by notebooks' cells, which run with the project on their path.
"""

from modal_app.contract.events import (
    Commit,
    DoneEvent,
    ErrorEvent,
    Event,
    Phase,
    SandboxFacts,
    StatusEvent,
    StreamEvent,
    Timings,
    Usage,
)

RUN_ID = "0b1f7a1e-3c8e-7d52-8a53-5a2f5d1f9a10"
HOSTILE = (
    '<img src=x onerror="window.stolen=1"><script>window.stolen=1</script>&amp;\x1b[2J\x1b]0;title\x07\u202egnp.exe'
)
_STARTS = ((Phase.ACCEPTED, 0), (Phase.QUEUED, 4), (Phase.SANDBOX_STARTING, 10), (Phase.SANDBOX_READY, 480))


class Script:
    """Events one after the other, each with the next number."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        for phase, at in (*_STARTS, (Phase.RUNNING, 520)):
            self.status(phase, at)

    def _stamp(self, at: int) -> dict[str, object]:
        return {"run_id": RUN_ID, "seq": len(self.events) + 1, "at_ms": 1_700_000_000_000 + at, "elapsed_ms": at}

    def status(self, phase: Phase, at: int) -> None:
        cold = True if phase is Phase.ACCEPTED else None
        self.events.append(
            StatusEvent(**self._stamp(at), phase=phase, message=f"{phase.replace('_', ' ')} now", cold_start=cold)
        )

    def out(self, channel: str, text: str, at: int, **more: object) -> None:
        self.events.append(StreamEvent(**self._stamp(at), channel=channel, text=text, **more))

    def done(self, at: int) -> list[Event]:
        self.status(Phase.COMMITTING, at - 200)
        self.status(Phase.TERMINATING, at - 90)
        self.events.append(
            DoneEvent(
                **self._stamp(at),
                result={"text": "The page is there."},
                usage=Usage(input_tokens=2533, output_tokens=412, cost_usd=0.0213, turns=2),
                commit=Commit(committed=True, elapsed_ms=80, changed=1, compared=1),
                sandbox=SandboxFacts(id="sb-1", uid=30001, terminated=True),
                timings=Timings(
                    container_start_ms=310,
                    queue_ms=2,
                    sandbox_create_ms=420,
                    sandbox_ready_ms=50,
                    first_byte_ms=120,
                    run_ms=at - 900,
                    commit_ms=80,
                    terminate_ms=70,
                ),
            )
        )
        return self.events

    def failed(self, at: int) -> list[Event]:
        self.events.append(
            ErrorEvent(
                **self._stamp(at), code="process_failed", message="the program failed", recoverable=False, exit_code=3
            )
        )
        return self.events


def claude_run() -> list[Event]:
    """A Claude job as it is recorded: words, a tool, its answer, a broken message, a refusal."""
    script = Script()
    script.out(
        "claude", "", 700, message={"type": "system", "subtype": "init", "session_id": "58f02da3", "model": "m-5"}
    )
    for index, piece in enumerate(("I will write ", "a small web page", " with a clock.")):
        script.out("claude", piece, 760 + 40 * index, message_id="m1")
    script.out("claude", "", 900, message=_said({"type": "text", "text": "…"}))
    page = "<!doctype html>\n<title>Clock</title>\n<h1 id=clock></h1>\n<script>setInterval(tick, 1000)</script>\n"
    tool = {"type": "tool_use", "id": "t1", "name": "Write", "input": {"file_path": "index.html", "content": page}}
    script.out("claude", "", 980, message=_said(tool))
    answer = {"type": "tool_result", "tool_use_id": "t1", "content": f"File created: index.html\n{page}"}
    script.out("claude", "", 1100, message=_said(answer))
    script.out("stderr", "warning: the model was slow to answer\n", 1150)
    script.out("claude", "It tells the tim", 1300, message_id="m2")
    script.out("claude", "It tells the time ", 1600, message_id="m3", replaces="m2")
    script.out("claude", "in the browser's own zone.", 1640, message_id="m3", replaces="m2")
    script.out("claude", "", 1650, message=_said({"type": "text", "text": "…"}))
    script.out(
        "claude",
        "",
        1700,
        message=_said({"type": "tool_use", "id": "t2", "name": "Bash", "input": {"command": "curl x"}}),
    )
    refused = {
        "type": "tool_result",
        "tool_use_id": "t2",
        "is_error": True,
        "content": "This command requires approval",
    }
    script.out("claude", "", 1750, message=_said(refused))
    script.out("claude", "The page is there.", 1800, message_id="m4")
    script.out("claude", "", 1810, message=_said({"type": "text", "text": "…"}))
    return script.done(2400)


def _said(block: dict[str, object]) -> dict[str, object]:
    return {"type": "assistant", "message": {"content": [block]}}


def hostile_run() -> list[Event]:
    """Output that would like to be part of the page."""
    script = Script()
    script.out("stdout", f"{HOSTILE}\n", 600)
    script.out("stderr", f"{HOSTILE}\n", 610)
    tool = {"type": "tool_use", "name": HOSTILE, "input": {"command": HOSTILE}}
    script.out("claude", "", 620, message=_said(tool))
    script.events.append(
        ErrorEvent(**script._stamp(700), code="process_failed", message=HOSTILE, recoverable=False, exit_code=1)
    )
    return script.events


def long_run(lines: int, length_ms: int) -> list[Event]:
    """Very many lines, evenly spread over a time."""
    script = Script()
    for index in range(lines - len(script.events) - 3):
        script.out("stdout", f"line {index}\n", 520 + index * (length_ms - 1000) // lines)
    return script.done(length_ms)


def very_long_run(lines: int, together: int = 100) -> list[Event]:
    """Very many lines, several in each event: `lines` rows in all, an exception far back and nothing like it later."""
    script = Script()
    count = lines - len(script.events) - 3 - len(TRACEBACK)
    script.out("stdout", "the needle is here\n", 520)
    script.out("stderr", "".join(f"{line}\n" for line in TRACEBACK), 521)
    for start in range(1, count, together):
        numbers = range(start, min(start + together, count))
        text = "".join(f"line {number} of {count}\n" for number in numbers)
        script.out("stdout", text, 522 + start * 100 // lines)
    return script.done(2_000)


TRACEBACK = ("Traceback (most recent call last):", '  File "job.py", line 3, in <module>', "ValueError: far back")
