"""Which headers reach the model's service: those of the CLI, as text, and no beta that is not known."""

from typing import Any

import pytest
from starlette.datastructures import Headers

from modal_app.model_gateway.error_answers import Refusal
from modal_app.model_gateway.passed_headers import PASSED_ON, passed_on

# What the CLI of the pinned version sends.
OF_THE_CLI = (
    "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,per-turn-control-2026-07-01,"
    "mid-conversation-tool-changes-2026-07-01,thinking-token-count-2026-05-13,advanced-tool-use-2025-11-20,"
    "effort-2025-11-24,thinking-display-updates-2026-08-18"
)


def passed(*headers: tuple[str, str], **settings: Any) -> dict[str, str]:
    return passed_on(Headers(raw=[(name.encode(), value.encode("latin-1")) for name, value in headers]), **settings)


def test_the_cli_s_headers_pass_and_others_do_not() -> None:
    cli = (("anthropic-beta", OF_THE_CLI), ("anthropic-version", "2023-06-01"), ("user-agent", "claude-cli/2 (x, y)"))
    assert passed(*cli, ("cookie", "a=b"), ("x-api-key", "t"), ("x-forwarded-for", "1.2.3.4")) == dict(cli)


def test_a_header_that_comes_twice_is_read_whole() -> None:
    """Else the second one would be neither checked nor passed on."""
    one, two = ("anthropic-beta", "effort-2025-11-24"), ("anthropic-beta", " timing-2026-09-09 ,")
    assert passed(one, two) == {"anthropic-beta": "effort-2025-11-24,  timing-2026-09-09 ,"}
    with pytest.raises(Refusal, match="web-fetch-2025-09-10"):
        passed(one, ("anthropic-beta", "web-fetch-2025-09-10"))


@pytest.mark.parametrize("name", PASSED_ON)
@pytest.mark.parametrize("value", ["é", "claude\xa0code", "\x7f", "a\x00b", "x" * 2001])
def test_what_is_no_text_of_ascii_is_refused(name: str, value: str) -> None:
    with pytest.raises(Refusal) as caught:
        passed((name, value))
    assert (caught.value.status, caught.value.reason) == (400, "header")
    assert caught.value.message.startswith(f"{name}: ")


@pytest.mark.parametrize(
    "beta",
    [
        "web-fetch-2025-09-10",
        "mcp-client-2025-11-20",
        "files-api-2025-04-14",
        "code-execution-2025-08-25",
        "skills-2025-10-02",
        "advisor-tool-2026-03-01",
        "server-side-fallback-2026-07-01",
        "message-threads-2026-08-12",
        "managed-agents-2026-04-01",
        "effort-2099-01-01",
        "nobody-knows-it",
    ],
)
def test_a_beta_that_is_not_known_is_refused_by_its_name(beta: str) -> None:
    for value in (beta, f"effort-2025-11-24,{beta}", f"{beta} , effort-2025-11-24"):
        with pytest.raises(Refusal, match=beta) as caught:
            passed(("anthropic-beta", value))
        assert (caught.value.status, caught.value.reason) == (403, "beta")
        assert passed(("anthropic-beta", value), server_tools=True) == {"anthropic-beta": value}


@pytest.mark.parametrize("beta", ["a b", "Effort-2025-11-24", "x" * 101, "{}"])
def test_what_is_no_name_is_refused_whatever_is_allowed(beta: str) -> None:
    with pytest.raises(Refusal) as caught:
        passed(("anthropic-beta", beta), server_tools=True)
    assert caught.value.status == 400
