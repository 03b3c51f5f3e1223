"""Previews of files: text with highlighted tokens, JSON as a tree, images, and HTML pages that cannot do anything.

Files are untrusted, names and contents alike: the kind of a file is decided by its bytes, only files with a known name
are highlighted, sizes are bounded, and no HTML leaves this module except a page in two nested iframes (`_shut_in`).
"""

import html
import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, TypedDict

from pygments.lexers import get_lexer_by_name
from pygments.token import Token

PREVIEW_BYTES = 64 * 1024  # of a text; more than anybody reads in a preview
MAX_WHOLE_BYTES = 4 * 1024 * 1024  # of files that are of use only as a whole: images, pages, JSON
MAX_JSON_NODES = 5000
MAX_JSON_DEPTH = 100
MAX_HIGHLIGHTED_LINE = 2000  # characters; longer ones are machine-made, and lexers slow on them

PreviewKind = Literal["text", "json", "image", "page", "none"]
Piece = tuple[str, str]
"""A class of token, empty for plain text, and its text."""

# Only these lexers are used: a job chooses its files' names, and some lexers take very long on some texts.
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
    """A value of a JSON document: its `key` in the object around it, its `kind`, and its `text` or its `children`."""

    key: str
    kind: str
    text: str
    children: "list[Node]"


@dataclass(frozen=True)
class Preview:
    """How a file can be shown. `note` says what is left out, or why there is nothing to see.

    `lines` hold the text of everything but images, in tokens; `page` is a document for an iframe with `sandbox=""`.
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
        """The text of the file, as far as the preview has it."""
        return "\n".join("".join(text for _, text in line) for line in self.lines)


def bytes_wanted(size: int) -> int:
    """How many bytes of a file of `size` bytes a preview needs."""
    return size if size <= MAX_WHOLE_BYTES else PREVIEW_BYTES


def preview(path: str, data: bytes, size: int) -> Preview:
    """Make the preview of a file from its first bytes, of which there should be `bytes_wanted(size)`."""
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
    """A text as lines of (token class, text); plain for unknown file names and for very long lines."""
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
    """A number of bytes in words, such as "1.5 MiB"."""
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
    """Wrap a job's page in an outer one, so that it can run no script, load nothing and lead to no other page.

    The job's page is an iframe in the outer page: it inherits the outer page's Content-Security-Policy, and may
    navigate only as the outer page's `frame-src` allows, which is nowhere. The iframe that shows the outer page has
    `sandbox=""`.
    Frame tags in the job's page are renamed to unknown elements, because Chromium opens a connection to a frame's
    address before it checks the policy. (It does so for a link that somebody clicks, too; but it sends nothing, and
    the page stays.)
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; frame-src 'none'"
    inner = html.escape(_FRAME.sub(r"\1x-", guest), quote=True)
    return (
        f'<!doctype html><meta http-equiv="Content-Security-Policy" content="{policy}">'
        "<style>html,body,iframe{margin:0;width:100%;height:100%;border:0;display:block;background:#fff}</style>"
        f'<iframe sandbox="" title="the file" srcdoc="{inner}"></iframe>'
    )


class _Number(str):
    """A number as it is written in the document, because a browser would round it."""

    __slots__ = ()


class _Members(list[tuple[str, Any]]):
    """The members of an object in their order, including keys that occur twice."""


def _nodes(text: str) -> Node | None:
    """A JSON document as a tree; None if it is not JSON, is nested too deeply, or has too many values."""
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
