"""What a sandbox may ask: the CLI's requests, and nothing that acts for it at the service."""

import json
from typing import Any

import pytest

from modal_app.model_gateway.error_answers import Refusal
from modal_app.model_gateway.model_requests import parse_request

BODY: dict[str, Any] = {"model": "claude-opus-5-5", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}


def parse(body: Any, path: str = "/v1/messages", query: str = "beta=true", **settings: Any) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_request(path, query, raw, **settings)


def content(*blocks: Any) -> dict[str, Any]:
    return {**BODY, "messages": [{"role": "user", "content": list(blocks)}]}


IMAGE = {"type": "image", "source": {"type": "url", "url": "https://elsewhere/?secret"}}
REMOTE = [
    {**BODY, "mcp_servers": [{"type": "url", "url": "https://elsewhere"}]},
    {**BODY, "container": "c"},
    {**BODY, "tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]},
    {**BODY, "tools": [{"type": "code_execution_20250825", "name": "x"}]},
    {**BODY, "tools": [{"name": "ok"}, {"type": ["bash_"], "name": "x"}]},
    content(IMAGE),
    content({"type": "document", "source": {"type": "file", "file_id": "file_of_somebody"}}),
    content({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": ""}, IMAGE]}),
    content({"type": "document", "source": {"type": "content", "content": [IMAGE]}}),
    content({"type": "image", "source": {}}),
    content({"type": "container_upload", "file_id": "f"}),
    {**BODY, "fallbacks": [{"model": "another"}]},
    {**BODY, "thread": {"type": "continue", "id": "t"}},
    {**BODY, "tools": [{"type": "bash_20991231", "name": "bash"}]},
    {**BODY, "tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}]},
    {**BODY, "tools": [{"type": 1, "name": "x"}]},
    {**BODY, "system": [{"type": "text", "text": "s"}, IMAGE]},
    {**BODY, "system": [{"type": "text", "text": "s", "source": {"type": "url", "url": "https://elsewhere"}}]},
    {**BODY, "messages": [{"role": "developer", "content": "hi"}]},
    content({"type": "web_search_tool_result", "tool_use_id": "t", "content": []}),
    content({"type": "server_tool_use", "name": "web_fetch", "input": {"url": "https://elsewhere"}}),
    content({"type": "mcp_tool_use", "name": "t", "server_name": "s", "input": {}}),
    content({"type": "hologram", "source": {"type": "base64", "data": ""}}),
    content({"type": ["text"], "text": ""}),
    content({"text": "no type at all"}),
    content({"type": "image", "source": "https://elsewhere"}),
    content({"type": "image", "source": {"type": "base64", "data": "", "url": "https://elsewhere"}}),
    content({"type": "document", "source": {"type": "content", "content": [{"type": "x"}]}}),
    content({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "document", "source": {"type": "s3"}}]}),
    content({"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {"type": "web_fetch_1"}}}),
    content({"type": "tool_addition", "tool": {"type": "mcp_toolset"}}),
    content({"type": "tool_addition", "tool": [{"type": "web_fetch_1"}]}),
    content({"type": "tool_addition", "tool": "web_fetch_1"}),
    content({"type": "tool_addition", "tool": {"type": "tool_definition", "definition": [{"type": "web_fetch_1"}]}}),
    content({"type": "tool_removal", "tool": None}),
]


def test_the_clis_request_passes() -> None:
    asked = parse({**BODY, "stream": True, "metadata": {"user_id": "x"}, "thinking": {"type": "adaptive"}})
    assert (asked.model, asked.streams, asked.beta) == ("claude-opus-5-5", True, True)
    assert "hi" not in repr(asked)
    base64 = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    parse(content(base64, {"type": "tool_use", "name": "t", "input": {"source": {"type": "url"}}}))
    parse(
        {**BODY, "tools": [{"name": "a"}, {"type": "custom", "name": "b"}, {"type": "bash_20250124", "name": "bash"}]}
    )
    parse({**BODY, "mcp_servers": [], "container": None, "fallbacks": [], "system": "a text", "tools": None})
    found = {"type": "search_result", "source": "a title", "content": [{"type": "text", "text": "x"}]}
    defined = {"type": "tool_definition", "definition": {"name": "t", "input_schema": {}}}
    pages = {"type": "document", "source": {"type": "content", "content": [base64, {"type": "text", "text": "x"}]}}
    results = [{"type": "tool_reference", "tool_name": "t"}, base64, found]
    parse(
        {
            **BODY,
            "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "y"}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": results}, pages]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "a text"}]},
                {"role": "system", "content": [], "output_config": {"effort": "medium"}},
                {"role": "system", "content": [{"type": "tool_addition", "tool": defined}]},
                {"role": "system", "content": [{"type": "tool_removal", "tool": results[0]}]},
            ],
        }
    )


