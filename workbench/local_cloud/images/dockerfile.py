"""Parses Dockerfile text: instructions, flags, words, argument lists, and the commands of a RUN line.

Text that cannot be parsed raises `RefusedError`. What an instruction does is decided in `steps` and `rooted_steps`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from workbench.local_cloud.images import expansion
from workbench.local_cloud.images.documents import Document, announced

MAX_INSTRUCTIONS = 1000
MAX_CHARS = 1 << 20
ESCAPE = "\\"
_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
_DIRECTIVES = frozenset(("syntax", "escape", "check"))
_WITH_DOCUMENTS = re.compile(r"(?:ONBUILD\s+)?(?:RUN|COPY|ADD)\s+(.*)", re.IGNORECASE | re.DOTALL)
_FLAG = re.compile(r"--([a-z][a-z-]*)(?:=(\S*))?(?:\s+|$)")
_QUOTED = r"""'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)\""""
_IN_SHELL = re.compile(
    r"(?P<blank>\s+)|(?P<operator>[();<>|&]+)|" + _QUOTED + r"""|(?P<bare>(?:[^\s'"\\();<>|&]|\\.)+)"""
)
_SUBSTITUTION = re.compile(r"`|\$\(")
_SPLIT = re.compile(r"[\s*?\[\\]")
_COMMAND_V = re.compile(r"\$\(command -v ([\w.-]+)\)")
_HOME = "\0"  # before a word whose ~ a shell would replace; no line of a Dockerfile has it
_BUILDKIT_FLAG = re.compile(r"^--(?:mount|network|security)=\S+\s*")


class RefusedError(Exception):
    """An image asks for something that this cloud cannot build; the message says why and what to do, in sentences."""


class NeedsRootError(RefusedError):
    """An image asks for something that needs a root file system of its own; the message is that of a refusal."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: its keyword in capitals, the text after it on one line, and its here-documents.

    `escape` is the character that takes away the meaning of the one behind it.
    """

    keyword: str
    text: str
    documents: tuple[Document, ...] = ()
    escape: str = ESCAPE

    def __str__(self) -> str:
        return f"{self.keyword} {self.text}"


def instructions(lines: Iterable[str]) -> list[Instruction]:
    """Return the instructions of Dockerfile lines as Docker reads them. Raises RefusedError.

    Continued lines are joined, comments removed (also between continued lines), here-documents collected, and the
    directives of the first lines are heeded.
    """
    text = "\n".join(lines).removeprefix("\ufeff")  # a byte order mark
    if len(text) > MAX_CHARS:
        raise _too_long()
    rows = [row.removesuffix("\r") for row in text.split("\n")]
    escape = _escape(rows)
    quoted = re.escape(escape)
    continued = re.compile(rf"(?:^|(?<=[^{quoted}])){quoted}[ \t]*$")
    found: list[Instruction] = []
    pending = ""
    waiting = iter(rows)
    for row in waiting:
        if not row.strip() or row.lstrip().startswith("#"):
            continue
        line = row if pending else row.lstrip()
        if (end := continued.search(line)) is not None:
            pending += line[: end.start()] or " "
            continue
        found.append(_instruction(pending + line, waiting, escape))
        pending = ""
        if len(found) > MAX_INSTRUCTIONS:
            raise _too_long()
    if pending.strip():
        found.append(_instruction(pending, waiting, escape))
    return found


def _too_long() -> RefusedError:
    return RefusedError(f"A layer has at most {MAX_INSTRUCTIONS} instructions and {MAX_CHARS} characters.")


def _escape(rows: Iterable[str]) -> str:
    """Return the escape character that the directives in the first lines choose."""
    seen: dict[str, str] = {}
    for row in rows:
        match = _DIRECTIVE.fullmatch(row.strip())
        name = match.group(1).lower() if match is not None else ""
        if match is None or name not in _DIRECTIVES or name in seen:
            break
        seen[name] = match.group(2)
    escape = seen.get("escape", ESCAPE)
    if escape not in (ESCAPE, "`"):
        raise RefusedError(f"The directive escape must be a backslash or a backtick, not '{escape[:20]}'.")
    return escape


