"""Here-documents of a Dockerfile: which ones a line announces, and what becomes of their lines."""

import re
from dataclasses import dataclass

_WORD = re.compile(r"""(?:[^\s'"\\]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")+""")
_ANNOUNCED = re.compile(r"\d*<<(?P<tabs>-?)(?P<name>[^<]+)")
_QUOTES = re.compile(r"['\"\\]")


@dataclass(frozen=True)
class Document:
    """A here-document.

    `text` is as it was written. With `tabs` the tabs at the beginnings of its lines do not belong to it, with `expands`
    variables are replaced in it.
    """

    name: str
    tabs: bool
    expands: bool
    text: str = ""

    def ends_with(self, line: str) -> bool:
        """Whether a line is the one behind the document's last line."""
        return (line.lstrip("\t") if self.tabs else line) == self.name

    def content(self) -> str:
        """Return the document's text without the tabs that do not belong to it."""
        return re.sub(r"^\t+", "", self.text, flags=re.MULTILINE) if self.tabs else self.text


def announced(text: str) -> list[Document]:
    """Return the documents, without their texts, that the text after an instruction's keyword announces."""
    if "<<" not in text:
        return []
    found = []
    for word in _WORD.findall(text):
        match = _ANNOUNCED.fullmatch(word)
        if match is not None and (name := _QUOTES.sub("", match["name"])):
            found.append(Document(name, bool(match["tabs"]), expands=name == match["name"]))
    return found
