"""Paths in a workspace: relative, canonical, bounded. A path that passes here cannot name anything outside its project.

Links are another matter: whoever opens a path still refuses to follow them.
"""

from typing import Annotated

from pydantic import AfterValidator

from modal_app.contract.caps import MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_PATH_DEPTH


def check_path(path: str) -> str:
    """Return the path unchanged; raises ValueError with what is wrong with it."""
    if not path:
        raise ValueError("a path may not be empty")
    if path.startswith("/"):
        raise ValueError("a path must be relative to the workspace")
    if any(character < " " or character == "\x7f" for character in path):
        raise ValueError("a path may not hold control characters")
    encoded = path.encode()
    if len(encoded) > MAX_PATH_BYTES:
        raise ValueError(f"a path may be {MAX_PATH_BYTES} bytes long")
    parts = encoded.split(b"/")
    if any(part in (b"", b".", b"..") for part in parts):
        raise ValueError("a path may not hold '.', '..' or empty components")
    if len(parts) > MAX_PATH_DEPTH:
        raise ValueError(f"a path may be {MAX_PATH_DEPTH} components deep")
    if any(len(part) > MAX_NAME_BYTES for part in parts):
        raise ValueError(f"a name may be {MAX_NAME_BYTES} bytes long")
    return path


WorkspacePath = Annotated[str, AfterValidator(check_path)]
"""A checked path, `/`-separated, relative to the workspace."""
