"""Which words of the model stand: a stream that breaks is begun again, a refused answer is asked for once more. Pure.

Readers draw words as they come, and the CLI takes none of them back. So each block of text has a name, its part, and a
message says which parts it stands in the place of. Blocks that were whole when their stream broke are kept: the next
message goes on from them.
"""

from modal_app.actions.claude_lines import Object, message_id_of, taken_back


class Speaker:
    """One conversation's place in its stream of messages; `replaces` are the parts that its message takes back."""

    def __init__(self) -> None:
        self.message_id = ""
        self.replaces: tuple[str, ...] = ()
        self._parts: dict[int, str] = {}  # of the message, by the index of their blocks
        self._uuids: set[str] = set()  # of the lines that had its blocks
        self._said = False  # the message has deltas
        self._whole = True  # the message has said why it stopped
        self._void: tuple[str, ...] = ()  # parts that the next message takes back

    def part(self, index: object) -> str:
        """The name of a block of text: the message's id for the first, with the block's index behind it for others."""
        number = index if isinstance(index, int) else 0
        if number not in self._parts:
            self._parts[number] = f"{self.message_id}#{number}" if self._parts else self.message_id
        return self._parts[number]

    def stream(self, line: Object, event: Object) -> None:
        """Follow an event of a message that streams."""
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
        """Follow a line that is no event of a stream, and say what it takes back.

        After a broken stream, the answer may come whole, without an event.
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
        """The parts of the message from a block on; of one without words, the message."""
        if first == 0 and not self._parts:
            return (self.message_id,)
        return tuple(name for index, name in self._parts.items() if index >= first)


def _kept_blocks(line: Object) -> int:
    """How many blocks of a broken message stay."""
    abandoned = line.get("abandoned_blocks")
    first = abandoned.get("from_block_index") if isinstance(abandoned, dict) else 0
    return first if isinstance(first, int) else 0