@pytest.mark.parametrize("body", REMOTE, ids=range(len(REMOTE)))
def test_what_makes_the_service_act_is_refused_unless_it_is_allowed(body: Any) -> None:
    """The service reaches networks, files and code that the sandbox's own rules keep it from."""
    with pytest.raises(Refusal) as caught:
        parse(body)
    assert (caught.value.status, caught.value.reason) == (403, "remote")
    parse(body, server_tools=True)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({**BODY, "tools": [{"name": "a"}, {"type": "web_fetch_20250910"}]}, "tools[1].type: 'web_fetch_20250910'"),
        ({**BODY, "teleport": True}, "the body: 'teleport'"),
        (content({"type": "text", "text": ""}, {"type": "hologram"}), "messages[0].content[1].type: 'hologram'"),
        (content(IMAGE), "messages[0].content[0].source.type: 'url'"),
        (content({"type": "é\n" * 90}), "…"),
    ],
)
def test_what_is_refused_is_named(body: Any, named: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(body)
    assert named in caught.value.message
    assert caught.value.message.isascii() or "…" in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "body",
    [
        {**BODY, "messages": ["hi"]},
        {**BODY, "messages": [{"role": "user", "content": {"type": "image", "source": {"type": "url"}}}]},
        {**BODY, "messages": [{"role": "user", "content": 1}]},
        content("hi"),
        content([IMAGE]),
        content({"type": "tool_result", "tool_use_id": "t", "content": IMAGE}),
        {**BODY, "tools": {"type": "web_fetch_20250910"}},
        {**BODY, "tools": ["web_fetch_20250910"]},
        {**BODY, "system": {"type": "image", "source": {"type": "url"}}},
    ],
)
def test_a_shape_that_hides_what_is_in_it_is_no_request(body: Any) -> None:
    for server_tools in (False, True):
        with pytest.raises(Refusal) as caught:
            parse(body, server_tools=server_tools)
        assert (caught.value.status, caught.value.reason) == (400, "shape")


def test_doubled_keys_do_not_get_past_the_check() -> None:
    """A reader that takes the first of two keys must not see what ours did not."""
    raw = b'{"mcp_servers":[{"url":"https://elsewhere"}],"model":"m","messages":[],"mcp_servers":[]}'
    assert b"elsewhere" not in parse(raw).dump()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 100_000, 400),
        (b"\xff", 400),
        ({**BODY, "model": 1}, 400),
        ({**BODY, "model": "x\ny"}, 400),
        ({**BODY, "stream": "yes"}, 400),
        ({**BODY, "messages": {}}, 400),
        (b'{"model":"m","messages":[],"x":NaN}', 400),
    ],
)
def test_what_is_no_request_is_refused(body: Any, status: int) -> None:
    with pytest.raises(Refusal) as caught:
        parse(body)
    assert caught.value.status == status


def test_other_paths_queries_and_models_are_refused() -> None:
    for path in ("/v1/files", "/v1/messages/", "/v1/messages/batches", "/v1/messages/../files", "/"):
        with pytest.raises(Refusal, match="has no path"):
            parse(BODY, path)
    with pytest.raises(Refusal, match="query"):
        parse(BODY, query="beta=true&x=1")
    with pytest.raises(Refusal, match="not allowed"):
        parse(BODY, models=("haiku",))
    assert parse(BODY, query="").beta is False
