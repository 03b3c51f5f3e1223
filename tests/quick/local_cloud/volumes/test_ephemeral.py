"""An ephemeral volume goes when its owner is silent; a named one never does."""

from pathlib import Path
from typing import Any

import pytest
from modal_proto import api_pb2

from tests.quick.local_cloud.volumes.conftest import Service
from workbench.local_cloud.base.credentials import Credentials
from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.sandboxes.router_url import Url
from workbench.local_cloud.server.signed_links import Links
from workbench.local_cloud.store.arrivals import Arrivals
from workbench.local_cloud.store.ephemeral import SILENCE_S, Ephemeral
from workbench.local_cloud.store.names import Objects
from workbench.local_cloud.volumes.block_routes import VolumeRoutes
from workbench.local_cloud.volumes.volume_rpc import Mounts, VolumeRpcs


async def test_only_an_ephemeral_volume_without_a_sign_of_life_is_dropped(service: Service, tmp_path: Path) -> None:
    now = 1000.0
    objects = Objects(service.database)
    links = Links(Credentials.new().signing_key.encode(), Url())
    arrivals = Arrivals(service.content)
    rpcs = VolumeRpcs(
        objects,
        Ephemeral(service.database, now=lambda: now),
        service.committed,
        service.content,
        arrivals,
        VolumeRoutes(service.content, arrivals, links),
        mounts_of=lambda _: Mounts(),
    )

    async def made(creation_type: Any, name: str = "") -> str:
        request = api_pb2.VolumeGetOrCreateRequest(deployment_name=name, object_creation_type=creation_type)
        return (await rpcs.VolumeGetOrCreate(request, None)).volume_id

    named = await made(api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING, "kept")
    alive, silent = [await made(api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL) for _ in range(2)]
    now += SILENCE_S - 1
    await rpcs.VolumeHeartbeat(api_pb2.VolumeHeartbeatRequest(volume_id=alive), None)
    rpcs.drop_abandoned()
    assert service.committed.version(silent) == api_pb2.VOLUME_FS_VERSION_V1
    now += 2
    rpcs.drop_abandoned()
    with pytest.raises(CloudError, match="not found"):
        service.committed.version(silent)
    for kept in (named, alive):
        service.committed.version(kept)
    now += SILENCE_S
    rpcs.drop_abandoned()
    with pytest.raises(CloudError, match="not found"):
        service.committed.version(alive)
    service.committed.version(named)
