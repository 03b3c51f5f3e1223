"""The pages that people read, taken apart: their blocks of code, the commands and names in them, their links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import typer.main

from tests.support.docs.made import DOCS
from tests.support.docs.reference import PAGES as MADE
from tests.support.docs.reference import anchor
from tests.support.paths import ROOT
from workbench.cli import app

README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / ".github" / "CONTRIBUTING.md",
    ROOT / ".github" / "SECURITY.md",
    *(path for path in sorted(DOCS.glob("*.md")) if path.name not in MADE),
]
_FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
_ASSIGNMENT = re.compile(r"\w+=.*")


class UnknownError(AssertionError):
    """A page names something that there is not."""


@dataclass(frozen=True)
class Block:
    """A block of code; `tag` is what stands behind its language: how it is run, or the file that it is."""

    language: str
    tag: str
    text: str


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str = "", tag: str | None = None) -> list[Block]:
    """The blocks of a page, in a language or with a tag when they are given."""
    found = []
    for info, text in _FENCE.findall(page.read_text()):
        word, _, rest = info.strip().partition(" ")
        found.append(Block(word, rest.strip(), text))
    return [one for one in found if language in ("", one.language) and tag in (None, one.tag)]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _FENCE.sub("", page.read_text())


def inline(page: Path) -> list[str]:
    """What stands between backticks in a line."""
    return _INLINE.findall(prose(page))


def links(page: Path) -> list[str]:
    """Where the page leads to, without addresses of the web."""
    found = [first or second for first, second in _LINK.findall(prose(page))]
    return [link for link in found if not re.match(r"\w+:", link)]


def anchors(page: Path) -> set[str]:
    """What its headings are called in addresses."""
    return {anchor(line.lstrip("#").strip()) for line in prose(page).splitlines() if line.startswith("#")}


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words of each command of a page's shell blocks and workflows, without `uv run` and what is set before it."""
    for block in blocks(page, "sh"):
        yield from commands_of(block.text)
    for block in blocks(page, "yaml"):
        yield from commands_of("\n".join(re.findall(r"\brun: (.+)", block.text)))


def commands_of(script: str) -> Iterator[list[str]]:
    """The words of each command of a script: of those in a pipe, behind `&&`, and in `"$(…)"`, too."""
    text = re.sub(r"(^|\s)#\s.*$", "", script.replace("\\\n", " "), flags=re.MULTILINE)
    lexer = shlex.shlex(text, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t\r", "", True
    words: list[str] = []
    for word in [*lexer, "\n"]:
        if inner := re.fullmatch(r"\$\((.*)\)", word):
            yield from commands_of(inner[1])
        if not word or not set(word) <= set("\n|&;()"):  # a quoted word has other letters, too
            words.append(word)
            continue
        if found := _command(words):
            yield found
        words = []


def _command(words: list[str]) -> list[str]:
    while words and (_ASSIGNMENT.fullmatch(words[0]) or words[:2] == ["uv", "run"]):
        words = words[2 if words[0] == "uv" else 1 :]
    return list(takewhile(lambda word: word not in (">", ">>", "<"), words))


def named_commands(page: Path) -> Iterator[list[str]]:
    """The words of each `workbench …` and `modal …` that stands in a sentence."""
    for text in inline(page):
        line = text.removeprefix("uv run ")
        if re.match(r"(workbench|modal) [a-z-]", line) and "…" not in line:
            yield shlex.split(line)


def check_command(words: list[str], *, whole: bool = True) -> None:
    """Raise UnknownError for a command of `workbench` or `modal` that there is not, or an option that it has not.

    One of `workbench` that is `whole` must be one that would run, with its arguments and their values.
    """
    command: Any
    if words[0] == "workbench":
        command = typer.main.get_command(app)
    elif words[0] == "modal":
        from modal.cli.entry_point import entrypoint_cli as command
    else:
        return
    path = [words[0]]
    rest = words[1:]
    while rest and getattr(command, "commands", None):
        word = rest.pop(0)
        if word.startswith("-"):
            _check_option(command, path, word)
            continue
        if word not in command.commands:
            raise UnknownError(f"there is no `{' '.join([*path, word])}`")
        command = command.commands[word]
        path.append(word)
    for word in rest:
        if word == "--":
            break
        if word.startswith("-") and word != "-":
            _check_option(command, path, word)
    if whole and words[0] == "workbench" and "--help" not in rest:
        try:
            command.make_context(" ".join(path), rest)
        except Exception as error:
            if not hasattr(error, "format_message"):  # what a user sees of it
                raise
            raise UnknownError(f"`{' '.join(words)}`: {error.format_message()}") from None


def options() -> set[str]:
    """Every option of every command of `workbench`."""
    waiting: list[Any] = [typer.main.get_command(app)]
    found = {"--help"}
    while waiting:
        command = waiting.pop()
        found |= {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        waiting += getattr(command, "commands", {}).values()
    return found


def _check_option(command: Any, path: list[str], word: str) -> None:
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
    if word.partition("=")[0] not in known:
        raise UnknownError(f"`{' '.join(path)}` has no option {word}")
