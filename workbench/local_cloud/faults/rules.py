"""Fault rules: which calls a rule matches, when it fires, and what it does. Every fault that is injected is logged.

A rule has its own random numbers, drawn from its seed once per match, so that the same calls meet the same faults.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Annotated, Literal, get_args

import structlog
from pydantic import BaseModel, ConfigDict, Field, model_validator

from workbench.local_cloud.base.errors import Reason
from workbench.local_cloud.base.ids import new_id
from workbench.local_cloud.faults.protocol import RPCS, At, Part, why_without_effect
from workbench.local_cloud.faults.words import check_word

_log = structlog.get_logger(__name__)

MAX_RULES = 100
_REMEMBERED = 200  # injected faults

Pattern = Annotated[str, Field(max_length=200)]
Seconds = Annotated[float, Field(ge=0, le=24 * 3600)]


class FaultRule(BaseModel):
    """What a rule matches and what it then does. Patterns are as in a shell (`Task*`); an empty one matches everything.

    `at` is the place: `call`, before an RPC is done; `answer`, after it was done and before its caller gets the answer;
    `stream`, while an RPC streams its answer; `commit`, when a mount is committed; `web`, when a web function answers.
    With `nth` the rule fires at that match only, counted from 1; with `times` at most so often; with `probability` at
    that share of its matches, by random numbers from `seed`. It ends after `for_s` seconds, by the clock of the app
    that `app` names in full, else by the whole cloud's, and when nobody has renewed it for `lease_s` seconds of the
    machine's clock. What it delays or slows down, it does by the clock of the app that is concerned.

    A rule with `kill`, `preempt` or `exhaust` matches only calls about something running that it can end: the program
    or the sandbox that the request names, and the container that calls or whose function the call is about. Who is
    killed in a commit does not make it, also when it is the one that follows its end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: At = "call"
    rpc: Pattern = ""
    app: Pattern = ""
    sandbox: Pattern = Field("", max_length=200, description="id or name")
    path: Pattern = Field("", max_length=200, description="of a file, a sub-path or a URL")
    argv: Pattern = Field("", max_length=200, description="of the program in a sandbox, its words joined by spaces")
    nth: int | None = Field(None, ge=1)
    times: int | None = Field(None, ge=1)
    probability: float = Field(1.0, ge=0, le=1)
    seed: int = Field(0, ge=0)
    for_s: Seconds | None = Field(None, gt=0, description="in force for so long, by the app's clock")
    lease_s: Seconds | None = Field(None, gt=0, description="gone unless renewed so often, by the machine's clock")

    delay_s: Seconds = 0
    status: str | None = Field(None, description="a gRPC status by name: UNAVAILABLE, INTERNAL, RESOURCE_EXHAUSTED, …")
    kill: Part | None = None
    preempt: bool = Field(False, description="end the container as Modal does when it needs the machine")
    grace_s: Seconds | None = Field(None, description="how long a preempted container has to end; Modal's 30 s without")
    exhaust: Literal["memory", "disk"] | None = Field(None, description="end the sandbox as if that were used up")
    after_messages: int = Field(0, ge=0, description="how many messages of a stream pass before it happens")
    bytes_per_s: float | None = Field(None, gt=0, description="how fast a stream or a web response passes")
    lose: bool = Field(False, description="acknowledge the commit, but do not make it")
    http_status: int | None = Field(None, ge=400, le=599)
    buffer_bytes: int | None = Field(None, ge=1, le=64 * 1024**2, description="hold so much of a web response back")
    cut_after_s: Seconds | None = Field(None, description="close the connection so long after the response began")
    idle_cut_s: Seconds | None = Field(None, gt=0, description="close the connection when no byte passes for so long")
    slice_bytes: int | None = Field(None, ge=1, description="send a web response in pieces of so many bytes")

    @model_validator(mode="before")
    @classmethod
    def _must_have_known_words(cls, given: object) -> object:
        """Raise ValueError for an unknown field or value, naming the most similar ones."""
        if isinstance(given, dict):
            for name, value in given.items():
                check_word("field", str(name), cls.model_fields)
                if isinstance(value, str) and name in _WORDS:
                    check_word(str(name), value, _WORDS[name])
        return given

    @model_validator(mode="after")
    def _must_fit_together(self) -> "FaultRule":
        given = {name for name in ACTIONS if _does_something(name, getattr(self, name))}
        if not given:
            raise ValueError(f"a rule does nothing unless one of these is given: {', '.join(sorted(ACTIONS))}")
        misplaced = sorted(given - _ALLOWED[self.at])
        if misplaced:
            allowed = ", ".join(sorted(_ALLOWED[self.at]))
            raise ValueError(f"{', '.join(misplaced)} has no effect with at={self.at}: use one of {allowed} there")
        if self.rpc and self.at in ("commit", "web"):
            raise ValueError(
                f"rpc '{self.rpc}' has no effect with at={self.at}: leave it out, or use at=call, answer or stream"
            )
        if self.argv and (self.at in ("commit", "web") or not self.rpc.startswith("TaskExec")):
            raise ValueError("argv goes with calls about a program in a sandbox: give rpc=TaskExec… as well")
        if self.grace_s is not None and not self.preempt:
            raise ValueError("grace_s is the time that a preempted container has: give preempt=true as well")
        self._must_match_an_rpc()
        for action, part in self._ended_parts():
            if (why := why_without_effect(self.at, self.rpc, part)) is not None:
                raise ValueError(f"{action} has no effect {why}")
        return self

    def _must_match_an_rpc(self) -> None:
        """Raise ValueError for a pattern that matches no RPC of the protocol, or none that this rule's `at` allows."""
        matched = [streams for name, streams in RPCS.items() if fnmatchcase(name, self.rpc)]
        if not self.rpc or any(streams is (self.at == "stream") or self.at == "call" for streams in matched):
            return
        if not matched:
            check_word("RPC", self.rpc, RPCS)
        how = "stream their answer: give at=stream or at=call" if any(matched) else "do not stream: give another at="
        raise ValueError(f"RPCs like {self.rpc} {how}")

    def _ended_parts(self) -> Iterator[tuple[str, Part]]:
        """The actions that end something, each with what it ends."""
        if self.kill is not None:
            yield f"kill={self.kill}", self.kill
        if self.preempt:
            yield "preempt", "container"
        if self.exhaust is not None:
            yield f"exhaust={self.exhaust}", "sandbox"

    @property
    def ends_something(self) -> bool:
        """Whether the rule ends a program, a sandbox or a container."""
        return next(self._ended_parts(), None) is not None

    @property
    def ends_commit(self) -> bool:
        """Whether it kills who commits, so that nothing is committed."""
        return self.at == "commit" and self.kill is not None

    @property
    def only_ends(self) -> bool:
        """Whether it does nothing but that."""
        given = {name for name in ACTIONS if _does_something(name, getattr(self, name))}
        return given <= {"kill", "preempt", "exhaust"}

    def given(self) -> dict[str, object]:
        """The fields that make the same rule again: those that are not at their defaults, and `at`."""
        return {"at": self.at, **self.model_dump(exclude_defaults=True)}

    def __str__(self) -> str:
        """The rule as `workbench cloud fault add` takes it."""
        return " ".join(f"{name}={value}" for name, value in self.given().items())

    @property
    def reason(self) -> Reason | None:
        """The reason with which the call fails; None when the rule lets it succeed."""
        return None if self.status is None else Reason[self.status]


