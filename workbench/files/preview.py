"""What a file is and how it can be looked at: text in tokens, JSON in nodes, an image, a page that cannot do anything.

Names and contents are a job's: the kind of a file follows its bytes, highlighting only for names that are known here,
sizes are bounded, and nothing leaves this module as HTML except a page that is shut in twice (`_shut_in`).
"""

import html
import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, TypedDict

from pygments.lexers import get_lexer_by_name
from pygments.token import Token

PREVIEW_BYTES = 64 * 1024  # of text: what somebody reads in a preview
MAX_WHOLE_BYTES = 4 * 1024 * 1024  # of what is of use only when it is whole: images, pages, JSON
MAX_JSON_NODES = 5000
MAX_JSON_DEPTH = 100
MAX_HIGHLIGHTED_LINE = 2000  # characters; longer ones are machine-made, and lexers slow on them

PreviewKind = Literal["text", "json", "image", "page", "none"]
Piece = tuple[str, str]
"""A class of token, empty for plain text, and its text."""

# Why a list: a job chooses its files' names, and not every lexer ends soon on every text.
_LEXERS = {
    ".py": "python", ".js": "javascript", ".mjs": "javascript", ".ts": "typescript", ".tsx": "typescript",
    ".json": "json", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".ini": "ini", ".cfg": "ini", ".css": "css",
    ".html": "html", ".htm": "html", ".svg": "xml", ".xml": "xml", ".md": "markdown", ".sh": "bash", ".sql": "sql",
    ".diff": "diff", ".patch": "diff", ".c": "c", ".h": "c", ".go": "go", ".rs": "rust", ".java": "java",
}  # fmt: skip
_CLASSES = (
    (Token.Comment, "comment"),
    (Token.Keyword, "keyword"),
    (Token.Literal.Number, "number"),
    (Token.Literal, "string"),
    (Token.Name.Tag, "keyword"),
    (Token.Name.Attribute, "name"),
    (Token.Name.Function, "name"),
    (Token.Name.Class, "name"),
    (Token.Name.Builtin, "name"),
    (Token.Name.Decorator, "name"),
    (Token.Generic.Deleted, "removed"),
    (Token.Generic.Inserted, "added"),
    (Token.Generic.Heading, "heading"),
    (Token.Generic.Subheading, "heading"),
)
_IMAGES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}
_BINARIES = {
    b"%PDF-": "a PDF document",
    b"PK\x03\x04": "a ZIP archive, or a document made of one",
    b"\x1f\x8b": "compressed with gzip",
    b"\x7fELF": "a program",
    b"SQLite format 3\0": "an SQLite database",
}


class Node(TypedDict, total=False):
    """A value of a JSON document: its `key` where it has one, its `kind`, its `text`, or its `children`."""

    key: str
    kind: str
    text: str
    children: "list[Node]"


@dataclass(frozen=True)
class Preview:
    """How a file can be looked at. `note` says what is left out, or why there is nothing to see.

    `lines` hold the text of all but images; `page` is a document for an iframe with an empty `sandbox`.
    """

    path: str
    kind: PreviewKind
    size: int
    note: str = ""
    lines: tuple[tuple[Piece, ...], ...] = ()
    root: Node | None = None
    page: str = ""
    data: bytes = b""
    mime: str = ""

    @property
    def text(self) -> str:
        """The text as it is in the file, as far as it is here."""
        return "\n".join("".join(text for _, text in line) for line in self.lines)


def bytes_wanted(size: int) -> int:
    """How much of a file is worth reading for its preview."""
    return size if size <= MAX_WHOLE_BYTES else PREVIEW_BYTES


def preview(path: str, data: bytes, size: int) -> Preview:
    """Look at a file by its first bytes, all of them when there are `size`."""
    whole = len(data) >= size
    if mime := _image(data):
        if whole:
            return Preview(path, "image", size, data=data, mime=mime)
        return Preview(path, "none", size, f"{mime}, {shown_size(size)}: too large for a preview; download it")
    for magic, what in _BINARIES.items():
        if data.startswith(magic):
            return Preview(path, "none", size, f"{what}, {shown_size(size)}: download it to look inside")
    if b"\0" in data:
        return Preview(path, "none", size, f"not text, {shown_size(size)}: download it to look inside")
    if size == 0:
        return Preview(path, "none", size, "empty")
    text = data[:PREVIEW_BYTES].decode(errors="replace")
    note = f"the first {shown_size(PREVIEW_BYTES)} of {shown_size(size)}" if size > PREVIEW_BYTES else ""
    lines = highlighted(path, text)
    suffix = PurePosixPath(path).suffix.lower()
    if whole and suffix in (".html", ".htm", ".svg"):
        return Preview(path, "page", size, note, lines, page=_shut_in(data.decode(errors="replace")))
    if whole and suffix in (".json", ".ipynb") and (root := _nodes(data.decode(errors="replace"))) is not None:
        return Preview(path, "json", size, note, lines, root=root)
    return Preview(path, "text", size, note, lines)


