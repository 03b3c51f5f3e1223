"""Works on answers while they stream through, without holding them: replaces secrets, counts tokens. Pure."""

from collections.abc import Callable, Sequence

from pydantic import JsonValue

from modal_app.contract.json_text import count_of, parse_json

_MAX_LINE_BYTES = 1024 * 1024  # an event with usage is a thousandth of it
REDACTED = b"[redacted]"


class Scrubber:
    """Replaces secrets in a stream of bytes, also those that are cut between two pieces.

    It holds back only bytes that may be the beginning of a secret.
    """

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = [secret for secret in secrets if secret]
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return those that may be passed on, with secrets replaced."""
        whole = self._held + data
        for secret in self._secrets:
            whole = whole.replace(secret, REDACTED)
        keep = max((_overlap(whole, secret) for secret in self._secrets), default=0)
        self._held = whole[len(whole) - keep :]
        return whole[: len(whole) - keep]

    def flush(self) -> bytes:
        """Return what is still held back, at the end of the stream."""
        held, self._held = self._held, b""
        return held


def scrub(text: str, secrets: Sequence[bytes]) -> str:
    """The text with its secrets replaced by "[redacted]"."""
    scrubber = Scrubber(secrets)
    return (scrubber.feed(text.encode(errors="replace")) + scrubber.flush()).decode(errors="replace")


class UsageTap:
    """Counts the tokens of an answer as it streams by, and notes when its last event came that was no ping.

    `last_life` is that time, by `clock`; `seen` says that the answer has told its usage, `whole` that it has ended.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._line = bytearray()
        self._event = b""
        self._input = 0
        self._output = 0
        self.last_life = clock()
        self.seen = False
        self.whole = False

    @property
    def tokens(self) -> int:
        """The tokens so far: input, cached or not, and output."""
        return self._input + self._output

    def feed(self, data: bytes) -> None:
        """Take the next bytes of an answer that is an event stream."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._line += data[start : min(end, start + _MAX_LINE_BYTES)]
            self._take(bytes(self._line))
            self._line.clear()
            start = end + 1
        if len(self._line) < _MAX_LINE_BYTES:
            self._line += data[start : start + _MAX_LINE_BYTES]

    def message(self, message: JsonValue) -> None:
        """Take an answer that came whole, as parsed JSON."""
        self.whole = True
        self._add(message)

    def _take(self, line: bytes) -> None:
        name, _, value = line.strip().partition(b":")
        if name == b"event":
            self._event = value.strip()
        if name != b"data" or self._event == b"ping":
            return
        self.last_life = self._clock()
        self.whole = self._event == b"message_stop"
        if b'"usage"' not in value:
            return
        try:
            data = parse_json(value)
        except ValueError:
            return
        if isinstance(data, dict):
            self._add(data.get("message"))
            self._add(data)

    def _add(self, holder: JsonValue) -> None:
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if not isinstance(usage, dict):
            return
        self.seen = True
        parts = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        self._input = max(self._input, sum(count_of(usage.get(part)) for part in parts))
        self._output = max(self._output, count_of(usage.get("output_tokens")))  # each event tells the sum so far


def _overlap(data: bytes, secret: bytes) -> int:
    """The length of the longest end of `data` that is a beginning of `secret`, but not all of it."""
    at = data.find(secret[:1], max(0, len(data) - len(secret) + 1))
    while at >= 0:
        if secret.startswith(data[at:]):
            return len(data) - at
        at = data.find(secret[:1], at + 1)
    return 0
