"""Names of images mean what they mean to Docker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.local_cloud.base.errors import Reason
from workbench.local_cloud.registry.errors import RegistryError
from workbench.local_cloud.registry.references import ImageReference

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "domain", "path", "tag", "digest"),
    [
        ("alpine", "docker.io", "library/alpine", "latest", None),
        ("alpine:3.19", "docker.io", "library/alpine", "3.19", None),
        ("docker.io/alpine", "docker.io", "library/alpine", "latest", None),
        ("index.docker.io/library/alpine", "docker.io", "library/alpine", "latest", None),
        ("bitnami/redis:7", "docker.io", "bitnami/redis", "7", None),
        (f"ghcr.io/a/b@{DIGEST}", "ghcr.io", "a/b", None, DIGEST),
        (f"ghcr.io/a/b:1.0@{DIGEST}", "ghcr.io", "a/b", "1.0", DIGEST),
        (f"alpine@{DIGEST}", "docker.io", "library/alpine", None, DIGEST),
        ("localhost/x", "localhost", "x", "latest", None),
        ("localhost:5000/x", "localhost:5000", "x", "latest", None),
        ("localhost:5000/x:y", "localhost:5000", "x", "y", None),
        ("127.0.0.1:5000/a/b/c:1", "127.0.0.1:5000", "a/b/c", "1", None),
        ("[::1]:5000/x", "[::1]:5000", "x", "latest", None),
        ("[fd00:1::2]/x:1", "[fd00:1::2]", "x", "1", None),
        ("registry:5000/x", "registry:5000", "x", "latest", None),
        ("registry/x", "docker.io", "registry/x", "latest", None),
        ("MyHost/x", "MyHost", "x", "latest", None),
        ("nvcr.io/nvidia/pytorch:22.12-py3", "nvcr.io", "nvidia/pytorch", "22.12-py3", None),
        ("a/b__c.d-e---f_g", "docker.io", "a/b__c.d-e---f_g", "latest", None),
        ("x:_Tag.1-A", "docker.io", "library/x", "_Tag.1-A", None),
        ("x:" + "t" * 128, "docker.io", "library/x", "t" * 128, None),
        ("xn--bcher-kva.example/x", "xn--bcher-kva.example", "x", "latest", None),
    ],
)
def test_a_name_is_completed_as_docker_does_it(
    text: str, domain: str, path: str, tag: str | None, digest: str | None
) -> None:
    assert ImageReference.parse(text) == ImageReference(domain, path, tag, digest)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "1 to 1024"),
        ("https://ghcr.io/a/b", "leave out the scheme"),
        ("docker://alpine", "leave out the scheme"),
        ("Alpine", "lower case"),
        ("ghcr.io/A/b", "lower case"),
        ("alpine:", "no valid tag"),
        ("alpine:.x", "no valid tag"),
        ("alpine:-x", "no valid tag"),
        ("alpine:a b", "no valid tag"),
        ("alpine:" + "t" * 129, "no valid tag"),
        ("alpine@", "no digest"),
        ("alpine@sha256:abc", "no digest"),
        ("alpine@sha256:" + "AB" * 32, "no digest"),
        ("alpine@md5:" + "ab" * 16, "algorithm 'md5'"),
        ("alpine@sha512:" + "ab" * 64, "algorithm 'sha512'"),
        ("a//b", "parted by '/'"),
        ("/a", "parted by"),
        ("a/", "parted by '/'"),
        ("a/..", "parted by '/'"),
        ("../a", "no host name"),
        ("a/b/../c", "parted by '/'"),
        ("a___b", "parted by '/'"),
        ("a..b", "parted by '/'"),
        ("-a", "parted by '/'"),
        ("a b", "parted by '/'"),
        ("a\nb", "parted by '/'"),
        ("al\N{LATIN SMALL LETTER I WITH DIAERESIS}pine", "ASCII"),
        ("host_.x/a", "no host name"),
        ("-host.x/a", "no host name"),
        ("host:port/a", "no host name"),
        ("host:0/a", "no host name"),
        ("host:70000/a", "no host name"),
        ("user:pass@host.x/a", "no digest"),
        ("ab" * 32, "identifier of an image"),
        ("a" * 256, "too long"),
        ("x" * 2000, "1 to 1024"),
        ("a?b=c", "parted by '/'"),
        ("a#b", "parted by '/'"),
        ("a%2fb", "parted by '/'"),
    ],
)
def test_what_is_no_name_is_refused_with_the_reason(text: str, reason: str) -> None:
    """Such a name must never come into the address of a request."""
    with pytest.raises(RegistryError) as refusal:
        ImageReference.parse(text)
    assert refusal.value.reason is Reason.INVALID_ARGUMENT
    assert reason in refusal.value.message


@given(st.text(max_size=80) | st.text("aB1.:/@-_[]", max_size=40))
def test_any_text_is_a_name_that_reads_back_or_is_refused(text: str) -> None:
    try:
        reference = ImageReference.parse(text)
    except RegistryError:
        return
    assert ImageReference.parse(str(reference)) == reference


@pytest.mark.parametrize("text", ["alpine", "localhost:5000/a/b:c", f"ghcr.io/a@{DIGEST}", f"ghcr.io/a:b@{DIGEST}"])
def test_a_name_is_told_in_full(text: str) -> None:
    reference = ImageReference.parse(text)
    assert str(reference).endswith(text) or str(reference) == f"docker.io/library/{text}:latest"
    assert reference.version == (DIGEST if "@" in text else reference.tag)
