"""Turns what the Claude CLI prints into messages and text for readers, and in the end into one verdict. Does no I/O.

Three properties of the CLI's output shape this module: deltas come one word at a time, a stream that breaks is begun
again without the CLI taking words back, and most failures look like success (see `claude_verdict`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import JsonValue

from modal_app.actions.claude_lines import LineReader, Object, Parsed, Unparsed, bounded
from modal_app.actions.claude_speaker import Speaker
from modal_app.actions.claude_verdict import Account, Verdict
from modal_app.contract.errors import ContractError
from modal_app.contract.sse import TextSplitter

# After a piece of text was passed on, words are gathered for so long before the next piece; words that come after a
# longer pause are passed on at once. It is half a frame of a screen, and makes at most a hundred events a second.
PAUSE_S = 0.01
MAX_HELD_CHARS = 16 * 1024
_MAX_SPEAKERS = 64  # the main conversation and its subagents; more than a job has at once
_PIECES = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
_TICKS = (("system", "thinking_tokens"), ("stream_event", "ping"))  # a tuple, no set: lines may hold unhashable values


@dataclass(frozen=True)
class Text:
    """Words of the model, in order.

    `message_id` names the block of text that they belong to, `replaces` an earlier block that is void now; both are
    parts as in `claude_speaker`. A Text without words only tells what is replaced.
    """

    text: str
    message_id: str = ""
    replaces: str | None = None


@dataclass(frozen=True)
class Message:
    """A line for readers, at most 64 KiB as JSON. `cut` says that strings in it were shortened."""

    value: Object
    cut: bool = False
    replaces: str | None = None


@dataclass(frozen=True)
class Plain:
    """A line that is not JSON."""

    text: str
    lost_bytes: int = 0


Item = Text | Message | Plain


@dataclass
class _Held:
    """Deltas of one block that are held back, to be passed on together with the next ones."""

    line: Object
    kind: str
    block: tuple[JsonValue, ...]
    replaces: tuple[str, ...]
    part: str
    pieces: list[str]
    chars: int


class ClaudeStream:
    """Reads the stdout of one CLI.

    `feed` and `poll` return the items that are due, in order; `due_at` is the time, on `clock` in seconds, at which to
    poll. `failure` is set as soon as the run cannot succeed any more: the caller then ends the CLI.
    """

    def __init__(self, *, clock: Callable[[], float], wants_structured: bool = False, pause_s: float = PAUSE_S) -> None:
        self._clock = clock
        self._pause_s = pause_s
        self._lines = LineReader()
        self._account = Account(wants_structured=wants_structured)
        self._speakers: dict[str, Speaker] = {}
        self._held: _Held | None = None
        self._paused_until = clock()
        self._last_line_at = clock()

    @property
    def failure(self) -> ContractError | None:
        """Why the run cannot succeed any more; None while it can."""
        return self._account.failure

    @property
    def quiet_s(self) -> float:
        """Seconds since the CLI's last line. A model's pings make no lines, so they count as silence."""
        return self._clock() - self._last_line_at

    @property
    def due_at(self) -> float | None:
        """The time on the clock at which `poll` has something; None when nothing is held back."""
        return None if self._held is None else self._paused_until

    def feed(self, data: bytes) -> list[Item]:
        """Take the next bytes of stdout and return the items that are due."""
        found: list[Item] = []
        for line in self._lines.feed(data):
            self._last_line_at = self._clock()
            found += self._take(line)
        return found + self.poll()

    def poll(self) -> list[Item]:
        """Return the words that were held back long enough."""
        held = self._held
        if held is None or (self._clock() < self._paused_until and held.chars < MAX_HELD_CHARS):
            return []
        return self._release()

    def finish(self) -> list[Item]:
        """Return everything that is left, at the end of stdout."""
        found = [item for line in self._lines.flush() for item in self._take(line)]
        return found + self._release()

    def verdict(self, exit_code: int) -> Verdict:
        """How the job ended, given the CLI's exit code; to be called after `finish`."""
        return self._account.verdict(exit_code)

    def _take(self, line: Parsed | Unparsed) -> list[Item]:
        if isinstance(line, Unparsed):
            return [*self._release(), Plain(line.text, line.lost_bytes)]
        value = line.value
        self._account.note(value)
        event = value.get("event")
        kind = value.get("type")
        detail = event.get("type") if isinstance(event, dict) else value.get("subtype")
        if (kind, detail) in _TICKS:
            return []
        speaker = self._speaker(value)
        if kind == "stream_event" and isinstance(event, dict):
            speaker.stream(value, event)
            replaces = speaker.replaces
            if detail == "content_block_delta" and (delta := event.get("delta")) and isinstance(delta, dict):
                name = str(delta.get("type"))
                piece = delta.get(_PIECES.get(name, ""))
                if isinstance(piece, str):
                    return self._hold(value, event, name, piece, speaker)
        else:
            replaces = speaker.line(value)
        message, cut = bounded(value)
        first, *others = replaces or (None,)
        return [*self._release(), Message(message, cut, first), *(Text("", speaker.message_id, one) for one in others)]

    def _hold(self, line: Object, event: Object, kind: str, piece: str, speaker: Speaker) -> list[Item]:
        part = speaker.part(event.get("index")) if kind == "text_delta" else speaker.message_id
        block = (str(line.get("parent_tool_use_id")), speaker.message_id, kind, event.get("index"))
        found: list[Item] = []
        if self._held is not None and self._held.block != block:
            found = self._release()
        if self._held is None:
            self._held = _Held(line, kind, block, speaker.replaces, part, [], 0)
        self._held.pieces.append(piece)
        self._held.chars += len(piece)
        return found + self.poll()

    def _release(self) -> list[Item]:
        held, self._held = self._held, None
        if held is None:
            return []
        self._paused_until = self._clock() + self._pause_s
        text = "".join(held.pieces)
        replaces = next(iter(held.replaces), None)
        if held.kind == "text_delta" and held.line.get("parent_tool_use_id") is None:
            pieces = TextSplitter().feed(text.encode(errors="replace"))
            return [Text(piece, held.part, replaces) for piece in pieces]
        event = held.line["event"]
        assert isinstance(event, dict)
        delta: Object = {"type": held.kind, _PIECES[held.kind]: text}
        message, cut = bounded({**held.line, "event": {**event, "delta": delta}})
        return [Message(message, cut, replaces)]

    def _speaker(self, line: Object) -> Speaker:
        name = str(line.get("parent_tool_use_id"))
        if name not in self._speakers and len(self._speakers) >= _MAX_SPEAKERS:
            return Speaker()
        return self._speakers.setdefault(name, Speaker())
