"""Makes text that a job may have written safe to print: characters that control a terminal become U+FFFD."""

import re

_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text without the control characters that could drive a terminal; lines stay lines."""
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)


def one_line(text: str, limit: int = 200) -> str:
    """The same on one line of at most `limit` characters; line breaks become spaces."""
    shown = printable(text[: limit + 1]).replace("\n", " ").replace("\t", " ")
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def visible(text: str) -> str:
    """Text whose control characters are pictures and whose changes of direction are U+FFFD; lines stay lines.

    For pages, where `printable` would hide too much; `visible` of `shared.js` does the same.
    """
    return _ACTING.sub(_picture, text)


def _picture(found: "re.Match[str]") -> str:
    code = ord(found.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"
