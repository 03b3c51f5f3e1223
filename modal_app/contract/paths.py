"""Paths in a workspace: relative, canonical, bounded. A path that passes here cannot name anything outside its project.

This says nothing about symbolic links: code that opens a path must also refuse to follow them.
"""

import re
from typing import Annotated

from pydantic import AfterValidator

from modal_app.contract.caps import MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_PATH_DEPTH

_RESERVED = re.compile(r"\.workbench-[0-9a-f]{12}")  # for what a change of files puts away until it is final


def check_path(path: str) -> str:
    """Return the path unchanged; raises ValueError, which says what is wrong with it."""
    if not path:
        raise ValueError("a path may not be empty")
    if path.startswith("/"):
        raise ValueError("a path must be relative to the workspace")
    if any(character < " " or character == "\x7f" for character in path):
        raise ValueError("a path may not contain control characters")
    encoded = path.encode()
    if len(encoded) > MAX_PATH_BYTES:
        raise ValueError(f"the path has {len(encoded)} bytes, and may have at most {MAX_PATH_BYTES}")
    parts = encoded.split(b"/")
    if any(part in (b"", b".", b"..") for part in parts):
        raise ValueError("a path may not contain the components '.' and '..', or empty ones")
    if len(parts) > MAX_PATH_DEPTH:
        raise ValueError(f"the path has {len(parts)} components, and may have at most {MAX_PATH_DEPTH}")
    if _RESERVED.fullmatch(path.split("/")[0]):
        raise ValueError("names that begin with .workbench- and 12 hexadecimal digits are reserved")
    if (longest := max(map(len, parts))) > MAX_NAME_BYTES:
        raise ValueError(f"a name in the path has {longest} bytes, and may have at most {MAX_NAME_BYTES}")
    return path


WorkspacePath = Annotated[str, AfterValidator(check_path)]
"""A checked path, `/`-separated, relative to the workspace."""
