"""Writes a turn in the format of the Messages API: as one message, or as the events of a stream. Pure.

https://docs.anthropic.com/en/api/messages and https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from workbench.scripted_model.script import Block, Fault, Tool, Turn
from workbench.text.message_ids import SCRIPTED

Frame = dict[str, JsonValue]
_INPUT_PIECE = 64  # characters of a tool's input in one delta
_CHARS_A_TOKEN = 4  # an estimate; nobody is billed by it
_DELTAS = {
    "thinking": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "tool": ("input_json_delta", "partial_json"),
}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


@dataclass(frozen=True)
class Answer:
    """A turn as the answer to one request. Its ids are derived from `seed` alone."""

    turn: Turn
    model: str
    seed: str
    input_tokens: int

    @property
    def output_tokens(self) -> int:
        """The tokens of the answer that the turn names, or an estimate."""
        if self.turn.output_tokens is not None:
            return self.turn.output_tokens
        said = sum(len(piece) for block in self.turn.content for piece in _pieces(block))
        return 1 + said // _CHARS_A_TOKEN

    def message(self) -> Frame:
        """The complete message, for a request that does not stream."""
        content: list[JsonValue] = [self._whole(index, block) for index, block in enumerate(self.turn.content)]
        return {
            **self._envelope(self.output_tokens),
            "content": content,
            "stop_reason": self.turn.stop_reason,
            **_details(self.turn),
        }

    def frames(self) -> Iterator[Frame]:
        """The events of a stream, in order."""
        yield {"type": "message_start", "message": self._envelope(1)}
        yield {"type": "ping"}
        for index, block in enumerate(self.turn.content):
            kind, name = _DELTAS[_kind(block)]
            yield {"type": "content_block_start", "index": index, "content_block": self._empty(index, block)}
            for piece in _pieces(block):
                yield _delta(index, {"type": kind, name: piece})
            if block.thinking:
                yield _delta(index, {"type": "signature_delta", "signature": self._id(f"sig_{index}")})
            yield {"type": "content_block_stop", "index": index}
        yield {
            "type": "message_delta",
            "delta": {"stop_reason": self.turn.stop_reason, "stop_sequence": None, **_details(self.turn)},
            "usage": {"output_tokens": self.output_tokens},
        }
        yield {"type": "message_stop"}

    def _envelope(self, output_tokens: int) -> Frame:
        return {
            "id": self._id("msg"),
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": self.input_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": output_tokens,
            },
        }

    def _empty(self, index: int, block: Block) -> Frame:
        """The block as it is before its first delta."""
        if block.tool is not None:
            return {"type": "tool_use", "id": self._id(f"toolu_{index}"), "name": block.tool.name, "input": {}}
        return {"type": "thinking", "thinking": "", "signature": ""} if block.thinking else {"type": "text", "text": ""}

    def _whole(self, index: int, block: Block) -> Frame:
        if block.tool is not None:
            return {**self._empty(index, block), "input": whole_input(block.tool)}
        if block.thinking:
            return {"type": "thinking", "thinking": "".join(block.thinking), "signature": self._id(f"sig_{index}")}
        return {"type": "text", "text": "".join(block.text)}

    def _id(self, kind: str) -> str:
        digest = hashlib.sha256(f"{kind}/{self.seed}".encode()).hexdigest()[:24]
        return f"{SCRIPTED}{digest}" if kind == "msg" else f"{kind.split('_', maxsplit=1)[0]}_{digest}"


def error(fault: Fault) -> Frame:
    """The body of an error answer, and the data of an `error` event."""
    return error_body(fault.status, fault.message)


def error_body(status: int, message: str) -> Frame:
    """The body of an error in the service's format."""
    return {"type": "error", "error": {"type": ERROR_TYPES.get(status, "api_error"), "message": message}}


def sse(frame: Frame) -> bytes:
    """An event as SSE bytes."""
    return f"event: {frame['type']}\ndata: {json.dumps(frame, ensure_ascii=False)}\n\n".encode()


def tokens(body: bytes) -> int:
    """An estimate of how many tokens a request has."""
    return 1 + len(body) // _CHARS_A_TOKEN


def raw_input(tool: Tool) -> str:
    """The text that is sent as a tool's input."""
    return json.dumps(tool.input, ensure_ascii=False) if tool.raw_input is None else tool.raw_input


def whole_input(tool: Tool) -> JsonValue:
    """A tool's input in a message that does not stream: what `raw_input` says, or its text where that is not JSON.

    So a broken call stays a broken call, and never becomes an empty one that a client would run.
    """
    if tool.raw_input is None:
        return tool.input
    try:
        found: JsonValue = json.loads(tool.raw_input)
    except (ValueError, RecursionError):
        return tool.raw_input
    return found if isinstance(found, dict) else tool.raw_input


def stamped(frame: Frame) -> Frame:
    """The frame; if it is a text delta, with the present monotonic time in nanoseconds as its text."""
    delta = frame.get("delta")
    if not isinstance(delta, dict) or delta.get("type") != "text_delta":
        return frame
    return {**frame, "delta": {**delta, "text": f"{time.monotonic_ns()} "}}


def is_delta(frame: Frame) -> bool:
    """Whether a frame is a delta, that is a piece of the answer."""
    return frame["type"] == "content_block_delta"


def _kind(block: Block) -> str:
    return "tool" if block.tool is not None else "thinking" if block.thinking else "text"


def _pieces(block: Block) -> Sequence[str]:
    """The texts of a block's deltas."""
    if block.tool is None:
        return block.thinking or block.text
    whole = raw_input(block.tool)
    return [whole[start : start + _INPUT_PIECE] for start in range(0, len(whole), _INPUT_PIECE)]


def _delta(index: int, delta: Frame) -> Frame:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _details(turn: Turn) -> Frame:
    """What a refusal says of itself; nothing for other answers, and for a refusal of which the script says nothing."""
    if turn.category is None:
        return {}
    return {"stop_details": {"type": "refusal", "category": turn.category, "explanation": None}}
