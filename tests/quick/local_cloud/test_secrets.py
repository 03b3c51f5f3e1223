"""Secrets without a name: their values go when nothing can use them any more, and never before."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from modal_proto import api_pb2

from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.apps.deployment_versions import Deployments
from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.objects.secrets import OWNED_KEPT_S, UNOWNED_KEPT_S, SecretRpcs
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.names import Objects

OWNED = api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP
EPHEMERAL = api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL
NAMED = api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING


class Service:
    """Secrets and apps of one database, by a clock that a test moves."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.secrets = SecretRpcs(database, Objects(database), now=lambda: self.time)
        self.apps = Apps(database)
        self.deployments = Deployments(database, self.apps)
        self.time = 0.0

    async def make(self, how: "api_pb2.ObjectCreationType.ValueType", app_id: str = "", name: str = "") -> str:
        request = api_pb2.SecretGetOrCreateRequest(
            object_creation_type=how, app_id=app_id, deployment_name=name, env_dict={"WORD": "hush"}
        )
        secret_id = (await self.secrets.SecretGetOrCreate(request, None)).secret_id
        self.time = max(self.time, self.database.all("SELECT max(created_at) FROM objects")[0][0])
        return secret_id

    def deploy(self, app_id: str, function_id: str, secret_id: str) -> str:
        definition = api_pb2.Function(function_name="f", secret_ids=[secret_id])
        function_id = self.apps.define_function(app_id, function_id, definition)
        request = api_pb2.AppPublishRequest(app_id=app_id, name="a", app_state=api_pb2.APP_STATE_DEPLOYED)
        request.function_ids["f"] = function_id
        self.deployments.publish(request, client_version="1")
        return function_id

    def left(self, *secret_ids: str, after_s: float) -> list[str]:
        """Those of the secrets that are left after some time."""
        self.time += after_s
        self.secrets.drop_unused(
            running_apps=self.apps.not_stopped,
            needed=lambda: self.apps.needed_secrets() | self.deployments.needed_secrets(),
        )
        rows = self.database.all("SELECT secret_id FROM secrets")
        return [one for one in secret_ids if one in {row["secret_id"] for row in rows}]


@pytest.fixture
def service() -> Iterator[Service]:
    database = Database(Path(":memory:"))
    yield Service(database)
    database.close()


async def test_a_secret_of_an_app_goes_some_time_after_the_app_has_stopped(service: Service) -> None:
    app_id = service.apps.create(environment="", description="a", state=api_pb2.APP_STATE_EPHEMERAL)
    owned, named = await service.make(OWNED, app_id), await service.make(NAMED, name="kept")
    assert service.left(owned, named, after_s=UNOWNED_KEPT_S + 1) == [owned, named]
    service.secrets.resolve([owned])
    service.apps.stop(app_id)
    assert service.left(owned, named, after_s=OWNED_KEPT_S - 1) == [owned, named]
    assert service.left(owned, named, after_s=2) == [named]
    with pytest.raises(CloudError, match="not found"):
        service.secrets.resolve([owned])


async def test_a_secret_that_any_version_of_a_deployment_needs_stays_until_that_has_stopped(service: Service) -> None:
    """Also one that was made for another app, and one that only a variant has."""
    other = service.apps.create(environment="", description="o", state=api_pb2.APP_STATE_EPHEMERAL)
    app_id = service.apps.create(environment="", description="a", state=api_pb2.APP_STATE_INITIALIZING)
    first, second, variant = [await service.make(OWNED, other) for _ in range(3)]
    function_id = service.deploy(app_id, "", first)
    service.deploy(app_id, function_id, second)
    service.apps.bind(function_id, b"", api_pb2.FunctionOptions(secret_ids=[variant]))
    service.apps.stop(other)
    made = (first, second, variant)
    assert service.left(*made, after_s=OWNED_KEPT_S + 1) == [*made]
    service.deployments.roll_back(app_id, 1, client_version="1")
    assert service.left(*made, after_s=OWNED_KEPT_S + 1) == [*made]
    service.apps.stop(app_id)
    assert service.left(*made, after_s=OWNED_KEPT_S + 1) == []


async def test_a_secret_without_an_app_goes_a_day_after_its_last_use(service: Service) -> None:
    """One that an older build has made for an app is such a one: its app was not recorded."""
    secret_id = await service.make(EPHEMERAL)
    service.time += UNOWNED_KEPT_S - 1
    service.secrets.resolve([secret_id])
    assert service.left(secret_id, after_s=UNOWNED_KEPT_S - 1) == [secret_id]
    assert service.left(secret_id, after_s=2) == []
