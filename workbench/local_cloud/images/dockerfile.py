"""Takes Dockerfile text apart: instructions, variables, argument lists, and the commands of a RUN line.

Pure text work. What cannot be read raises `RefusedError`; nothing here decides what is allowed.
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
    """What an image asks for cannot be had here; the message says why, and what to do, in sentences."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: its keyword in capitals, and the text behind it on one line."""

    keyword: str
    text: str

    def __str__(self) -> str:
        return f"{self.keyword} {self.text}"


def instructions(lines: Iterable[str]) -> list[Instruction]:
    """Join continued lines, drop comments, and split off the keywords. Raises RefusedError."""
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
        raise RefusedError(f"Here-documents are not interpreted by the local cloud. The step was: {line[:200]}")
    return Instruction(keyword.upper(), text.strip())


def expand(text: str, variables: Mapping[str, str]) -> str:
    r"""Replace $NAME, ${NAME}, ${NAME:-word} and ${NAME:+word}; an unknown name is empty, `\$` is a dollar sign."""

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
    """Read the `NAME=value …` or `NAME value` of ENV, ARG and LABEL. Raises RefusedError."""
    first, _, rest = text.partition(" ")
    if "=" not in first:
        return [(first, expand(rest.strip(), variables))]
    return [(name, value) for name, _, value in (word.partition("=") for word in _plain_words(text, variables))]


def argument_list(text: str) -> list[str] | None:
    """Read the JSON form of ENTRYPOINT, CMD and SHELL; None when the text is not in that form."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, list) and all(isinstance(word, str) for word in found) else None


def words(text: str, variables: Mapping[str, str]) -> list[str]:
    """Split at blanks, honouring quotes, or read the JSON form. Raises RefusedError."""
    listed = argument_list(text)
    return listed if listed is not None else _plain_words(text, variables)


def commands(text: str, variables: Mapping[str, str]) -> list[list[str]]:
    """Split a RUN line at `&&` and `;` into the words of its commands. Raises RefusedError.

    No shell is ever asked: pipes, redirections, substitutions and the like cannot be read, and so are refused.
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
            raise RefusedError(f"'{token}' is shell, which the local cloud does not run on this machine.")
    return [command for command in found if command]


def _plain_words(text: str, variables: Mapping[str, str]) -> list[str]:
    return [token for token, _ in _tokens(_IN_WORDS, text, variables)]


def _tokens(pattern: "re.Pattern[str]", text: str, variables: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Yield words without their quotes, and operators, each with whether it is one.

    `shlex` forgets which part of a word was quoted, and with it what a shell would expand.
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
            raise RefusedError("Command substitution is shell, which the local cloud does not run on this machine.")
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
