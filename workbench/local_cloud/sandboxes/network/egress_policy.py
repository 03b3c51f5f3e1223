"""Egress policies: which hosts a sandbox may connect to, by Modal's rules. All, none, or an allowlist. No I/O here.

An allowlist has address ranges, allowed at every port, and domains, allowed at port 443 only. No policy allows
addresses of this machine or near it (private, loopback, link-local with cloud metadata, multicast, reserved). Addresses
of this cloud's own web functions (127.0.0.1:PORT) may be among the domains: `web_function_access` handles those, and
this policy refuses them as it does any loopback address.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Literal

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

TLS_PORT = 443
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_WEB_ADDRESS = re.compile(r"127\.0\.0\.1:([1-9][0-9]{0,4})")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_NAT64 = IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # IANA has assigned no other range; fec0::/10, for one, is site-local
# In addition to what `ipaddress` knows, which differs between versions of Python.
_NEARBY: tuple[Network, ...] = (
    IPv4Network("192.0.0.0/24"),  # port control by anycast is the nearest router; Oracle's metadata is at .192
    IPv4Network("192.88.99.0/24"),  # the nearest 6to4 relay
    IPv4Network("168.63.129.16/32"),  # Azure's platform on every machine there
    IPv6Network("3fff::/20"),  # documentation
)


@dataclass(frozen=True)
class Allowed:
    """The connection may be made, to these addresses only."""

    addresses: tuple[Address, ...]


@dataclass(frozen=True)
class Refused:
    """The connection may not be made; `reason` is for the sandbox's log."""

    reason: str


@dataclass(frozen=True)
class EgressPolicy:
    """What one sandbox may connect to. Made by `open`, `blocked` or `allowlist`."""

    kind: Literal["open", "blocked", "allowlist"]
    cidrs: tuple[Network, ...] = ()
    domains: tuple[str, ...] = ()
    web_ports: tuple[int, ...] = ()

    @classmethod
    def open(cls) -> "EgressPolicy":
        """Return the policy that allows every public address."""
        return cls("open")

    @classmethod
    def blocked(cls) -> "EgressPolicy":
        """Return the policy that allows nothing."""
        return cls("blocked")

    @classmethod
    def allowlist(cls, cidrs: Sequence[str], domains: Sequence[str]) -> "EgressPolicy":
        """Return a policy that allows address ranges, and domains and addresses of web functions in `domains`.

        Raises ValueError, which names the value that is invalid.
        """
        ports = {value: int(found[1]) for value in domains if (found := _WEB_ADDRESS.fullmatch(value))}
        return cls(
            "allowlist",
            tuple(_cidr(value) for value in cidrs),
            tuple(_domain(value) for value in domains if value not in ports),
            tuple(dict.fromkeys(ports.values())),
        )

    def before_resolving(self, host: str, port: int) -> Refused | None:
        """Decide by host name and port alone; returns None when the addresses must decide.

        It is asked before a name is resolved, because a DNS query already sends the name out, and data in it. With
        address ranges on the allowlist every name must be resolved, since it may lead to one of them.
        """
        if self.kind == "blocked":
            return Refused("the sandbox has no network")
        if self.kind == "open" or self.cidrs or (port == TLS_PORT and self._names(host)):
            return None
        return Refused("it is not on the allowlist")

    def verdict(
        self, host: str, port: int, addresses: Sequence[Address], *, test_networks: Sequence[Network] = ()
    ) -> Allowed | Refused:
        """Decide by host name, port and the addresses that the name resolves to.

        `test_networks` are exceptions from the rule that addresses near this machine are refused, for tests.
        """
        if (refused := self.before_resolving(host, port)) is not None:
            return refused
        if not addresses:
            return Refused("it has no address")
        public = [
            address
            for address in addresses
            if is_public(address) or any(address in network for network in test_networks)
        ]
        if not public:
            return Refused("it is an address of this machine or a private network")
        if self.kind == "open" or (port == TLS_PORT and self._names(host)):
            return Allowed(tuple(public))
        listed = [address for address in public if any(address in cidr for cidr in self.cidrs)]
        return Allowed(tuple(listed)) if listed else Refused("it is not on the allowlist")

    def _names(self, host: str) -> bool:
        name = host.lower().rstrip(".")
        if ":" in name or _NUMBER.fullmatch(name.rpartition(".")[2]):
            return False  # an address (for the resolver also 0x7f.1): only an address range can allow it
        return any(
            domain == "*" or name == domain or (domain.startswith("*.") and name.endswith(domain[1:]))
            for domain in self.domains
        )


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet; an IPv4 address inside of an IPv6 address decides for it."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address not in _GLOBAL_UNICAST:
            return False
    if any(address in network for network in _NEARBY):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _cidr(value: str) -> Network:
    try:
        return ip_network(value)
    except ValueError:
        raise ValueError(f"Invalid CIDR: {value[:100]} (a range is like 203.0.113.0/24)") from None


def _domain(value: str) -> str:
    wrong = ValueError(f"Invalid domain: {value[:100]} (a domain is like example.com or *.example.com)")
    if value == "*":
        return value
    prefix, name = ("*.", value[2:]) if value.startswith("*.") else ("", value)
    try:
        name = name.removesuffix(".").lower().encode("idna").decode()
    except UnicodeError:
        raise wrong from None
    labels = name.split(".")
    if len(name) > 253 or len(labels) < 2 or not all(_LABEL.fullmatch(label) for label in labels):
        raise wrong
    if _NUMBER.fullmatch(labels[-1]):
        raise wrong  # an address
    return prefix + name
