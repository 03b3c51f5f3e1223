"""The names of images, by Docker's rules: registry, repository, tag and digest of a text such as `alpine:3.19`.

The grammar is that of the distribution project's reference documentation. Does no I/O.
"""

import re
from dataclasses import dataclass

from workbench.local_cloud.registry.digests import check_digest
from workbench.local_cloud.registry.errors import refused

DOCKER_HUB = "docker.io"
_DOCKER_HUB_OF_OLD = "index.docker.io"
_OFFICIAL = "library/"
_NAME_BYTES = 255
_TEXT_BYTES = 1024

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}")
_IDENTIFIER = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ImageReference:
    """An image in a registry. With a digest, that decides, and a tag beside it is a note for people."""

    domain: str  # with its port
    path: str
    tag: str | None
    digest: str | None

    @classmethod
    def parse(cls, text: str) -> "ImageReference":
        """Take a name apart and complete it as Docker does. Raises RegistryError INVALID_ARGUMENT."""
        shown = repr(text[:200])
        if not text or len(text) > _TEXT_BYTES or not text.isascii():
            raise refused(f"{shown} is no image name: it has 1 to {_TEXT_BYTES} ASCII characters, such as alpine:3.19.")
        if "://" in text:
            raise refused(f"{shown} is no image name: leave out the scheme ('{text.partition('://')[0][:20]}://').")
        name, at, digest = text.partition("@")
        if at:
            check_digest(digest)
        name, tag = _without_tag(name)
        if tag is not None and not _TAG.fullmatch(tag):
            raise refused(
                f"{shown} has no valid tag after its colon: letters, digits, '_', '.' and '-', at most 128 of them, "
                "the first no '.' or '-'."
            )
        if _IDENTIFIER.fullmatch(name):
            raise refused(f"{shown} is the identifier of an image, which no registry knows by it: give its name.")
        domain, path = _split(name)
        if not is_domain(domain):
            raise refused(f"{shown} names no valid registry: {domain[:100]!r} is no host name with an optional port.")
        if not is_path(path):
            lower = ", in lower case" if path.lower() != path else ""
            raise refused(
                f"{shown} is no image name: {path[:100]!r} must be made of letters and digits{lower}, parted by '/', "
                "and within by one '.', one or two '_' or any number of '-'."
            )
        if len(domain) + 1 + len(path) > _NAME_BYTES:
            raise refused(f"{shown} is too long: registry and name have at most {_NAME_BYTES} characters.")
        return cls(domain, path, tag if tag or at else "latest", digest if at else None)

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.domain}/{self.path}"

    @property
    def version(self) -> str:
        """What a registry is asked for: the digest, or else the tag."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}{f'@{self.digest}' if self.digest else ''}"


def is_domain(text: str) -> bool:
    """Whether a text is a host as names of images have it, with a port or without."""
    return bool(_DOMAIN.fullmatch(text)) and _port_is_possible(text)


def is_path(text: str) -> bool:
    """Whether a text is a repository, or the beginning of one."""
    return bool(_PATH.fullmatch(text))


def _without_tag(name: str) -> tuple[str, str | None]:
    """Part a name from its tag; a colon before the last slash belongs to the port."""
    head, colon, tail = name.rpartition(":")
    return (head, tail) if colon and "/" not in tail else (name, None)


def _split(name: str) -> tuple[str, str]:
    """Part the registry from the repository: the first component is a registry when it looks like a host."""
    first, slash, rest = name.partition("/")
    is_host = "." in first or ":" in first or first == "localhost" or first.lower() != first
    domain, path = (first, rest) if slash and is_host else (DOCKER_HUB, name)
    if domain == _DOCKER_HUB_OF_OLD:
        domain = DOCKER_HUB
    return domain, f"{_OFFICIAL}{path}" if domain == DOCKER_HUB and "/" not in path else path


def _port_is_possible(domain: str) -> bool:
    _, colon, port = domain.rpartition(":")
    return not colon or domain.endswith("]") or 0 < int(port[:6]) < 65536
