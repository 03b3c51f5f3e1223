"""The cloud's own controls over HTTP, which Modal does not have: fault rules, and the coverage of RPCs."""

from collections.abc import Callable
from dataclasses import asdict
from fnmatch import fnmatchcase

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from workbench.local_cloud.base.errors import invalid, not_found
from workbench.local_cloud.faults.rules import Active, FaultRule, Faults
from workbench.local_cloud.server.callers import Authenticator
from workbench.local_cloud.server.grpc_server import Coverage
from workbench.local_cloud.server.http_routes import for_clients, small_body


class ControlRoutes:
    """Serves the controls to requests with the cloud's token. `coverage` returns the RPCs that there are now."""

    def __init__(self, authenticator: Authenticator, faults: Faults, *, coverage: Callable[[], Coverage]) -> None:
        self._faults = faults
        self._coverage_now = coverage
        self.routes = [
            Route("/faults", for_clients(authenticator, self._list)),
            Route("/faults", for_clients(authenticator, self._add), methods=["POST"]),
            Route("/faults", for_clients(authenticator, self._clear), methods=["DELETE"]),
            Route("/faults/{rule_id}", for_clients(authenticator, self._remove), methods=["DELETE"]),
            Route("/faults/{rule_id}/renewal", for_clients(authenticator, self._renew), methods=["POST"]),
            Route("/coverage", for_clients(authenticator, self._coverage)),
        ]

    async def _list(self, request: Request) -> Response:
        return JSONResponse(
            {
                "rules": [_told(one) for one in self._faults.rules()],
                "ended": [_told(one) for one in self._faults.ended()],
                "happened": [asdict(one) for one in self._faults.happened()],
            }
        )

    async def _add(self, request: Request) -> Response:
        rule = FaultRule.model_validate_json(await small_body(request))
        if rule.rpc and not any(fnmatchcase(name, rule.rpc) for name in self._coverage_now().implemented):
            raise invalid(
                f"The rule would have no effect: {rule.rpc} is not implemented by the local cloud. "
                "`workbench cloud coverage` lists the RPCs that are."
            )
        try:
            return JSONResponse({"rule_id": self._faults.add(rule)}, 201)
        except ValueError as error:
            raise invalid(str(error)) from error

    async def _clear(self, request: Request) -> Response:
        return JSONResponse({"removed": self._faults.clear()})

    async def _remove(self, request: Request) -> Response:
        if not self._faults.remove(request.path_params["rule_id"]):
            raise not_found(f"There is no fault rule {request.path_params['rule_id'][:64]!r}: GET /faults lists them.")
        return JSONResponse({"removed": 1})

    async def _renew(self, request: Request) -> Response:
        if not self._faults.renew(request.path_params["rule_id"]):
            raise not_found("There is no such rule, or it is in force no longer.")
        return JSONResponse({"renewed": 1})

    async def _coverage(self, request: Request) -> Response:
        found = self._coverage_now()
        return JSONResponse(
            {"implemented": found.implemented, "missing": found.missing, "asked_for": dict(found.asked_for)}
        )


def _told(active: Active) -> dict[str, object]:
    return {
        "rule_id": active.rule_id,
        "rule": active.rule.given(),
        "matched": active.matched,
        "injected": active.injected,
        "ended": active.ended,
    }
