"""Small files that only their owner can read. They hold this machine's copies of secrets."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path


def read(path: Path) -> dict[str, object]:
    """The JSON object in a file; empty when the file does not exist. Raises OSError; ValueError when it is not JSON."""
    try:
        found: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def write(path: Path, values: Mapping[str, object]) -> None:
    """Write an object as JSON, as `write_text` does. Raises OSError."""
    write_text(path, json.dumps(values))


def write_text(path: Path, text: str) -> None:
    """Write a file of mode 0600, in place of an old one, atomically; what fails leaves nothing. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
