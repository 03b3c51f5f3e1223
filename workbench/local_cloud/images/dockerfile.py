"""Parses Dockerfile text: instructions, variables, argument lists, and the commands of a RUN line.

Text that cannot be parsed raises `RefusedError`. What is allowed in a layer is decided in `steps.py`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

MAX_INSTRUCTIONS = 1000
MAX_CHARS = 1 << 20
_VARIABLE = re.compile(r"\\\$|\$(?:(\w+)|\{(\w+)(?::([-+])([^}]*))?\})", re.ASCII)
_QUOTED = r"""'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)\""""
_IN_WORDS = re.compile(r"(?P<blank>\s+)|" + _QUOTED + r"""|(?P<bare>(?:[^\s'"\\]|\\.)+)""")
_IN_SHELL = re.compile(
    r"(?P<blank>\s+)|(?P<operator>[();<>|&]+)|" + _QUOTED + r"""|(?P<bare>(?:[^\s'"\\();<>|&]|\\.)+)"""
)
_SUBSTITUTION = re.compile(r"`|\$\(")
_COMMAND_V = re.compile(r"\$\(command -v ([\w.-]+)\)")
_BUILDKIT_FLAG = re.compile(r"^--(?:mount|network|security)=\S+\s*")


class RefusedError(Exception):
    """An image asks for something that this cloud cannot build; the message says why and what to do, in sentences."""


class NeedsRootError(RefusedError):
    """An image asks for something that needs a root file system of its own; the message is that of a refusal."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: its keyword in capitals, and the text after it on one line."""

    keyword: str
    text: str

    def __str__(self) -> str:
        return f"{self.keyword} {self.text}"


def instructions(lines: Iterable[str]) -> list[Instruction]:
    """Return the instructions of Dockerfile lines: continued lines joined, comments removed. Raises RefusedError."""
    found: list[Instruction] = []
    pending = ""
    size = 0
    for line in "\n".join(lines).splitlines():
        size += len(line)
        if size > MAX_CHARS or len(found) >= MAX_INSTRUCTIONS:
            raise RefusedError(f"A layer has at most {MAX_INSTRUCTIONS} instructions and {MAX_CHARS} characters.")
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if stripped.endswith("\\"):
            pending += stripped[:-1].rstrip() + " "
            continue
        found.append(_instruction(pending + stripped))
        pending = ""
    if pending.strip():
        found.append(_instruction(pending))
    return found


def _instruction(line: str) -> Instruction:
    keyword, text = [*line.split(None, 1), ""][:2]
    if re.search(r"<<-?[\"']?\w", text) and keyword.upper() in ("RUN", "COPY", "ADD"):
        raise RefusedError(
            f"Here-documents are not implemented by the local cloud: use a RUN per command. The step was: {line[:200]}"
        )
    return Instruction(keyword.upper(), text.strip())


def expand(text: str, variables: Mapping[str, str]) -> str:
    r"""Return `text` with $NAME, ${NAME}, ${NAME:-word} and ${NAME:+word} replaced; unknown names are empty.

    `\$` becomes a dollar sign.
    """

    def value(match: "re.Match[str]") -> str:
        if match.group() == r"\$":
            return "$"
        known = variables.get(match.group(1) or match.group(2), "")
        match match.group(3):
            case "-":
                return known or match.group(4)
            case "+":
                return match.group(4) if known else ""
            case _:
                return known

    return _VARIABLE.sub(value, text)


def pairs(text: str, variables: Mapping[str, str]) -> list[tuple[str, str]]:
    """Parse the `NAME=value …` or `NAME value` of ENV, ARG and LABEL into (name, value). Raises RefusedError."""
    first, _, rest = text.partition(" ")
    if "=" not in first:
        return [(first, expand(rest.strip(), variables))]
    return [(name, value) for name, _, value in (word.partition("=") for word in _plain_words(text, variables))]


def argument_list(text: str) -> list[str] | None:
    """Parse the JSON form of ENTRYPOINT, CMD and SHELL; None when the text is not in that form."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, list) and all(isinstance(word, str) for word in found) else None


def words(text: str, variables: Mapping[str, str]) -> list[str]:
    """Split a text at blanks outside of quotes, or parse its JSON form. Raises RefusedError."""
    listed = argument_list(text)
    return listed if listed is not None else _plain_words(text, variables)


def commands(text: str, variables: Mapping[str, str]) -> list[list[str]]:
    """Split a RUN line at `&&` and `;` into commands, each a list of words.

    Raises RefusedError for pipes, redirections, substitutions and the like: no shell runs the line.
    """
    while (shorter := _BUILDKIT_FLAG.sub("", text)) != text:
        text = shorter
    listed = argument_list(text)
    if listed is not None:
        return [listed]
    text = _COMMAND_V.sub(r"\1", text)
    found: list[list[str]] = [[]]
    for token, is_operator in _tokens(_IN_SHELL, text, variables):
        if not is_operator:
            found[-1].append(token)
        elif token in ("&&", ";"):
            found.append([])
        else:
            raise NeedsRootError(f"'{token}' needs a shell, which the local cloud does not run: use plain commands.")
    return [command for command in found if command]


def _plain_words(text: str, variables: Mapping[str, str]) -> list[str]:
    return [token for token, _ in _tokens(_IN_WORDS, text, variables)]


def _tokens(pattern: "re.Pattern[str]", text: str, variables: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Yield words without their quotes as (word, False), and operators as (operator, True). Raises RefusedError.

    Not `shlex`: it does not say which part of a word was quoted, which decides what a shell would expand.
    """
    word: str | None = None
    position = 0
    while position < len(text):
        match = pattern.match(text, position)
        if match is None:
            raise RefusedError(f"A quote is not closed in: {text[:200]}")
        if (
            pattern is _IN_SHELL
            and match.lastgroup != "single"
            and _SUBSTITUTION.search(text, match.start(), match.end() + 1)
        ):
            raise NeedsRootError(
                "Command substitution needs a shell, which the local cloud does not run: write out the words."
            )
        position = match.end()
        if match.lastgroup in ("blank", "operator"):
            if word is not None:
                yield word, False
            word = None
            if match.lastgroup == "operator":
                yield match.group(), True
        else:
            word = (word or "") + _unquoted(match, variables)
    if word is not None:
        yield word, False


def _unquoted(match: "re.Match[str]", variables: Mapping[str, str]) -> str:
    match match.lastgroup:
        case "single":
            return match.group("single")
        case "double":
            return re.sub(r'\\(["\\])', r"\1", expand(match.group("double"), variables))
        case _:
            return re.sub(r"\\(.)", r"\1", expand(match.group(), variables))