_WORDS: dict[str, tuple[str, ...]] = {
    "at": get_args(At),
    "status": tuple(Reason),
    "kill": get_args(Part),
    "exhaust": ("memory", "disk"),
}
_OF_CALLS = frozenset(("delay_s", "status", "kill", "preempt", "exhaust"))
_ALLOWED: dict[At, frozenset[str]] = {
    "call": _OF_CALLS,
    "answer": _OF_CALLS,
    "stream": _OF_CALLS | {"bytes_per_s"},
    "commit": frozenset(("delay_s", "status", "lose", "kill", "exhaust")),
    "web": frozenset(
        (
            "delay_s",
            "http_status",
            "buffer_bytes",
            "bytes_per_s",
            "cut_after_s",
            "idle_cut_s",
            "slice_bytes",
            "kill",
            "preempt",
        )
    ),
}


ACTIONS = frozenset[str]().union(*_ALLOWED.values())


def _does_something(name: str, value: object) -> bool:
    return value is not None and value is not False and not (name == "delay_s" and value == 0)


@dataclass(frozen=True)
class Subject:
    """The app, sandbox, container or exec that a call concerns; what is not known is empty.

    `path` is that of a file, a sub-path or a URL.
    """

    app: str = ""
    sandbox_id: str = ""
    sandbox_name: str = ""
    task_id: str = ""
    exec_id: str = ""
    path: str = ""
    argv: str = ""
    app_id: str = ""


Ending = Literal["removed", "over", "not renewed"]


@dataclass
class Active:
    """A rule, with how many calls it has matched and how many faults it has injected."""

    rule_id: str
    rule: FaultRule
    chance: random.Random
    until: float | None = None
    """When it is over, by `passed`."""
    passed: Callable[[], float] = time.monotonic
    """Gives seconds that never go back, of the clock that the rule goes by."""
    renewed_at: float = 0.0
    """When its owner was last heard, by the machine's monotonic clock."""
    matched: int = 0
    injected: int = 0
    ended: Ending | None = None
    """Why it is in force no longer; None while it is."""


@dataclass(frozen=True)
class Injection:
    """One injected fault; `what` as for `Faults.draw`.

    Times are Unix seconds: `at_s` by the whole cloud's clock, `real_s` by the machine's.
    """

    rule_id: str
    at_s: float
    at: At
    what: str
    subject: Subject
    real_s: float


@dataclass(frozen=True)
class Fired:
    """A rule that fires for one call, and what is remembered of that."""

    rule: FaultRule
    active: Active
    injection: Injection


