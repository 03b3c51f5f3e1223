"""The HTTP interface by itself, as an ASGI app."""

from typing import Any, cast

import pytest

from modal_app.endpoint_settings import Settings
from modal_app.web import create_api


async def test_a_client_that_leaves_during_its_body_is_no_error_of_the_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server would log it with a trace, as often as somebody likes."""
    monkeypatch.setenv("WORKBENCH_SECRET", "s" * 16)
    came = iter([{"type": "http.request", "body": b'{"action":', "more_body": True}, {"type": "http.disconnect"}])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(came)

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/generate",
        "query_string": b"",
        "headers": [(b"x-modal-secret", b"s" * 16)],
    }
    await create_api(Settings(), cast("Any", None))(scope, receive, cast("Any", send))
    assert sent[0]["status"] == 499
