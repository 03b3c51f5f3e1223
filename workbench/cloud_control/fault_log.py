"""Which fault rule has ended a run: by what the local cloud remembers of the faults that it injected.

A rule is named only where it can have been the cause: it hit this run's sandbox, or while the run went on, something of
its app that belongs to no other sandbox, and the run ended in a way that such a fault leads to.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modal_app.contract.errors import ErrorCode
from workbench.cloud_control.controls import Faults, InjectedFault
from workbench.local_cloud import FaultRule
from workbench.text.plain_text import one_line

_AFTER_MS = 500  # by which a fault may come after the end was written down; the clocks are those of one machine
_RULE_CHARS = 160
_OWN = frozenset({ErrorCode.PROCESS_FAILED, ErrorCode.CANCELLED})  # how a run ends by itself, or by its reader
_LATE = frozenset({ErrorCode.PROCESS_TIMEOUT, ErrorCode.RUN_TIMEOUT, ErrorCode.STALLED})
_KILLS = ("kill", "preempt", "exhaust")


@dataclass(frozen=True)
class EndedRun:
    """What must be known of a run that has ended, to tell which fault was its own. Times are Unix time, `code` its end.

    `sandbox_id` is empty where it had none.
    """

    app: str
    code: str
    sandbox_id: str
    sandbox_name: str
    accepted_at_ms: int
    ended_at_ms: int


class FaultLog:
    """The newest injected faults, and the rules that did it."""

    @classmethod
    def read(cls, faults: Faults) -> "FaultLog":
        """What the local cloud remembers now. Raises ControlError."""
        happened = faults.happened()  # first: a rule that is known later may have fired later
        return cls({one.rule_id: one.rule for one in (*faults.ended(), *faults.rules())}, happened)

    def __init__(self, rules: Mapping[str, FaultRule], happened: Iterable[InjectedFault]) -> None:
        self._rules = rules
        self._happened = tuple(happened)

    def cause(self, run: EndedRun) -> str:
        """The rule that has ended a run, and what it hit, on one printable line; "" where none has."""
        hits = [one for one in self._happened if one.rule_id in self._rules and self._can_have_ended(one, run)]
        if run.code == "done" or not hits:
            return ""
        last = hits[-1]
        before = max(0, run.ended_at_ms - int(last.real_s * 1000))
        rule = one_line(str(self._rules[last.rule_id]), _RULE_CHARS)
        return f"fault rule {last.rule_id} ({rule}) fired at {one_line(last.what, 80)}, {before} ms before the end"

    def _can_have_ended(self, fault: InjectedFault, run: EndedRun) -> bool:
        begin, end = run.accepted_at_ms, run.ended_at_ms + _AFTER_MS
        if not begin <= int(fault.real_s * 1000) <= end:  # whole numbers: an archive's may be too large for floats
            return False
        rule = self._rules[fault.rule_id]
        hit_id, hit_name = fault.subject.get("sandbox_id", ""), fault.subject.get("sandbox_name", "")
        # The sandboxes of one project have the same name, one after the other: an id tells more, where both have one.
        same = hit_id == run.sandbox_id if hit_id and run.sandbox_id else hit_name == run.sandbox_name
        if fault.subject.get("app", "") not in ("", run.app) or ((hit_id or hit_name) and not same):
            return False
        if run.code in _OWN:
            return run.code != ErrorCode.CANCELLED and bool(hit_id or hit_name) and _kills(rule)
        return _harms(rule) or run.code in _LATE


def _kills(rule: FaultRule) -> bool:
    return any(getattr(rule, name) for name in _KILLS)


def _harms(rule: FaultRule) -> bool:
    """Whether a rule does more than to make something slower."""
    cuts = (rule.status, rule.lose, rule.http_status, rule.cut_after_s, rule.idle_cut_s)
    return _kills(rule) or any(one not in (None, False) for one in cuts)
