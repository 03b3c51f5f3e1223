"""Tracks which of the model's words are void: a broken stream is begun again, a refused answer is asked for once more.

Readers show words as they come, and the CLI does not take them back. So each block of text has a name, called its part,
and a later message says which parts it replaces. Blocks that were complete when their stream broke stay valid: the next
message continues after them. Pure.
"""

from modal_app.actions.claude_lines import Object, message_id_of, taken_back


class Speaker:
    """The state of one conversation, the main one or a subagent's.

    `message_id` is the current message; `replaces` are the parts of earlier messages that it replaces.
    """

    def __init__(self) -> None:
        self.message_id = ""
        self.replaces: tuple[str, ...] = ()
        self._parts: dict[int, str] = {}  # the parts of the current message, by the index of their block
        self._uuids: set[str] = set()  # of the lines that told its blocks
        self._said = False  # the message has streamed some words
        self._whole = True  # the message has told its stop reason
        self._void: tuple[str, ...] = ()  # parts that the next message replaces

    def part(self, index: object) -> str:
        """The name of the block with this index, `id#index`: a reader that begins anywhere knows which block it is.

        Empty when no message has begun, so that there is no id.
        """
        number = index if isinstance(index, int) else 0
        return self._parts.setdefault(number, f"{self.message_id}#{number}" if self.message_id else "")

    def stream(self, line: Object, event: Object) -> None:
        """Take a `stream_event` line and the event in it."""
        match event.get("type"):
            case "message_start":
                if self._said and not self._whole:
                    self._void = self._from(0)
                message = event.get("message")
                self._begin(str(message.get("id", "")) if isinstance(message, dict) else "")
            case "content_block_delta":
                self._said = True
            case "message_delta":
                delta = event.get("delta")
                self._whole = isinstance(delta, dict) and delta.get("stop_reason") is not None
            case "message_stop":
                if "abandoned_blocks" in line or not self._whole:
                    self._void = self._from(_kept_blocks(line)) if self._said else self.replaces
                self.replaces, self._said, self._whole = (), False, True

    def line(self, line: Object) -> tuple[str, ...]:
        """Take a line that is not a `stream_event`, and return the parts that it replaces.

        After a broken stream the answer may come whole, as such a line, instead of streaming again.
        """
        if taken_back(line, self.message_id, self._uuids):
            self._void = self._from(0)
        if line.get("type") != "assistant":
            return self.replaces
        if line.get("is_api_error_message") is True:
            return ()
        if message_id_of(line) != self.message_id:
            return self._void
        self._uuids.add(str(line.get("uuid")))
        return self.replaces

    def _begin(self, message_id: str) -> None:
        self.message_id = message_id
        self.replaces, self._void = self._void, ()
        self._parts, self._uuids = {}, set()
        self._said, self._whole = False, False

    def _from(self, first: int) -> tuple[str, ...]:
        """The parts of the message from block `first` on; the message's own id if it has streamed no text."""
        if first == 0 and not self._parts:
            return (self.message_id,)
        return tuple(name for index, name in self._parts.items() if index >= first)


def _kept_blocks(line: Object) -> int:
    """How many blocks of a broken message stay valid."""
    abandoned = line.get("abandoned_blocks")
    first = abandoned.get("from_block_index") if isinstance(abandoned, dict) else 0
    return first if isinstance(first, int) else 0
