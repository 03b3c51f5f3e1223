"""Failure modes of the model, brought about: of the way to it, and of what it and its CLI mean by what they say.

The scripted model gives each side answers of its own, and says which of them were told and which faults struck.
"""

from collections.abc import Mapping
from typing import Any

from workbench.deployment.model_answers import Answered
from workbench.failures.experiments.basics import (
    Experiment,
    Judge,
    Outcome,
    Turn,
    file_is,
    first,
    kept,
    lied,
    running,
    same,
    told,
)
from workbench.failures.sides import PATIENCE_S, Reading, Side
from workbench.runs.project import Project


def _asked(
    *turns: Turn,
    harm: Judge,
    broken: tuple[Judge, ...],
    fault: str = "",
    hardened: Mapping[str, Any] | None = None,
    patience_s: float = PATIENCE_S,
) -> Experiment:
    """Ask the CLI once, with these answers of the model. `hardened` are fields of the hardened endpoint's request.

    What must strike is the `fault` of this kind or, without one, the model's first answer, told to its end. A client
    whose patience was over before that asks once more, with more of it: the machine was slow.
    """
    what = f"the model's fault {fault}" if fault else "the model's first answer"

    def act(side: Side, project: Project) -> Outcome:
        body = hardened if side.name == "hardened" else None
        with side.model.answers(*turns) as answers:
            for patience in (patience_s, PATIENCE_S):
                seen = side.ask(project, answers.prompt("hello"), body=body, reading=Reading(patience))
                moments = _moments(answers.asked, fault)
                if moments or seen.ended != "silent":
                    break
            copies = len(answers.asked)
        return Outcome(
            (seen,), {"asked": copies, "file": side.read(project, "note.txt")}, {what: len(moments)}, {what: moments}
        )

    return Experiment(act, harm, first(*broken), turns=turns)


_SILENT_S = 6.0  # the hardened endpoint says something every three seconds, whatever its job does
_WORDS = "one two three four"


def _moments(asked: tuple[Answered, ...], fault: str) -> tuple[float, ...]:
    if fault:
        return tuple(one.fault_at_s for one in asked if one.fault == fault and one.fault_at_s is not None)
    return tuple(one.at_s for one in asked if one.turn == 0 and one.told)


def _never_ending(kind: str, *codes: str, also: Judge = lambda seen: None) -> Experiment:
    """An answer that never comes to its end, at every attempt."""
    turn: Turn = {"text": _WORDS, "pace_ms": 60, "fault": {"kind": kind, "after_deltas": 2}}
    return _asked(turn, harm=_no_end, broken=(told(*codes), also), fault=kind, patience_s=_SILENT_S)


def _named(status: int) -> Judge:
    """Each repetition must have been told, with the status and its wait."""

    def judge(seen: Outcome) -> str | None:
        retries = [one.text for one in seen.end.events if one.what == "retry"]
        right = [one for one in retries if one.startswith(f"HTTP {status}, in ")]
        return None if right and len(right) == len(retries) else f"of its repetitions it said {retries}"

    return judge


def _at_most(copies: int) -> Judge:
    """So many copies of one request may have been sent."""
    return lambda seen: (
        None if int(str(seen.facts["asked"])) <= copies else f"the model was asked {seen.facts['asked']} times"
    )


def _resumable(seen: Outcome) -> str | None:
    return None if seen.end.session else "it named no session to resume"


def _as_answer(words: str) -> Judge:
    """It said that it is done, with words of an error for the model's answer; or it said nothing at all."""

    def judge(seen: Outcome) -> str | None:
        if seen.end.ended == "done" and words.lower() in seen.end.result.lower():
            return f"it {seen.end}, and its result is {seen.end.result[:100]!r}"
        return f"its stream {seen.end}" if seen.end.ended in ("cut", "silent") else None

    return judge


def _no_end(seen: Outcome) -> str | None:
    """It fell silent, or called a part of the answer the whole, when its sandbox ended before its reader gave up."""
    if seen.end.ended == "done" and seen.end.text.strip() != _WORDS:
        return f"it {seen.end}, after {seen.end.text!r}"
    return _silent(seen)


def _silent(seen: Outcome) -> str | None:
    """Nothing came any more, not even an end."""
    if seen.end.ended in ("silent", "cut"):
        return f"it fell silent after {seen.end.text!r} and told no end in {seen.end.took_s:.0f} s"
    return None