class Faults:
    """The rules in force, and the newest faults that they injected.

    `now` returns Unix seconds by the whole cloud's clock. `passed_of` gives for the `app` of a rule what returns the
    seconds, which never go back, that the rule goes by; without it that is `now`.
    """

    def __init__(self, now: Callable[[], float], passed_of: Callable[[str], Callable[[], float]] | None = None) -> None:
        self._now = now
        self._passed_of = passed_of or (lambda app: now)
        self._rules: dict[str, Active] = {}
        self._ended: deque[Active] = deque(maxlen=_REMEMBERED)
        self._happened: deque[Injection] = deque(maxlen=_REMEMBERED)

    def __bool__(self) -> bool:
        """Whether any rule is in force."""
        return bool(self._in_force())

    def add(self, rule: FaultRule) -> str:
        """Put a rule into force and return its id; raises ValueError when there are too many."""
        if len(self._in_force()) >= MAX_RULES:
            raise ValueError(f"there are {MAX_RULES} rules already: clear some first")
        rule_id = new_id("fr", length=8)
        passed = self._passed_of(rule.app)
        self._rules[rule_id] = Active(
            rule_id,
            rule,
            random.Random(rule.seed),  # noqa: S311  # repeatable
            until=None if rule.for_s is None else passed() + rule.for_s,
            passed=passed,
            renewed_at=time.monotonic(),
        )
        return rule_id

    def renew(self, rule_id: str) -> bool:
        """Let a rule that has a lease live on; False when it is in force no longer."""
        self._in_force()
        active = self._rules.get(rule_id)
        if active is not None:
            active.renewed_at = time.monotonic()
        return active is not None

    def remove(self, rule_id: str) -> bool:
        """Remove one rule; False when no rule of that id is in force."""
        self._in_force()
        return self._end(rule_id, "removed")

    def clear(self) -> int:
        """Remove every rule; returns how many there were."""
        return sum(self._end(active.rule_id, "removed") for active in self._in_force())

    def rules(self) -> list[Active]:
        """The rules in force, oldest first."""
        return self._in_force()

    def ended(self) -> list[Active]:
        """The newest rules that are in force no longer, in the order of their ends."""
        self._in_force()
        return list(self._ended)

    def happened(self) -> list[Injection]:
        """The newest injected faults, oldest first."""
        return list(self._happened)

    def draw(
        self,
        at: At,
        what: str,
        subject: Callable[[], Subject],
        reaches: Callable[[FaultRule, Subject], bool] = lambda rule, subject: True,
    ) -> list[Fired]:
        """Return the rules that fire for this call, and log them as injected.

        `what` is the RPC's name, the author of a commit or the path of a web request. `subject` is called only when
        some rule may match; `reaches` says whether the subject has what a rule ends.
        """
        fired: list[Fired] = []
        known: Subject | None = None
        for active in self._in_force():
            rule = active.rule
            if rule.at != at or (rule.rpc and not fnmatchcase(what, rule.rpc)):
                continue
            known = known or subject()
            if not _matches(rule, known) or not reaches(rule, known):
                continue
            active.matched += 1
            fires = (rule.nth is None or active.matched == rule.nth) and active.chance.random() < rule.probability
            if not fires or (rule.times is not None and active.injected >= rule.times):
                continue
            active.injected += 1
            # Without the program's words: they may hold anything, and the rule tells which were meant.
            injection = Injection(active.rule_id, self._now(), at, what, replace(known, argv=""), time.time())
            self._happened.append(injection)
            _log.warning("fault.injected", rule_id=active.rule_id, at=at, what=what, sandbox_id=known.sandbox_id)
            fired.append(Fired(rule, active, injection))
        return fired

    def take_back(self, fired: Fired) -> None:
        """Let a rule count as not fired: what it was to end had ended before."""
        fired.active.matched -= 1
        fired.active.injected -= 1
        kept = [one for one in self._happened if one is not fired.injection]
        self._happened = deque(kept, maxlen=_REMEMBERED)
        _log.warning("fault.without-effect", rule_id=fired.active.rule_id)

    def _in_force(self) -> list[Active]:
        """The rules in force, after those that are over or that nobody renews have been dropped."""
        for active in list(self._rules.values()):
            if active.until is not None and active.passed() >= active.until:
                self._end(active.rule_id, "over")
            elif active.rule.lease_s is not None and time.monotonic() > active.renewed_at + active.rule.lease_s:
                self._end(active.rule_id, "not renewed")
        return list(self._rules.values())

    def _end(self, rule_id: str, why: Ending) -> bool:
        active = self._rules.pop(rule_id, None)
        if active is not None:
            active.ended = why
            self._ended.append(active)
        return active is not None


def _matches(rule: FaultRule, subject: Subject) -> bool:
    if rule.app and not fnmatchcase(subject.app, rule.app):
        return False
    if rule.path and not fnmatchcase(subject.path, rule.path):
        return False
    if rule.argv and not fnmatchcase(subject.argv, rule.argv):
        return False
    names = (subject.sandbox_id, subject.sandbox_name)
    return not rule.sandbox or any(name and fnmatchcase(name, rule.sandbox) for name in names)
