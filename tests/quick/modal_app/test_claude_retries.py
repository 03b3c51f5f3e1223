"""That the model is asked again is read from the CLI's line, and from nothing that only looks like it."""

import pytest

from modal_app.actions.claude_lines import Object
from modal_app.actions.claude_retries import retry_of
from modal_app.contract.events import ModelRetry

LINE: Object = {
    "type": "system",
    "subtype": "api_retry",
    "attempt": 2,
    "max_retries": 3,
    "retry_delay_ms": 1066,
    "error_status": 429,
    "error": "rate_limit",
}


@pytest.mark.parametrize("status", [429, 529, None])
def test_a_repetition_has_its_number_its_wait_and_its_reason(status: int | None) -> None:
    assert retry_of({**LINE, "error_status": status}) == ModelRetry(attempt=2, most=3, wait_ms=1066, status=status)


@pytest.mark.parametrize(
    "changed",
    [
        {"type": "assistant"},
        {"subtype": "status"},
        {"attempt": 0},
        {"attempt": "many"},
        {"max_retries": None},
        {"retry_delay_ms": -1},
        {"retry_delay_ms": {"a": 1}},
        {"error_status": 99},
        {"error_status": [429]},
    ],
)
def test_a_line_that_makes_no_sense_is_none(changed: Object) -> None:
    assert retry_of({**LINE, **changed}) is None
