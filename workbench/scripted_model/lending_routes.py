"""Lends scripts over HTTP, to whoever shows the control key; the key of the model opens nothing here."""

import hmac
import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from workbench.scripted_model.lending import Lending
from workbench.scripted_model.script import ScriptError, script_of

MAX_LEASE_S = 600.0
_MAX_BODY_BYTES = 4 * 1024 * 1024
_GONE = "there are no such answers, or they are in force no longer"


class _Loan(BaseModel):
    """The body of POST /answers: a script as in its YAML, and for how many seconds it lives without a renewal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    script: JsonValue
    lease_s: Annotated[float, Field(gt=0, le=MAX_LEASE_S, allow_inf_nan=False)]


class LendingRoutes:
    """The routes below /answers."""

    def __init__(self, lending: Lending, key: SecretStr) -> None:
        self._lending = lending
        self._key = key
        self.routes = [
            Route("/answers", self._list),
            Route("/answers", self._lend, methods=["POST"]),
            Route("/answers/{marker}", self._show),
            Route("/answers/{marker}", self._take_back, methods=["DELETE"]),
            Route("/answers/{marker}/renewal", self._renew, methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse({"answers": dict(self._lending.markers())})

    async def _lend(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        raw = bytearray()
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > _MAX_BODY_BYTES:
                return _error(413, f"a script is at most {_MAX_BODY_BYTES} bytes of JSON, this one is longer")
        try:
            loan = _Loan.model_validate(json.loads(raw))
            return JSONResponse({"marker": self._lending.lend(script_of(loan.script), loan.lease_s)}, 201)
        except ScriptError as error:
            return _error(400, str(error))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            return _error(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        except (ValueError, RecursionError):
            return _error(400, "the body is not JSON")

    async def _show(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        lent = self._lending.get(request.path_params["marker"])
        return _error(404, _GONE) if lent is None else JSONResponse({"answered": lent.told()})

    async def _take_back(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        lent = self._lending.take_back(request.path_params["marker"])
        return _error(404, _GONE) if lent is None else JSONResponse({"answered": lent.told()})

    async def _renew(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        renewed = self._lending.renew(request.path_params["marker"])
        return JSONResponse({"renewed": 1}) if renewed else _error(404, _GONE)

    def _refused(self, request: Request) -> Response | None:
        kind, _, shown = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(shown.encode(), self._key.get_secret_value().encode())
        return None if right and kind.lower() == "bearer" else _error(401, "the control key is missing or wrong")


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)