def _instruction(line: str, rest: Iterator[str], escape: str) -> Instruction:
    """Return the instruction of a whole line; its here-documents are taken from the rows behind it."""
    keyword, text = [*line.split(None, 1), ""][:2]
    match = _WITH_DOCUMENTS.fullmatch(line.strip())
    documents = []
    for document in announced(match.group(1)) if match is not None else ():
        body: list[str] = []
        for row in rest:
            if document.ends_with(row):
                break
            body.append(f"{row}\n")
        else:
            raise RefusedError(f"The here-document {document.name[:100]} has no end: {line[:200]}")
        documents.append(replace(document, text="".join(body)))
    return Instruction(keyword.upper(), text.strip(), tuple(documents), escape)


def flags(text: str) -> tuple[list[tuple[str, str]], str]:
    """Split an instruction's text into its flags, as (name, value), and the rest."""
    found = []
    while (match := _FLAG.match(text)) is not None:
        found.append((match.group(1), match.group(2) or ""))
        text = text[match.end() :]
    return found, text


def expand(text: str, variables: Mapping[str, str], *, escape: str = ESCAPE) -> str:
    """Return `text` with its variables replaced, see `expansion`. Raises RefusedError."""
    try:
        return expansion.expand(text, variables, escape=escape)
    except expansion.ExpansionError as error:
        raise RefusedError(str(error)) from None


def pairs(text: str, variables: Mapping[str, str], *, escape: str = ESCAPE) -> list[tuple[str, str]]:
    """Parse the `NAME=value …` or `NAME value` of ENV and LABEL into (name, value). Raises RefusedError."""
    first, rest = [*text.split(None, 1), "", ""][:2]
    if "=" not in first:
        if not rest:
            raise RefusedError(f"'{text[:100]}' has no value: write NAME=value.")
        return [(first, word(rest.strip(), variables, escape=escape))]
    found = []
    for name, equals, value in (each.partition("=") for each in words(text, variables, escape=escape)):
        if not equals:
            raise RefusedError(f"'{name[:100]}' has no '=': write NAME=value, with quotes around a value with blanks.")
        found.append((name, value))
    return found