def highlighted(name: str, text: str) -> tuple[tuple[Piece, ...], ...]:
    """Lines of pieces with the class of their token; plain for names that are not known and for very long lines."""
    alias = _LEXERS.get(PurePosixPath(name).suffix.lower())
    raw = text.split("\n")
    if alias is None or any(len(line) > MAX_HIGHLIGHTED_LINE for line in raw):
        return tuple((("", line),) if line else () for line in raw)
    lexer = get_lexer_by_name(alias, stripnl=False, ensurenl=False)
    lines: list[list[Piece]] = [[]]
    for _, kind, value in lexer.get_tokens_unprocessed(text):
        name_of_class = _class(kind)
        for index, part in enumerate(value.split("\n")):
            if index:
                lines.append([])
            if part and lines[-1] and lines[-1][-1][0] == name_of_class:
                lines[-1][-1] = (name_of_class, lines[-1][-1][1] + part)
            elif part:
                lines[-1].append((name_of_class, part))
    return tuple(map(tuple, lines))


def shown_size(size: int) -> str:
    """A number of bytes for people."""
    if size < 1024:
        return f"{size} B"
    return f"{size / 1024:.1f} KiB" if size < 1024**2 else f"{size / 1024**2:.1f} MiB"


def _class(kind: object) -> str:
    return next((name for parent, name in _CLASSES if kind in parent), "")


def _image(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((mime for magic, mime in _IMAGES.items() if data.startswith(magic)), "")


_FRAME = re.compile("(</?)(?=iframe|frame|object|embed|fencedframe)", re.IGNORECASE)  # a tag's name is never escaped


def _shut_in(guest: str) -> str:
    """A page in which a job's page can do nothing: no script, no address, no way to another page.

    Two documents, one in the other: the inner one, the job's, has the outer one's policy, and where it may lead is the
    outer one's `frame-src`, which is nowhere. The iframe around both has an empty `sandbox`. Frames within the job's
    page become unknown elements: Chromium connects to where they lead before it looks at the policy. (It does so
    for a link that somebody clicks, too; nothing is sent, and the page stays.)
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; frame-src 'none'"
    inner = html.escape(_FRAME.sub(r"\1x-", guest), quote=True)
    return (
        f'<!doctype html><meta http-equiv="Content-Security-Policy" content="{policy}">'
        "<style>html,body,iframe{margin:0;width:100%;height:100%;border:0;display:block;background:#fff}</style>"
        f'<iframe sandbox="" title="the file" srcdoc="{inner}"></iframe>'
    )


class _Number(str):
    """A number as it is written: a page would round it."""

    __slots__ = ()


class _Members(list[tuple[str, Any]]):
    """An object's members in their order, twice the same key included."""


def _nodes(text: str) -> Node | None:
    """A JSON document as nodes; None for what is none, is too deep, or has more than MAX_JSON_NODES values."""
    try:
        value = json.loads(
            text, object_pairs_hook=_Members, parse_int=_Number, parse_float=_Number, parse_constant=_Number
        )
        left = MAX_JSON_NODES

        def node(value: object, key: str | None, depth: int = 0) -> Node:
            nonlocal left
            left -= 1
            if left < 0 or depth > MAX_JSON_DEPTH:
                raise ValueError("too much of it")
            named: Node = {} if key is None else {"key": key}
            match value:
                case _Members():
                    return {
                        **named,
                        "kind": "object",
                        "children": [node(child, name, depth + 1) for name, child in value],
                    }
                case list():
                    return {
                        **named,
                        "kind": "array",
                        "children": [node(child, str(i), depth + 1) for i, child in enumerate(value)],
                    }
                case _Number():
                    return {**named, "kind": "number", "text": str(value)}
                case str():
                    return {**named, "kind": "string", "text": json.dumps(value, ensure_ascii=False)}
                case _:
                    return {**named, "kind": "constant", "text": json.dumps(value)}

        return node(value, None)
    except (ValueError, RecursionError):
        return None
