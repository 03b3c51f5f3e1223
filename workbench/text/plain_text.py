"""Makes text that a job may have written safe to print: characters that control a terminal become U+FFFD."""


def printable(text: str) -> str:
    """Text without the control characters that could drive a terminal; lines stay lines."""
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)


def one_line(text: str, limit: int = 200) -> str:
    """The same on one line of at most `limit` characters; line breaks become spaces."""
    shown = printable(text[: limit + 1]).replace("\n", " ").replace("\t", " ")
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
