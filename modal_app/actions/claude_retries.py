"""Finds in the Claude CLI's lines that it asks the model again. Pure; never raises, whatever a line holds."""

from pydantic import ValidationError

from modal_app.actions.claude_lines import Object
from modal_app.contract.events import ModelRetry


def retry_of(line: Object) -> ModelRetry | None:
    """The repetition that a line announces; None for every other line, and for one whose numbers make no sense."""
    if (line.get("type"), line.get("subtype")) != ("system", "api_retry"):
        return None
    try:
        return ModelRetry.model_validate(
            {
                "attempt": line.get("attempt"),
                "most": line.get("max_retries"),
                "wait_ms": line.get("retry_delay_ms"),
                "status": line.get("error_status"),
            }
        )
    except ValidationError:
        return None
