"""File modes as COPY and ADD take them: octal digits, or the symbols of chmod, such as `u=rwX,go=rX`.

As Docker's builder reads them since Dockerfile syntax 1.14: no umask takes part, and `X` looks at the mode before.
"""

import re
import stat

_OCTAL = re.compile(r"0*[0-7]{1,4}", re.ASCII)
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)", re.ASCII)
_ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)", re.ASCII)
_MAX_CHARS = 200
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}
_SPECIAL = {"u": stat.S_ISUID, "g": stat.S_ISGID, "o": stat.S_ISVTX}
_ANY_X = 0o111


def is_mode(text: str) -> bool:
    """Whether a text is a mode."""
    if _OCTAL.fullmatch(text):
        return True
    return len(text) <= _MAX_CHARS and all(map(_CLAUSE.fullmatch, text.split(",")))


def applied(text: str, mode: int, *, is_directory: bool) -> int:
    """Return the permission bits that a file with `mode` gets; `text` is a mode, see `is_mode`."""
    if _OCTAL.fullmatch(text):
        return int(text, 8)
    before, found = mode, mode
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        assert match is not None
        who = "ugo" if not match.group(1) or "a" in match.group(1) else match.group(1)
        for action, what in _ACTION.findall(match.group(2)):
            bits = 0
            for one in who:
                bits |= _permissions(what, found, executes=is_directory or bool(before & _ANY_X)) << _SHIFTS[one]
                bits |= _SPECIAL[one] if "s" in what and one in "ug" else 0
            bits |= stat.S_ISVTX if "t" in what and "o" in who else 0
            if action == "=":
                found &= ~sum(0o7 << _SHIFTS[one] | _SPECIAL[one] for one in set(who))
            found = found & ~bits if action == "-" else found | bits
    return found


def _permissions(what: str, mode: int, *, executes: bool) -> int:
    """Return the three bits that letters stand for; a user, group or other stands for what it has in `mode`."""
    if what in _SHIFTS:
        return mode >> _SHIFTS[what] & 0o7
    found = sum(bit for letter, bit in _BITS.items() if letter in what)
    return found | 1 if "X" in what and executes else found
