"""Reads WWW-Authenticate headers (RFC 9110, 11.6.1): which ways of authentication a registry takes. Does no I/O."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SCHEME = re.compile(rf"[\s,]*({_WORD})(?:[ \t]+|(?=,)|$)")
_PARAMETER = re.compile(rf'[\s,]*({_WORD})[ \t]*=[ \t]*(?:({_WORD})|"((?:[^"\\]|\\.)*)")[ \t]*(?=,|$)')
_WORD68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*[ \t]*(?=,|$)")
_ESCAPED = re.compile(r"\\(.)")
_HEADER_BYTES = 8192


@dataclass(frozen=True)
class Challenge:
    """One way of authentication: its scheme in lower case, and its parameters by lower-case names."""

    scheme: str
    parameters: Mapping[str, str]


def read_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Return the challenges of all WWW-Authenticate headers of an answer; what cannot be read ends its header."""
    return [challenge for header in headers for challenge in _read(header[:_HEADER_BYTES])]


def _read(header: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = 0
    while begin := _SCHEME.match(header, position):
        position = begin.end()
        parameters: dict[str, str] = {}
        while part := _PARAMETER.match(header, position):
            name, plain, quoted = part.groups()
            parameters[name.lower()] = plain if plain is not None else _ESCAPED.sub(r"\1", quoted)
            position = part.end()
        if not parameters and (token := _WORD68.match(header, position)) and not _SCHEME.match(header, position):
            position = token.end()
        found.append(Challenge(begin[1].lower(), MappingProxyType(parameters)))
    return found