def argument_list(text: str) -> list[str] | None:
    """Parse the JSON form of ENTRYPOINT, CMD and SHELL; None when the text is not in that form."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # the latter for brackets in thousands of brackets
        return None
    return found if isinstance(found, list) and all(isinstance(word, str) for word in found) else None


def words(text: str, variables: Mapping[str, str], *, escape: str = ESCAPE) -> list[str]:
    """Split a text at blanks outside of quotes, or parse its JSON form; variables are replaced. Raises RefusedError."""
    listed = argument_list(text)
    if listed is not None:
        return [expand(each, variables, escape=escape) for each in listed]
    return list(_words(text, variables, escape, splits=True))


def word(text: str, variables: Mapping[str, str], *, escape: str = ESCAPE) -> str:
    """Return a text as one word: without its quotes, with its variables replaced. Raises RefusedError."""
    return next(_words(text, variables, escape, splits=False), "")


def commands(text: str, variables: Mapping[str, str]) -> list[list[str]]:
    """Split a RUN line at `&&` and `;` into commands, each a list of words.

    Raises NeedsRootError for what only a shell can tell: pipes, redirections, substitutions, comments, variables that
    are unknown, assignments and the like.
    """
    while (shorter := _BUILDKIT_FLAG.sub("", text)) != text:
        text = shorter
    listed = argument_list(text)
    if listed is not None:
        return [listed]
    text = _COMMAND_V.sub(r"\1", text)
    found: list[list[str]] = [[]]
    for token, is_operator in _tokens(text, variables):
        if not is_operator:
            if token.startswith(_HOME) and found[-1][:1] != ["rm"]:
                raise NeedsRootError(
                    "A word that begins with ~ needs a shell, which the local cloud does not run here."
                )
            found[-1].append(token.removeprefix(_HOME))
        elif token in ("&&", ";"):
            found.append([])
        else:
            raise NeedsRootError(f"'{token}' needs a shell, which the local cloud does not run: use plain commands.")
    return [command for command in found if command]


def _words(text: str, variables: Mapping[str, str], escape: str, *, splits: bool) -> Iterator[str]:
    """Yield words without their quotes; without `splits` blanks do not end a word."""
    found: list[str] | None = None
    position = 0
    while position < len(text):
        here = text[position]
        if here.isspace() and splits:
            if found is not None:
                yield "".join(found)
            found = None
            position += 1
            continue
        found = found if found is not None else []
        if here in "'\"":
            end = _end_of_quote(text, position, escape)
            inner = text[position + 1 : end]
            found.append(inner if here == "'" else _in_double_quotes(inner, variables, escape))
            position = end + 1
        elif here == escape:
            found.append(text[position + 1 : position + 2] or escape)
            position += 2
        elif here == "$":
            end = expansion.end_of_variable(text, position)
            found.append(expand(text[position:end], variables, escape=escape))
            position = end
        else:
            found.append(here)
            position += 1
    if found is not None:
        yield "".join(found)


def _end_of_quote(text: str, start: int, escape: str) -> int:
    position = start + 1
    while position < len(text):
        if text[position] == text[start]:
            return position
        position += 2 if text[position] == escape and text[start] == '"' else 1
    raise RefusedError(f"A quote is not closed in: {text[:200]}")


def _in_double_quotes(text: str, variables: Mapping[str, str], escape: str) -> str:
    expanded = expand(text, variables, escape=escape)
    return re.sub(rf'{re.escape(escape)}(["{re.escape(escape)}])', r"\1", expanded)


def _tokens(text: str, variables: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Yield a RUN line's words without their quotes as (word, False), and operators as (operator, True).

    `_HOME` precedes a word that begins with an unquoted `~`. Raises NeedsRootError, RefusedError. Not `shlex`: it does
    not say which part of a word was quoted, which decides what a shell would expand.
    """
    found: str | None = None
    position = 0
    while position < len(text):
        match = _IN_SHELL.match(text, position)
        if match is None:
            raise NeedsRootError(f"A quote is not closed in: {text[:200]}")
        if match.lastgroup != "single" and _SUBSTITUTION.search(text, match.start(), match.end() + 1):
            raise NeedsRootError(
                "Command substitution needs a shell, which the local cloud does not run: write out the words."
            )
        position = match.end()
        if match.lastgroup in ("blank", "operator"):
            if found is not None:
                yield found, False
            found = None
            if match.lastgroup == "operator":
                yield match.group(), True
        else:
            if found is None and match.group().startswith("#"):
                raise NeedsRootError("A comment needs a shell, which the local cloud does not run here: leave it out.")
            found = found if found is not None else _HOME * match.group().startswith("~")
            found += _unquoted(match, variables)
    if found is not None:
        yield found, False


def _unquoted(match: "re.Match[str]", variables: Mapping[str, str]) -> str:
    match match.lastgroup:
        case "single":
            return match.group("single")
        case "double":
            return _in_double_quotes(match.group("double"), _KnownVariables(variables), ESCAPE)
        case _:
            return re.sub(r"\\(.)", r"\1", expand(match.group(), _PlainVariables(variables)))


class _KnownVariables(dict[str, str]):
    """Variables of a RUN line; a shell may know others, such as HOME and PWD."""

    def get(self, name: str, default: object = None) -> str:
        del default
        if name not in self:
            raise NeedsRootError(f"The variable {name[:100]} needs a shell, which the local cloud does not run here.")
        return self[name]


class _PlainVariables(_KnownVariables):
    """Variables outside of quotes, whose values a shell would split into words or take as patterns of files."""

    def get(self, name: str, default: object = None) -> str:
        value = super().get(name, default)
        if not value or _SPLIT.search(value):
            raise NeedsRootError(f"The value of {name[:100]} needs a shell, which the local cloud does not run here.")
        return value
