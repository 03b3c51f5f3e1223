"""Options that restrict who may call what are kept: proxy tokens, and containers that may not call Modal."""

import json
from collections.abc import Iterator

import httpx
import modal
import pytest

from tests.support.commands import Cli
from tests.support.paths import APPS

pytestmark = pytest.mark.timeout(180)
Headers = dict[str, str]


@pytest.fixture(scope="module")
def deployed(modal_cli: Cli) -> Iterator[None]:
    modal_cli("deploy", str(APPS / "guarded.py"))
    yield
    modal_cli("app", "stop", "guarded", "--yes")


@pytest.fixture
def token(modal_cli: Cli) -> Iterator[Headers]:
    """A proxy token as the stock command makes it."""
    made = modal_cli("workspace", "proxy-tokens", "create", "--name", "tests", "--json")
    headers = json.loads(made[made.index("{") : made.rindex("}") + 1])
    yield headers
    modal_cli("workspace", "proxy-tokens", "delete", headers["Modal-Key"], "--yes", check=False)


def url(name: str) -> str:
    owner, _, method = name.rpartition(".")
    one = (
        getattr(modal.Cls.from_name("guarded", owner)(), method) if owner else modal.Function.from_name("guarded", name)
    )
    return str(one.get_web_url())


def status(name: str, headers: Headers) -> int:
    return httpx.get(url(name), headers=headers, timeout=60).status_code


def test_a_function_without_the_option_is_open(deployed: None) -> None:
    assert status("unguarded", {}) == 200


@pytest.mark.parametrize("name", ["guarded", "endpoint", "old", "Guarded.method"])
def test_a_guarded_function_opens_to_a_token_alone(deployed: None, token: Headers, name: str) -> None:
    key, secret = token["Modal-Key"], token["Modal-Secret"]
    for headers, expected in (
        ({}, 401),
        ({"Modal-Key": key}, 401),
        ({"Modal-Secret": secret}, 401),
        ({"Modal-Key": key, "Modal-Secret": "ws-wrong"}, 401),
        ({"Modal-Key": "wk-wrong", "Modal-Secret": secret}, 401),
        ({"Modal-Key": key, "Modal-Secret": ""}, 401),
        ({"Authorization": f"Bearer {key}"}, 401),
        ({"Authorization": f"Basic {key}.{secret}"}, 401),
        ({"Modal-Key": key, "Modal-Secret": secret}, 200),
        ({"Authorization": f"Bearer {key}.{secret}"}, 200),
    ):
        assert status(name, headers) == expected, headers
    assert httpx.post(url(name), timeout=60).status_code == 401
    assert httpx.get(url(name), params={"__modal_function_call_id": "fc-x"}, timeout=60).status_code == 401


def test_what_is_missing_is_said(deployed: None) -> None:
    assert httpx.get(url("guarded")).text == "modal-http: missing credentials for proxy authorization"
    wrong = httpx.get(url("guarded"), headers={"Modal-Key": "wk-1", "Modal-Secret": "ws-1"})
    assert wrong.text == "modal-http: invalid credentials for proxy authorization"


def test_the_cloud_s_own_token_opens_nothing(deployed: None, modal_cli: Cli) -> None:
    env = modal_cli._env
    shown = {"Modal-Key": env["MODAL_TOKEN_ID"], "Modal-Secret": env["MODAL_TOKEN_SECRET"]}
    assert status("guarded", shown) == 401


def test_a_deleted_token_is_worthless_at_once(deployed: None, token: Headers, modal_cli: Cli) -> None:
    assert status("endpoint", token) == 200
    assert token["Modal-Key"] in modal_cli("workspace", "proxy-tokens", "list", "--json")
    modal_cli("workspace", "proxy-tokens", "update", token["Modal-Key"], "name", "another")
    listed = modal_cli("workspace", "proxy-tokens", "list", "--json")
    assert "another" in listed
    assert token["Modal-Secret"] not in listed
    modal_cli("workspace", "proxy-tokens", "delete", token["Modal-Key"], "--yes")
    assert status("endpoint", token) == 401
    assert "not found" in modal_cli("workspace", "proxy-tokens", "delete", token["Modal-Key"], "--yes", check=False)


def test_a_token_that_is_allowed_in_an_environment_opens_no_other(
    deployed: None, token: Headers, modal_cli: Cli
) -> None:
    key = token["Modal-Key"]
    modal_cli("environment", "create", "elsewhere")
    try:
        modal_cli("workspace", "proxy-tokens", "allow", key, "elsewhere")
        assert status("endpoint", token) == 401
        assert key in modal_cli("workspace", "proxy-tokens", "list", "-e", "elsewhere", "--json")
        assert key not in modal_cli("workspace", "proxy-tokens", "list", "-e", "main", "--json")
        modal_cli("workspace", "proxy-tokens", "allow", key, "main")
        assert status("endpoint", token) == 200
        modal_cli("workspace", "proxy-tokens", "revoke", key, "main")
        assert status("endpoint", token) == 401
    finally:
        modal_cli("environment", "delete", "elsewhere", "--yes")


def test_a_container_that_may_not_call_modal_serves_and_is_refused_by_name(deployed: None) -> None:
    refused = modal.Function.from_name("guarded", "restricted").remote("guarded-notes")
    assert len(refused) == 3
    assert all("restrict_modal_access" in text for text in refused), refused
    assert "guarded-notes" not in [found.name for found in modal.Dict.objects.list()]


def test_a_function_s_network_cannot_be_blocked_and_that_is_said() -> None:
    own = modal.App()
    own.function(block_network=True, serialized=True)(lambda: None)
    with pytest.raises(modal.exception.Error, match="block_network of a function is not implemented"), own.run():
        pass
