"""What of a request with a connect token is passed on to the sandbox: everything but the token, byte for byte."""

import h11
import pytest

from workbench.local_cloud.sandboxes.network.connect_tokens import PARAMETER, Grant, passed_on, shown_token

OURS = f"{PARAMETER}=secret"


def request(target: str) -> h11.Request:
    return h11.Request(method="GET", target=target, headers=[("Host", "sandbox")])


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (OURS, None),
        (f'prefs={{"a":1}}; {OURS}; x', b'prefs={"a":1}; x'),
        (f"{OURS}; a=b=c; d=\xe9,[]", b"a=b=c; d=\xe9,[]"),
        (f"a=1;{OURS}", b"a=1"),
    ],
)
def test_the_token_is_found_beside_any_cookie_and_the_others_stay(sent: str, kept: bytes | None) -> None:
    asked = h11.Request(method="GET", target="/", headers=[("Host", "x"), (b"Cookie", sent.encode("latin-1"))])
    assert shown_token(asked) == ("secret", False)
    assert dict(passed_on(asked, Grant(80, "")).headers).get(b"cookie") == kept


@pytest.mark.parametrize("target", ["//a/b?x", "/a//b?x=1;2", "/:80/@?y"])
def test_a_path_that_begins_like_a_host_stays_a_path(target: str) -> None:
    asked = request(f"{target}&{OURS}")
    assert shown_token(asked) == ("secret", True)
    assert passed_on(request(target), Grant(80, "")).target == target.encode()
    assert passed_on(asked, Grant(80, "")).target.split(b"?")[0] == target.encode().split(b"?")[0]


def test_a_token_in_a_name_that_is_written_otherwise_is_not_passed_on() -> None:
    asked = request("/a?x=1&%5Fmodal_connect_token=secret")
    assert shown_token(asked) == ("secret", True)
    assert passed_on(asked, Grant(80, "")).target == b"/a?x=1"
