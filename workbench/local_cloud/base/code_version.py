"""Which code a cloud runs. One that was started before an upgrade goes on with the former code, beside new clients."""

import hashlib
from functools import cache
from pathlib import Path

VERSION_HEADER = "x-workbench-version"  # of every answer over HTTP

_ROOT = Path(__file__).parents[1]


@cache
def code_digest() -> str:
    """A digest of the local cloud's sources as they are now on disk; to be asked early by what runs for long."""
    digest = hashlib.sha256()
    for path in sorted(_ROOT.rglob("*.py")):
        digest.update(f"{path.relative_to(_ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
