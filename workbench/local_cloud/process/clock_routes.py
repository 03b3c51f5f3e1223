"""The cloud's clocks over HTTP, which Modal does not have: show them, move them forward, take moves back."""

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.clock import MAX_ADVANCE_S
from workbench.local_cloud.base.clocks import WHOLE, Clocks
from workbench.local_cloud.base.errors import invalid, not_found
from workbench.local_cloud.server.callers import Authenticator
from workbench.local_cloud.server.http_routes import for_clients, small_body
from workbench.local_cloud.store.names import DEFAULT_ENVIRONMENT

_MAX_LEASE_S = 3600.0
_APP_ID = "ap-"  # with which the ids of apps begin


class _Whose(BaseModel):
    """Whose clock is meant: that of an app, by its name in an environment or by its id, or the whole cloud's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    app: str | None = Field(None, min_length=1, max_length=200)
    environment: str = Field("", max_length=200)


class _Advance(_Whose):
    """The body of POST /clock: by how many seconds to move it forward, and for how long without a renewal."""

    seconds: float = Field(ge=0, le=MAX_ADVANCE_S, allow_inf_nan=False)
    lease_s: float | None = Field(None, gt=0, le=_MAX_LEASE_S, allow_inf_nan=False)


class ClockRoutes:
    """Serves the clocks to requests with the cloud's token."""

    def __init__(self, authenticator: Authenticator, clocks: Clocks, apps: Apps) -> None:
        self._clocks = clocks
        self._apps = apps
        self.routes = [
            Route("/clock", for_clients(authenticator, self._time)),
            Route("/clock", for_clients(authenticator, self._advance), methods=["POST"]),
            Route("/clock", for_clients(authenticator, self._set_back), methods=["DELETE"]),
            Route("/clock/{move_id}/renewal", for_clients(authenticator, self._renew), methods=["POST"]),
            Route("/clock/{move_id}", for_clients(authenticator, self._take_back), methods=["DELETE"]),
        ]

    async def _time(self, request: Request) -> Response:
        return self._told(self._app_id(_Whose.model_validate(dict(request.query_params))))

    async def _advance(self, request: Request) -> Response:
        advance = _Advance.model_validate_json(await small_body(request))
        app_id = self._app_id(advance)
        if advance.lease_s is None:
            self._clocks.of(app_id).advance(advance.seconds)
            return self._told(app_id)
        try:
            move_id = self._clocks.lend(app_id, advance.seconds, lease_s=advance.lease_s)
        except ValueError as error:
            raise invalid(str(error)) from error
        return self._told(app_id, move_id=move_id)

    async def _set_back(self, request: Request) -> Response:
        app_id = self._app_id(_Whose.model_validate(dict(request.query_params)))
        self._clocks.set_back(app_id)
        return self._told(app_id)

    async def _renew(self, request: Request) -> Response:
        if not self._clocks.renew(request.path_params["move_id"]):
            raise not_found("There is no such move of a clock, or it was taken back.")
        return JSONResponse({"renewed": 1})

    async def _take_back(self, request: Request) -> Response:
        if not self._clocks.take_back(request.path_params["move_id"]):
            raise not_found("There is no such move of a clock, or it was taken back already.")
        return JSONResponse({"taken_back": 1})

    def _app_id(self, whose: _Whose) -> str:
        """The id of the app that is meant, which must run. Raises CloudError NOT_FOUND."""
        if whose.app is None:
            return WHOLE
        environment = whose.environment or DEFAULT_ENVIRONMENT
        if whose.app.startswith(_APP_ID):
            app = self._apps.get(whose.app)
            found = None if app.stopped_at else app
        else:
            found = self._apps.find(whose.app, environment=environment)
        if found is None:
            raise not_found(
                f"No app '{whose.app}' runs in environment '{environment}', so it has no clock: "
                "`modal app list` names those that do."
            )
        return found.app_id

    def _told(self, app_id: str, **more: str) -> Response:
        clock = self._clocks.of(app_id)
        told: dict[str, object] = {"at": clock.time(), "offset_s": clock.offset_s, **more}
        if app_id == WHOLE:
            told["apps"] = [self._of_an_app(one, clock.offset_s) for one, clock in self._clocks.ahead().items()]
        return JSONResponse(told)

    def _of_an_app(self, app_id: str, offset_s: float) -> dict[str, object]:
        app = self._apps.get(app_id)
        return {
            "app_id": app_id,
            "app": app.name or app.description,
            "environment": app.environment,
            "offset_s": offset_s,
        }
