"""What a job of the Claude CLI answers: the words and the data that its results come to. Pure.

A CLI that works in the background gives a result for each time that it was woken, and in each only the text of the last
block, which is none when that is a thought. So the answer is put together here: the words after the last message that
used a tool, or those up to it when the model said nothing more; of every result, in order.
"""

from dataclasses import dataclass

from pydantic import JsonValue

from modal_app.actions.claude_lines import Object, blocks_of, message_id_of, taken_back

_BETWEEN = "\n\n"
_DATA = "structured_output"


@dataclass(frozen=True)
class _Said:
    """Words of a message, from one line."""

    message_id: str
    uuid: str
    words: str


class Answer:
    """Remembers what the lines say of the answer."""

    def __init__(self) -> None:
        self.structured: JsonValue = None
        self.has_structured = False
        self._texts: list[str] = []  # of the results that are there
        self._said: list[_Said] = []  # since then
        self._used_tool: str | None = None  # the last message that has used one

    @property
    def text(self) -> str:
        """What the model has answered."""
        return _BETWEEN.join(filter(None, self._texts))

    def note(self, line: Object) -> None:
        """Take a line."""
        if line.get("parent_tool_use_id") is not None:
            return  # a subagent's words are for the one that asked it
        match line.get("type"):
            case "assistant" if line.get("is_api_error_message") is not True:
                self._says(line)
            case "user":
                self._said = [said for said in self._said if not taken_back(line, said.message_id, (said.uuid,))]
            case "result":
                self._result(line)

    def _says(self, line: Object) -> None:
        message_id = message_id_of(line)
        for block in blocks_of(line):
            words = block.get("text")
            if block.get("type") == "tool_use":
                self._used_tool = message_id
            elif block.get("type") == "text" and isinstance(words, str) and words:
                if self._used_tool not in (None, message_id):  # its tools have answered
                    self._said, self._used_tool = [], None
                self._said.append(_Said(message_id, str(line.get("uuid")), words))

    def _result(self, line: Object) -> None:
        told = line.get("result")
        if _DATA in line:
            self.structured, self.has_structured = line[_DATA], True
            self._said = []  # the answer is the data; the result tells it as text, too
        self._texts.append("".join(said.words for said in self._said) or (told if isinstance(told, str) else ""))
        self._said, self._used_tool = [], None
