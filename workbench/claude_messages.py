"""A Claude job's events as text for people: what the model says as it comes, and a line for each tool that it uses."""

from pydantic import JsonValue

from modal_app.contract.events import StreamEvent

_NAMED_BY = ("file_path", "command", "pattern", "path", "url", "description")
_MAX_CHARS = 120


def shown(event: StreamEvent) -> str:
    """What a reader sees of an event; empty for most messages, whose text has come before them."""
    if event.message is None:
        return event.text
    message = event.message.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    blocks = content if isinstance(content, list) else []
    return "".join(_block(block) for block in blocks if isinstance(block, dict))


def _block(block: dict[str, JsonValue]) -> str:
    match block.get("type"):
        case "text":
            return "\n"  # the end of what was said before, word by word
        case "tool_use":
            given = block.get("input")
            named = next((given[name] for name in _NAMED_BY if name in given), "") if isinstance(given, dict) else ""
            return _line(f"→ {block.get('name')} {named}")
        case "tool_result" if block.get("is_error") is True:
            return _line(f"✗ {block.get('content')}")
        case _:
            return ""


def _line(text: str) -> str:
    first = text.strip().partition("\n")[0]
    return f"{first[:_MAX_CHARS]}{'…' if len(first) > _MAX_CHARS else ''}\n"
