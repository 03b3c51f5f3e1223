"""Addresses that a table of public ranges leaves open, and hosts that only look like names."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.local_cloud.sandboxes.network.egress_policy import Allowed, EgressPolicy, Refused, is_public

_NAT64 = IPv6Network("64:ff9b::/96")
PUBLIC = ip_address("93.184.216.34")
EVERYTHING = EgressPolicy.allowlist(["0.0.0.0/0", "::/0"], ["*"])
NEVER = {
    "site-local": "fec0::1",
    "Oracle's metadata": "192.0.0.192",
    "port control anycast": "192.0.0.9",
    "Azure's metadata": "168.63.129.16",
    "6to4 relay": "192.88.99.1",
    "documentation": "3fff::1",
    "local NAT64": "64:ff9b:1::a9fe:a9fe",
    "IPv4-compatible": "::169.254.169.254",
    "IPv4-translated": "::ffff:0:169.254.169.254",
    "beyond what is given out": "4000::1",
}


@pytest.mark.parametrize("address", NEVER.values(), ids=NEVER.keys())
def test_special_addresses_are_never_dialled(address: str) -> None:
    for policy in (EgressPolicy.open(), EVERYTHING):
        assert isinstance(policy.verdict("name.example", 443, [ip_address(address)]), Refused)


@given(st.ip_addresses(v=4))
def test_an_address_in_another_form_is_no_more_public_than_it_is(inner: IPv4Address) -> None:
    """Mapped, NAT64 and 6to4 carry an IPv4 address to which the packet goes in the end."""
    number = int(inner)
    forms = [0xFFFF << 32 | number, 0x0064FF9B << 96 | number, 0x2002 << 112 | number << 80]
    if not is_public(inner):
        assert not any(is_public(IPv6Address(form)) for form in forms)


@given(st.ip_addresses(v=6))
def test_of_ipv6_only_what_is_given_out_is_public(address: IPv6Address) -> None:
    if is_public(address) and not (address.ipv4_mapped or address in _NAT64):
        assert int(address) >> 125 == 0b001


@pytest.mark.parametrize("host", ["1572395042", "0x5db8d822", "0x5d.0xb8.0xd8.0x22", "93.12113954", "0135.184.216.34"])
def test_an_address_in_another_notation_is_not_a_name(host: str) -> None:
    """The resolver reads them as addresses, so that they need a range and no domain, not even `*`, allows them."""
    assert isinstance(EgressPolicy.allowlist([], ["*"]).verdict(host, 443, [PUBLIC]), Refused)
    assert isinstance(EgressPolicy.allowlist(["93.184.216.34/32"], []).verdict(host, 443, [PUBLIC]), Allowed)


def test_a_name_without_addresses_is_not_called_private() -> None:
    verdict = EgressPolicy.open().verdict("name.example", 443, [])
    assert isinstance(verdict, Refused)
    assert "private" not in verdict.reason
