"""An answer of the service that the gateway cannot use is told to the job by its cause, and by what to check."""

import time
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp

from modal_app.model_gateway.gateway import create_gateway
from modal_app.model_gateway.gateway_settings import GatewaySettings, Limits
from modal_app.model_gateway.run_tokens import RunClaims, mint
from tests.support.servers import served

SECRET = SecretStr("a-secret-that-signs-tokens")
BODY = {"model": "m", "max_tokens": 10, "messages": []}


async def told(service: ASGIApp, **settings: Any) -> str:
    """What a job hears when the service is this app."""
    async with served(Starlette(routes=[Mount("/", app=service)])) as upstream:
        values = {"upstream_url": upstream, "upstream_key": SECRET, "token_secret": SECRET, **settings}
        shown = mint(SECRET, RunClaims("run-1", int(time.time()) + 60)).get_secret_value()
        async with served(create_gateway(GatewaySettings(**values))) as url, httpx.AsyncClient(trust_env=False) as web:
            answer = await web.post(f"{url}/v1/messages", json=BODY, headers={"x-api-key": shown})
    assert answer.status_code >= 400
    return str(answer.json()["error"]["message"])


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (Response("<html>", media_type="text/html"), "answered with 'text/html', not with plain application/json"),
        (Response("{}", media_type="text/event-stream"), "answered with 'text/event-stream'"),
        (Response("{}", headers={"content-encoding": "gzip"}, media_type="application/json"), "a content-encoding"),
        (Response("{", media_type="application/json"), "is not JSON: check WORKBENCH_MODEL_UPSTREAM_URL"),
        (Response("", 302, {"location": "/login"}), "HTTP status 302: check WORKBENCH_MODEL_UPSTREAM_URL"),
        (Response("", 402), "HTTP status 402"),
        (Response("", 401), "check WORKBENCH_MODEL_UPSTREAM_KEY"),
        (Response("", 500), "failed with HTTP status 500"),
    ],
    ids=["page", "stream", "packed", "cut", "redirect", "unknown status", "credentials", "failure"],
)
async def test_an_answer_of_another_kind_is_told_by_its_cause(answer: Response, cause: str) -> None:
    assert cause in await told(answer)


async def test_a_limit_is_told_with_its_number() -> None:
    small = Limits(request_bytes=10, response_bytes=5)
    assert "at most 10 bytes" in await told(Response("{}"), limits=small)
    long = Response('{"long": true}', media_type="application/json")
    assert "at most 5 bytes" in await told(long, limits=Limits(response_bytes=5))


async def test_a_service_that_is_away_or_late_is_told_with_what_to_check() -> None:
    async def late(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    assert "did not begin to answer within 0.1 s" in await told(late, headers_s=0.1)
    assert "check WORKBENCH_MODEL_UPSTREAM_URL" in await told(late, upstream_url="http://127.0.0.1:9")
