"""What a sandbox may ask of the model. Pure: bytes in, a checked request or a Refusal out.

A request can make the service itself reach the network, open files of the account, or run code. Whoever controls a job
controls its requests, so all of that is refused unless the settings allow it.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import JsonValue

from modal_app.contract.json_text import parse_json
from modal_app.model_gateway.refusals import Refusal

PATHS = ("/v1/messages", "/v1/messages/count_tokens")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,127}")
_HERE = ("bash_", "text_editor_", "memory_", "computer_")  # tools that the service knows and the client runs
_SOURCES = ("base64", "text", "content")  # not `url`, which is fetched, nor `file`, which is the account's
_REMOTE_FIELDS = ("mcp_servers", "container")
_REMOTE_BLOCKS = ("container_upload",)


@dataclass(frozen=True)
class ModelRequest:
    """A checked request."""

    path: str
    beta: bool
    model: str
    streams: bool
    body: dict[str, JsonValue] = field(repr=False)

    def dump(self) -> bytes:
        """The body to send on: written anew, so that the service reads what was checked, be it with doubled keys."""
        return json.dumps(self.body, separators=(",", ":")).encode()


def parse_request(
    path: str, query: str, raw: bytes, *, models: tuple[str, ...] = (), server_tools: bool = False
) -> ModelRequest:
    """Check a request; raises Refusal."""
    if path not in PATHS:
        raise Refusal(404, "the gateway has no such path", reason="path")
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
        raise Refusal(400, "model: is not a model's name", reason="model")
    if models and model not in models:
        raise Refusal(403, "this model is not allowed here", reason="model")
    if not isinstance(streams, bool):
        raise Refusal(400, "stream: must be true or false", reason="stream")
    if not isinstance(body.get("messages"), list):
        raise Refusal(400, "messages: must be a list", reason="messages")
    if not server_tools and (remote := next(_remote(body), None)) is not None:
        raise Refusal(403, f"{remote}: what runs or is fetched at the service is not allowed here", reason="remote")
    return ModelRequest(path, bool(query), model, streams, body)


def _remote(body: dict[str, JsonValue]) -> Iterator[str]:
    """Where a request asks the service to act on its own."""
    yield from (name for name in _REMOTE_FIELDS if body.get(name))
    for tool in _objects(body.get("tools")):
        kind = tool.get("type", "custom")
        if kind not in (None, "custom") and not (isinstance(kind, str) and kind.startswith(_HERE)):
            yield "tools"
    blocks = [block for message in _objects(body.get("messages")) for block in _objects(message.get("content"))]
    while blocks:
        block = blocks.pop()
        source = block.get("source")
        if isinstance(source, dict):
            if source.get("type") not in _SOURCES:
                yield "source"
            blocks += _objects(source.get("content"))
        if block.get("type") in _REMOTE_BLOCKS:
            yield "content"
        blocks += _objects(block.get("content"))


def _objects(value: JsonValue) -> list[dict[str, JsonValue]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
