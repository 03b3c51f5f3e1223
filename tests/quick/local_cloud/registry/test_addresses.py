"""Where a registry is asked: plain HTTP is for this machine alone, and a mirror takes a registry's place."""

import pytest

from workbench.local_cloud.registry.addresses import Address, address_of, is_loopback
from workbench.local_cloud.registry.references import ImageReference


def address(image: str, **mirrors: str) -> Address:
    return address_of(ImageReference.parse(image), {name.replace("_", "."): value for name, value in mirrors.items()})


@pytest.mark.parametrize(
    ("image", "base"),
    [
        ("alpine", "https://registry-1.docker.io"),
        ("ghcr.io/a/b", "https://ghcr.io"),
        ("registry:5000/x", "https://registry:5000"),
        ("192.168.0.1:5000/x", "https://192.168.0.1:5000"),
        ("0.0.0.0:5000/x", "https://0.0.0.0:5000"),
        ("localhost.example.com/x", "https://localhost.example.com"),
        ("127.0.0.1.example.com/x", "https://127.0.0.1.example.com"),
        ("[fd00::1]/x", "https://[fd00::1]"),
        ("localhost/x", "http://localhost"),
        ("localhost:5000/x", "http://localhost:5000"),
        ("127.0.0.1:5000/x", "http://127.0.0.1:5000"),
        ("127.8.9.1/x", "http://127.8.9.1"),
        ("[::1]:5000/x", "http://[::1]:5000"),
        ("[::ffff:7f00:1]/x", "http://[::ffff:7f00:1]"),
    ],
)
def test_plain_http_is_for_loopback_alone(image: str, base: str) -> None:
    found = address(image)
    assert found.base == base
    assert found.is_loopback is base.startswith("http://")
    assert not found.is_mirror


@pytest.mark.parametrize(
    ("mirror", "base", "repository"),
    [
        ("mirror.example", "https://mirror.example", "library/alpine"),
        ("https://mirror.example:8443/", "https://mirror.example:8443", "library/alpine"),
        ("harbor.example/hub", "https://harbor.example", "hub/library/alpine"),
        ("https://harbor.example/a/b/", "https://harbor.example", "a/b/library/alpine"),
        ("localhost:5000", "http://localhost:5000", "library/alpine"),
        ("https://localhost:5000", "https://localhost:5000", "library/alpine"),
        ("http://[::1]:5000/hub", "http://[::1]:5000", "hub/library/alpine"),
    ],
)
def test_a_mirror_takes_the_place_of_its_registry(mirror: str, base: str, repository: str) -> None:
    found = address("alpine", docker_io=mirror, ghcr_io="other.example")
    assert (found.base, found.repository, found.is_mirror) == (base, repository, True)
    assert address("ghcr.io/a/b", docker_io=mirror).base == "https://ghcr.io"


@pytest.mark.parametrize("host", ["", "localhost.", "LOCALHOST", "127.1", "::ffff:10.0.0.1", "0", "example.com"])
def test_only_what_is_surely_this_machine_is_loopback(host: str) -> None:
    assert not is_loopback(host)
