"""Puts the answer of a Claude CLI job together, its text and its structured data, from the CLI's lines. Pure.

The CLI writes one `result` line for each time that it worked, and each holds only the text of the model's last block,
which is empty if that block was thinking. So for each result the text is collected here: what the model said after the
last message that used a tool, or, if it said nothing after that, what it said before. The texts of all results, in
order, are the answer.

The answer is one event, so it is bounded: what is beyond the limit is dropped, and `too_large` says so.
"""

from dataclasses import dataclass

from pydantic import JsonValue

from modal_app.actions.claude_lines import Object, blocks_of, message_id_of, size, taken_back
from modal_app.contract.caps import MAX_RESULT_BYTES

_SEPARATOR = "\n\n"
_DATA = "structured_output"


@dataclass(frozen=True)
class _Said:
    """A text of the model: the message it belongs to, the uuid of the line that told it, and the words."""

    message_id: str
    uuid: str
    words: str


class Answer:
    """Collects the answer from lines, at most `max_bytes` of text and data together.

    `structured` is the data that was asked for, if `has_structured`. `too_large` says that there was more.
    """

    def __init__(self, *, max_bytes: int = MAX_RESULT_BYTES) -> None:
        self.too_large = False
        self.structured: JsonValue = None
        self.has_structured = False
        self._texts: list[str] = []  # one for each result so far
        self._said: list[_Said] = []  # since the last result
        self._max_bytes = max_bytes
        self._said_bytes = 0
        self._kept_bytes = 0  # of the texts of results so far, and of the data
        self._used_tool: str | None = None  # the id of the last message that has used a tool

    @property
    def text(self) -> str:
        """The text of the answer."""
        return _SEPARATOR.join(self._texts)

    def note(self, line: Object) -> None:
        """Take the next line."""
        if line.get("parent_tool_use_id") is not None:
            return  # what a subagent says goes to the model that called it, not to the user
        match line.get("type"):
            case "assistant" if line.get("is_api_error_message") is not True:
                self._add_text(line)
            case "user" | "system":
                left = [said for said in self._said if not taken_back(line, said.message_id, (said.uuid,))]
                if len(left) < len(self._said):
                    self._say(left)
            case "result":
                self._result(line)

    def _add_text(self, line: Object) -> None:
        message_id = message_id_of(line)
        for block in blocks_of(line):
            words = block.get("text")
            if block.get("type") == "tool_use":
                self._used_tool = message_id
            elif block.get("type") == "text" and isinstance(words, str) and words:
                if self._used_tool not in (None, message_id):  # a new message after the one that used tools
                    self._used_tool = None
                    self._say([])
                if self._fits(bytes_of := len(words.encode())):
                    self._said.append(_Said(message_id, str(line.get("uuid")), words))
                    self._said_bytes += bytes_of

    def _result(self, line: Object) -> None:
        told = line.get("result")
        if _DATA in line:
            self._say([])  # the answer is the data; the result line repeats it as text
            self.has_structured = True
            if self._fits(data_bytes := size(line[_DATA])):
                self.structured = line[_DATA]
                self._kept_bytes += data_bytes
        text = "".join(said.words for said in self._said) or (told if isinstance(told, str) else "")
        self._say([])
        if text and self._fits(text_bytes := len(_SEPARATOR) + len(text.encode())):
            self._texts.append(text)
            self._kept_bytes += text_bytes
        self._used_tool = None

    def _say(self, said: list[_Said]) -> None:
        self._said, self._said_bytes = said, sum(len(one.words.encode()) for one in said)

    def _fits(self, more_bytes: int) -> bool:
        """Whether so many bytes may be added; notes when they may not."""
        fits = self._kept_bytes + self._said_bytes + more_bytes <= self._max_bytes
        self.too_large = self.too_large or not fits
        return fits
