"""Scripts that are lent for a while, each bound to the prompts that hold its marker. No I/O.

Whoever lends one renews it; without that it is gone when its lease is over. A prompt whose marker is in force no longer
gets no other answer: the caller would take it for the one that was meant.
"""

import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from pydantic import JsonValue

from workbench.scripted_model.script import Script, ScriptError, Turn, answers, prompts

MARKER = re.compile(r"answers-[0-9a-f]{32}")
MAX_LENT = 100
MAX_ANSWERED = 1000  # of one script; the newest are kept
MAX_SESSIONS = 1000  # of one script


@dataclass
class Answered:
    """One request that a lent script has answered, or begun to. Times are in Unix seconds.

    `turn` counts from 0 at the prompt with the marker. `told` says that the answer was sent to its end, `fault` is the
    kind of the fault that struck, at `fault_at_s`.
    """

    turn: int
    at_s: float
    streams: bool
    told: bool = False
    fault: str | None = None
    fault_at_s: float | None = None

    def struck(self, kind: str) -> None:
        """Note that a fault has struck now."""
        self.fault, self.fault_at_s = kind, time.time()


@dataclass
class Lent:
    """A script in somebody's hands, and what it has answered."""

    script: Script
    lease_s: float
    renewed_at: float
    answered: list[Answered] = field(default_factory=list)
    sessions: dict[str, None] = field(default_factory=dict)

    def told(self) -> list[JsonValue]:
        """The newest requests that it has answered, oldest first, as JSON."""
        return [asdict(one) for one in self.answered]


@dataclass(frozen=True)
class Chosen:
    """The answer to one request: its turn, and where the answering is noted."""

    turn: Turn
    note: Answered


class Lending:
    """The scripts that are lent now, by their markers. `clock` gives seconds that only go forward."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lent: dict[str, Lent] = {}

    def lend(self, script: Script, lease_s: float) -> str:
        """Lend a script and return its marker. Raises ScriptError when too many are lent."""
        self._let_go()
        if len(self._lent) >= MAX_LENT:
            raise ScriptError(f"{MAX_LENT} scripts are lent, which is the most: end some first")
        marker = f"answers-{secrets.token_hex(16)}"
        self._lent[marker] = Lent(script, lease_s, self._clock())
        return marker

    def get(self, marker: str) -> Lent | None:
        """A script that is in force, by its marker."""
        self._let_go()
        return self._lent.get(marker)

    def renew(self, marker: str) -> bool:
        """Let a script live on for another lease; False when it is in force no longer."""
        lent = self.get(marker)
        if lent is not None:
            lent.renewed_at = self._clock()
        return lent is not None

    def take_back(self, marker: str) -> Lent | None:
        """End a script; None when it is in force no longer."""
        lent = self.get(marker)
        self._lent.pop(marker, None)
        return lent

    def markers(self) -> Mapping[str, int]:
        """The scripts in force, and how many requests each has answered."""
        self._let_go()
        return {marker: len(lent.answered) for marker, lent in self._lent.items()}

    def choose(self, messages: list[JsonValue], session: str, *, streams: bool) -> Chosen | None:
        """The answer of a lent script to a request; None when the request belongs to none.

        A request belongs to the script whose marker stands in the last prompt that has any, or, for what a subagent
        asks, to the script of its session. Raises ScriptError when that is in force no longer, or has no such turn.
        """
        marked = [(at, found, text) for at, text in prompts(messages) for found in MARKER.findall(text)]
        if marked:
            at, marker, prompt = marked[-1]
            lent = self.get(marker)
            if lent is None:
                raise ScriptError(f"the answers of {marker} are in force no longer")
            self._bind(lent, session)
        else:
            lent = next((one for one in self._current() if session and session in one.sessions), None)
            if lent is None:
                return None
            at, prompt = next(iter(prompts(messages)), (0, ""))
        position = answers(messages[at:])
        turn = lent.script.turn(prompt, position)
        note = Answered(position, time.time(), streams)
        lent.answered.append(note)
        del lent.answered[:-MAX_ANSWERED]
        return Chosen(turn, note)

    def _bind(self, lent: Lent, session: str) -> None:
        if not session or session in lent.sessions or len(lent.sessions) >= MAX_SESSIONS:
            return
        for other in self._lent.values():
            other.sessions.pop(session, None)
        lent.sessions[session] = None

    def _current(self) -> list[Lent]:
        self._let_go()
        return list(self._lent.values())

    def _let_go(self) -> None:
        now = self._clock()
        for marker in [marker for marker, one in self._lent.items() if now > one.renewed_at + one.lease_s]:
            del self._lent[marker]
