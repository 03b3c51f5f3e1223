"""Checks what a sandbox asks of the model. Pure: bytes in, a checked request or a Refusal out.

A request can make the service itself reach the network, open files of the account, or run code. Whoever controls a job
controls its requests. So only fields, tools, blocks and sources that are known to do none of this pass; a request with
any other is refused, and the Refusal names it, unless the settings allow server tools.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import JsonValue

from modal_app.contract.json_text import parse_json
from modal_app.model_gateway.error_answers import Refusal, shown

PATHS = ("/v1/messages", "/v1/messages/count_tokens")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,127}")
_FIELDS = frozenset(
    {
        *("model", "messages", "system", "tools", "tool_choice", "max_tokens", "stream", "metadata", "stop_sequences"),
        *("temperature", "top_k", "top_p", "thinking", "context_management", "output_config", "output_format"),
        *("service_tier", "speed", "cache_control", "safeguards", "data_flow", "diagnostics", "program_use_case_id"),
        *("fallback_credit_token", "resumption"),
    }
)
_REMOTE_FIELDS = ("mcp_servers", "container", "fallbacks", "thread")  # harmless while they are empty
_ROLES = ("user", "assistant", "system")
_BLOCKS = frozenset(
    {
        *("text", "image", "document", "search_result", "thinking", "redacted_thinking", "tool_use", "tool_result"),
        *("tool_reference", "tool_addition", "tool_removal", "fallback"),
    }
)
_SOURCES = ("base64", "text", "content")  # not `url`, which is fetched, nor `file`, which is the account's
_SOURCE_FIELDS = frozenset(("type", "media_type", "data", "content"))
# Tools that the service knows and the client runs.
_TOOLS = frozenset(
    {
        *("bash_20241022", "bash_20250124", "memory_20250818"),
        *("text_editor_20241022", "text_editor_20250124", "text_editor_20250429", "text_editor_20250728"),
        *("computer_20241022", "computer_20250124", "computer_20251124"),
    }
)


@dataclass(frozen=True)
class ModelRequest:
    """A checked request: its path, whether it has `?beta=true`, its model, whether it streams, and its JSON body."""

    path: str
    beta: bool
    model: str
    streams: bool
    body: dict[str, JsonValue] = field(repr=False)

    def dump(self) -> bytes:
        """The body to send on, written anew: in a body with a doubled key the service might read the other value."""
        return json.dumps(self.body, separators=(",", ":")).encode()


def parse_request(
    path: str, query: str, raw: bytes, *, models: tuple[str, ...] = (), server_tools: bool = False
) -> ModelRequest:
    """Check a request's path, query and body; raises Refusal. `models` are the allowed ones, all when it is empty."""
    if path not in PATHS:
        raise Refusal(404, f"the gateway has no path {shown(path)}, only {' and '.join(PATHS)}", reason="path")
    if query not in ("", "beta=true"):
        raise Refusal(400, "the gateway takes no query but beta=true", reason="query")
    try:
        body = parse_json(raw)
    except ValueError:
        raise Refusal(400, "the request body is not JSON, or nested too deeply", reason="json") from None
    if not isinstance(body, dict):
        raise Refusal(400, "the request body is not a JSON object", reason="json")
    model, streams = body.get("model"), body.get("stream", False)
    if not isinstance(model, str) or not _MODEL.fullmatch(model):
        raise Refusal(400, f"model: {shown(model)} is not a model's name", reason="model")
    if models and model not in models:
        raise Refusal(403, f"model: {shown(model)} is not allowed here, only {', '.join(models)}", reason="model")
    if not isinstance(streams, bool):
        raise Refusal(400, "stream: must be true or false", reason="stream")
    if not isinstance(body.get("messages"), list):
        raise Refusal(400, "messages: must be a list", reason="messages")
    for what, kind in _unknown(body):
        if not server_tools:
            message = f"{what}: {kind} is not allowed: unknown to the gateway, or run or fetched by the service itself"
            raise Refusal(403, message, reason="remote")
    return ModelRequest(path, bool(query), model, streams, body)


def _unknown(body: dict[str, JsonValue]) -> Iterator[tuple[str, str]]:
    """Everything in a request that is not known to be harmless, as (where it is, its name). Raises Refusal.

    Whatever acts by itself at the service is named by a field, or by the type of a tool, a block or a source.
    """
    for name, value in body.items():
        if name not in _FIELDS and (value or name not in _REMOTE_FIELDS):
            yield "the body", shown(name)
    for where, tool in _objects(body.get("tools"), "tools"):
        yield from _unknown_in_tool(tool, where)
    yield from _unknown_in_content(body.get("system"), "system")
    for where, message in _objects(body["messages"], "messages"):
        if message.get("role") not in _ROLES:
            yield f"{where}.role", shown(message.get("role"))
        yield from _unknown_in_content(message.get("content"), f"{where}.content")


def _unknown_in_tool(tool: dict[str, JsonValue], where: str) -> Iterator[tuple[str, str]]:
    kind = tool.get("type")
    if kind not in (None, "custom") and not (isinstance(kind, str) and kind in _TOOLS):
        yield f"{where}.type", shown(kind)


def _unknown_in_content(content: JsonValue, where: str) -> Iterator[tuple[str, str]]:
    """The same of a content (a message's, a tool result's, a document's): a text or a list of blocks."""
    waiting = [(where, content)]
    while waiting:
        where, content = waiting.pop()
        if content is None or isinstance(content, str):
            continue
        for at, block in _objects(content, where):
            kind = block.get("type")
            if not isinstance(kind, str) or kind not in _BLOCKS:
                yield f"{at}.type", shown(kind)
            source = block.get("source")
            if isinstance(source, dict):
                yield from _unknown_in_source(source, f"{at}.source")
                waiting.append((f"{at}.source.content", source.get("content")))
            elif "source" in block and (kind != "search_result" or not isinstance(source, str)):
                yield f"{at}.source", shown(source)
            if "tool" in block:
                yield from _unknown_in_change(block["tool"], f"{at}.tool")
            waiting.append((f"{at}.content", block.get("content")))


def _unknown_in_source(source: dict[str, JsonValue], where: str) -> Iterator[tuple[str, str]]:
    if source.get("type") not in _SOURCES:
        yield f"{where}.type", shown(source.get("type"))
    for name in source:
        if name not in _SOURCE_FIELDS:
            yield where, shown(name)


def _unknown_in_change(change: JsonValue, where: str) -> Iterator[tuple[str, str]]:
    """The same of a tool that a block adds to a conversation or removes from it."""
    if not isinstance(change, dict):
        yield where, shown(change)
        return
    definition = change.get("definition", {})
    if isinstance(definition, dict):
        yield from _unknown_in_tool(definition, f"{where}.definition")
    else:
        yield f"{where}.definition", shown(definition)
    if change.get("type") not in ("tool_reference", "tool_definition"):
        yield f"{where}.type", shown(change.get("type"))


def _objects(value: JsonValue, where: str) -> list[tuple[str, dict[str, JsonValue]]]:
    """The objects of a list, each as (where it is, object); raises Refusal unless `value` is a list of objects."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise Refusal(400, f"{where}: must be a list", reason="shape")
    found = []
    for number, item in enumerate(value):
        if not isinstance(item, dict):
            raise Refusal(400, f"{where}[{number}]: must be an object", reason="shape")
        found.append((f"{where}[{number}]", item))
    return found