def _twice(seen: Outcome) -> str | None:
    return f"what its reader saw is {seen.end.text!r}" if seen.end.text != _WORDS else None


_TOO_LONG: Turn = {"fault": {"status": 400, "message": "prompt is too long: 214073 tokens > 200000 maximum"}}


def _full(side: Side, project: Project) -> Outcome:
    """A session that was made, and that no longer fits when it is resumed: twice, since it stays so."""
    with side.model.answers("remembered") as answers:
        made = side.ask(project, answers.prompt("remember"))
    kept(side, project)
    with side.model.answers(_TOO_LONG) as answers:
        seen = tuple(side.ask(project, answers.prompt("go on"), resume=made.session) for _ in range(2))
        asked = answers.asked
    what = "the model refused the session"
    moments = _moments(asked, "status")
    return Outcome((made, *seen), {"asked": len(asked)}, {what: len(moments)}, {what: moments})


def _each(judge: Judge, number: int) -> Judge:
    """The judgement holds of each of the last observations."""

    def all_of_them(seen: Outcome) -> str | None:
        found = [judge(Outcome((one,), seen.facts)) for one in seen.observations[-number:]]
        return next((said for said in found if said is not None), None)

    return all_of_them


def _all_of(judge: Judge, number: int) -> Judge:
    """Harm that each of the last observations shows."""

    def all_of_them(seen: Outcome) -> str | None:
        found = [judge(Outcome((one,), seen.facts)) for one in seen.observations[-number:]]
        return f"{number} times: {found[-1]}" if all(found) else None

    return all_of_them


def _status(status: int, code: str, **more: Any) -> Experiment:
    """The service answers every request with this status."""
    turn = {"fault": {"status": status, "message": f"as the lab says ({status})", **more}}
    broken = (told(code), _named(status), _at_most(3), _resumable)
    return _asked(turn, harm=_as_answer(str(status)), broken=broken, fault="status")


_WRITE = {"name": "Write", "input": {"file_path": "note.txt", "content": "kept"}}

MODEL_WIRE: dict[str, Experiment] = {
    "model-stream-truncated": _asked(
        {"text": _WORDS, "pace_ms": 60, "first": [{"kind": "eof_mid_stream", "after_deltas": 2}]},
        fault="eof_mid_stream",
        harm=_twice,
        broken=(same(_WORDS),),
    ),
    "model-429": _status(429, "model_rate_limited", retry_after_s=1),
    "model-529": _status(529, "model_overloaded"),
    "model-500": _status(500, "model_error"),
    "model-hangs-before-headers": _never_ending("hang_before_headers", "model_error", also=_at_most(3)),
    "model-hangs-mid-stream": _never_ending("hang_mid_stream", "model_error"),
}
MODEL_MEANING: dict[str, Experiment] = {
    "tool-json-invalid": _asked(
        {"tools": [{"name": "Write", "raw_input": '{"file_path": "note.txt", "conte'}]},
        "It is written.",
        harm=lied("a call was broken: the file that the model speaks of is not there"),
        broken=(told("model_invalid_output"), file_is(None)),
    ),
    "model-refusal": _asked(
        *[{"text": "I", "stop": "refusal"}] * 2, harm=lied("the model refused"), broken=(told("model_refused"),)
    ),
    "permission-denied": _asked(
        {"tools": [{"name": "Write", "input": {"file_path": "note.txt", "content": "kept"}}]},
        "I could not write it.",
        hardened={"permission_mode": "dontAsk"},
        harm=lied("nothing was written"),
        broken=(told("permission_denied"), file_is(None)),
    ),
    "stall": _never_ending("pings_forever", "model_error", "stalled"),
    "error-dressed-as-success": _asked(
        {"fault": {"status": 400, "message": "as the lab says"}},
        fault="status",
        harm=_as_answer("API Error"),
        broken=(told("model_error"),),
    ),
    "stdin-left-open": Experiment(
        act=running("import sys\nprint(len(sys.stdin.read()))", reading=Reading(_SILENT_S), timeout_s=30),
        harm=_silent,
        broken=same("0\n"),
    ),
    "full-context-resume": Experiment(
        act=_full,
        harm=_all_of(_as_answer("prompt is too long"), 2),
        broken=_each(told("context_full"), 2),
        turns=(_TOO_LONG,),
    ),
}
MODEL: dict[str, Experiment] = {**MODEL_WIRE, **MODEL_MEANING}
