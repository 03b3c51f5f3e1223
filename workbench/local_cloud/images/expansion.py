"""Replaces the variables of a Dockerfile's words as Docker does, which knows most of a shell's forms.

Pure text: quotes are the caller's part, and no command is ever run.
"""

import fnmatch
import re
from collections.abc import Callable, Mapping

MAX_CHARS = 1 << 20  # of a result: a word may name a long variable many times
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]", re.ASCII)
_OPERATOR = re.compile(r":[-+?]|[-+?]|##?|%%?|//?")
_MAX_DEPTH = 20


class ExpansionError(Exception):
    """A variable cannot be replaced; the message is a sentence."""


def expand(text: str, variables: Mapping[str, str], *, escape: str = "\\", _depth: int = 0) -> str:
    r"""Return `text` with its variables replaced; unknown ones are empty, and `\$` becomes a dollar sign.

    The forms are $A, ${A}, ${A-x}, ${A+x}, ${A?x}, each also with a colon, ${A#x}, ${A##x}, ${A%x}, ${A%%x}, ${A/x/y}
    and ${A//x/y}. What is none of them stays as it is. Raises ExpansionError.
    """
    if _depth > _MAX_DEPTH:
        raise ExpansionError(f"Variables are nested more than {_MAX_DEPTH} times in: {text[:100]}")
    found: list[str] = []
    size = position = 0
    while position < len(text):
        start = position
        if text.startswith(f"{escape}$", position):
            part, position = "$", position + 2
        elif text[position] == "$":
            part, position = _variable(text, position, variables, escape, _depth)
        else:
            part, position = text[start], position + 1
        found.append(part)
        size += len(part)
        if size > MAX_CHARS:
            raise ExpansionError(f"A word has at most {MAX_CHARS} characters when its variables are replaced.")
    return "".join(found)


def end_of_variable(text: str, position: int) -> int:
    """Return where the variable ends that begins with the dollar sign at `position`; one further if there is none."""
    if text.startswith("${", position):
        depth = 0
        for index in range(position, len(text)):
            if text.startswith("${", index):
                depth += 1
            elif text[index] == "}":
                depth -= 1
                if depth == 0:
                    return index + 1
        return position + 1
    name = _NAME.match(text, position + 1)
    return name.end() if name is not None else position + 1


def _variable(text: str, position: int, variables: Mapping[str, str], escape: str, depth: int) -> tuple[str, int]:
    end = end_of_variable(text, position)
    if not text.startswith("${", position):
        return (variables.get(text[position + 1 : end], "") if end > position + 1 else "$"), end
    name = _NAME.match(text, position + 2)
    if end == position + 1 or name is None:
        return "$", position + 1
    value = variables.get(name.group())
    rest = text[name.end() : end - 1]
    if not rest:
        return value or "", end
    operator = _OPERATOR.match(rest)
    if operator is None:
        return "$", position + 1

    def word(raw: str) -> str:
        return expand(raw, variables, escape=escape, _depth=depth + 1)

    return _operated(name.group(), value, operator.group(), rest[operator.end() :], word), end


def _operated(name: str, value: str | None, operator: str, rest: str, word: Callable[[str], str]) -> str:
    known = value is not None and (value != "" or not operator.startswith(":"))
    match operator[-1]:
        case "-":
            return value or "" if known else word(rest)
        case "+":
            return word(rest) if known else ""
        case "?":
            if not known:
                raise ExpansionError(f"The variable {name} has no value: {word(rest) or 'it must have one'}.")
            return value or ""
        case "/":
            pattern, _, new = rest.partition("/")
            return _replaced(value or "", word(pattern), word(new), everywhere=operator == "//")
        case _:
            return _shortened(value or "", operator, word(rest))


def _shortened(value: str, operator: str, pattern: str) -> str:
    matches = re.compile(fnmatch.translate(pattern)).match
    sizes = range(len(value) + 1)
    for size in sizes if len(operator) == 1 else reversed(sizes):
        part = value[:size] if operator[0] == "#" else value[len(value) - size :]
        if matches(part):
            return value[size:] if operator[0] == "#" else value[: len(value) - size]
    return value


def _replaced(value: str, pattern: str, new: str, *, everywhere: bool) -> str:
    if not pattern:
        return value
    translated = fnmatch.translate(pattern).removesuffix(r"\Z").removesuffix(r"\z")
    return re.sub(translated, lambda _: new, value, count=0 if everywhere else 1)
