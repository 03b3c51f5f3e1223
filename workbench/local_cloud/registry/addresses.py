"""Where a registry's HTTP interface is: its own host, or the mirror that a setting puts in its place.

Plain HTTP is for loopback alone, since whoever sits in between could read tokens and choose what a tag means.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from workbench.local_cloud.registry.errors import refused
from workbench.local_cloud.registry.references import DOCKER_HUB, ImageReference, is_domain, is_path

_DOCKER_HUB_HOST = "registry-1.docker.io"


@dataclass(frozen=True)
class Address:
    """Where a repository is asked for."""

    base: str  # scheme, host and port, without a slash at the end
    host: str  # host and port, for messages
    repository: str
    is_mirror: bool
    is_loopback: bool


def address_of(reference: ImageReference, mirrors: Mapping[str, str]) -> Address:
    """Return where to ask for an image. `mirrors` has an address (`host[:port][/prefix]`) for each registry's name.

    Raises RegistryError INVALID_ARGUMENT for a mirror that is not such an address.
    """
    mirror = mirrors.get(reference.domain)
    if mirror is None:
        host = _DOCKER_HUB_HOST if reference.domain == DOCKER_HUB else reference.domain
        loopback = is_loopback(_host_only(host))
        return Address(f"{'http' if loopback else 'https'}://{host}", host, reference.path, False, loopback)
    return _mirror(reference, mirror)


def _mirror(reference: ImageReference, mirror: str) -> Address:
    wrong = f"The mirror for {reference.domain} must be an address such as https://mirror.example.com[/prefix]"
    try:
        parts = urlsplit(mirror if "://" in mirror else f"//{mirror}")
        loopback = is_loopback(parts.hostname or "")
    except ValueError:
        raise refused(f"{wrong}.") from None
    scheme = parts.scheme or ("http" if loopback else "https")
    if "@" in parts.netloc:
        raise refused(f"{wrong}, without a user name or password in it.")
    if not is_domain(parts.netloc) or parts.query or parts.fragment or scheme not in ("http", "https"):
        raise refused(f"{wrong}.")
    if scheme == "http" and not loopback:
        raise refused(f"{wrong}: plain http is for mirrors on this machine alone.")
    prefix = parts.path.strip("/")
    if prefix and not is_path(prefix):
        raise refused(f"{wrong}, whose prefix is like the name of an image.")
    repository = f"{prefix}/{reference.path}" if prefix else reference.path
    return Address(f"{scheme}://{parts.netloc}", parts.netloc, repository, True, loopback)


def is_loopback(host: str) -> bool:
    """Whether a host (without a port or brackets) is this machine, by its name alone: nothing is resolved."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback  # Python 3.13 asks so by itself


def _host_only(host: str) -> str:
    return urlsplit(f"//{host}").hostname or ""
