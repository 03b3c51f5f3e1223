"""WWW-Authenticate headers are read by their grammar: a comma in a quoted text parts nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.local_cloud.registry.challenges import read_challenges

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'


@pytest.mark.parametrize(
    ("headers", "challenges"),
    [
        (
            [HUB],
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        (['Basic realm="x"'], [("basic", {"realm": "x"})]),
        (['BASIC  Realm = "x" , Charset=UTF-8'], [("basic", {"realm": "x", "charset": "UTF-8"})]),
        (['Basic realm="a, \\"b\\" = c"'], [("basic", {"realm": 'a, "b" = c'})]),
        (
            ['Basic realm="x", Bearer realm="y",service=z'],
            [("basic", {"realm": "x"}), ("bearer", {"realm": "y", "service": "z"})],
        ),
        (['Basic realm="x"', 'Bearer realm="y"'], [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
        (["Negotiate"], [("negotiate", {})]),
        (["Negotiate YWJj==, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (["Negotiate, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        ([', ,Basic realm="x",,'], [("basic", {"realm": "x"})]),
        (['Bearer realm="unended'], [("bearer", {})]),
        ([""], []),
        ([], []),
    ],
)
def test_challenges(headers: list[str], challenges: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, dict(one.parameters)) for one in read_challenges(headers)] == challenges


@given(st.text(max_size=200) | st.text('Basic realm="x\\",= Bearer', max_size=200))
def test_any_header_is_read_to_an_end(header: str) -> None:
    read_challenges([header])
