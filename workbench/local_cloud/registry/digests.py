"""Digests: the names of contents, `sha256:` and 64 hexadecimal digits."""

import hashlib
import re

from workbench.local_cloud.registry.errors import refused

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_ANY = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-zA-Z=_-]{32,}")


def check_digest(text: str) -> str:
    """Return a digest as it is. Raises RegistryError for what is none, and for other algorithms than sha256."""
    if _SHA256.fullmatch(text):
        return text
    if _ANY.fullmatch(text) and not text.startswith("sha256:"):
        raise refused(f"The digest algorithm '{text.partition(':')[0][:40]}' is not known here: use sha256.")
    raise refused(f"{text[:100]!r} is no digest: it is 'sha256:' and 64 hexadecimal digits in lower case.")


def digest_of(data: bytes) -> str:
    """Return the digest of a content."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
