"""Dict RPCs: names, and the entries that `dicts.py` stores."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.objects.dicts import Dicts
from workbench.local_cloud.objects.named_objects import Named
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.ephemeral import Ephemeral
from workbench.local_cloud.store.names import Objects


class DictRpcs:
    """Handles the dict RPCs."""

    def __init__(self, database: Database, objects: Objects, ephemeral: Ephemeral, dicts: Dicts) -> None:
        self._db = database
        self._named = Named("dict", "di", objects, ephemeral)
        self._dicts = dicts

    async def DictGetOrCreate(
        self, request: api_pb2.DictGetOrCreateRequest, context: Any
    ) -> api_pb2.DictGetOrCreateResponse:
        """Find or create a dict; a new one starts with the entries in `data`."""
        with self._db.transaction():
            dict_id, created = self._named.get_or_create(
                request.deployment_name,
                environment=request.environment_name,
                creation_type=request.object_creation_type,
            )
            if created and request.data:
                self._dicts.update(dict_id, [(entry.key, entry.value) for entry in request.data])
        return api_pb2.DictGetOrCreateResponse(dict_id=dict_id, metadata=self._metadata(dict_id))

    def _metadata(self, dict_id: str) -> api_pb2.DictMetadata:
        name, made = self._named.describe(dict_id)
        return api_pb2.DictMetadata(name=name, creation_info=made)

    async def DictGetById(self, request: api_pb2.DictGetByIdRequest, context: Any) -> api_pb2.DictGetByIdResponse:
        """Look a dict up by id."""
        return api_pb2.DictGetByIdResponse(dict_id=request.dict_id, metadata=self._metadata(request.dict_id))

    async def DictList(self, request: api_pb2.DictListRequest, context: Any) -> api_pb2.DictListResponse:
        """List named dicts, newest first."""
        response = api_pb2.DictListResponse(environment_name=request.environment_name)
        for dict_id, name, created_at in self._named.page(request.environment_name, request.pagination):
            response.dicts.add(name=name, created_at=created_at, dict_id=dict_id, metadata=self._metadata(dict_id))
        return response

    async def DictHeartbeat(self, request: api_pb2.DictHeartbeatRequest, context: Any) -> empty_pb2.Empty:
        """Keep an ephemeral dict alive."""
        self._named.heartbeat(request.dict_id)
        return empty_pb2.Empty()

    async def DictDelete(self, request: api_pb2.DictDeleteRequest, context: Any) -> empty_pb2.Empty:
        """Delete a dict and its entries."""
        self._named.delete(request.dict_id)
        return empty_pb2.Empty()

    async def DictClear(self, request: api_pb2.DictClearRequest, context: Any) -> empty_pb2.Empty:
        """Remove every entry."""
        self._dicts.clear(request.dict_id)
        return empty_pb2.Empty()

    async def DictGet(self, request: api_pb2.DictGetRequest, context: Any) -> api_pb2.DictGetResponse:
        """Read one entry."""
        value = self._dicts.get(request.dict_id, request.key)
        return api_pb2.DictGetResponse(found=value is not None, value=value)

    async def DictPop(self, request: api_pb2.DictPopRequest, context: Any) -> api_pb2.DictPopResponse:
        """Remove one entry and return its value."""
        value = self._dicts.pop(request.dict_id, request.key)
        return api_pb2.DictPopResponse(found=value is not None, value=value)

    async def DictContains(self, request: api_pb2.DictContainsRequest, context: Any) -> api_pb2.DictContainsResponse:
        """Say whether a key is there."""
        return api_pb2.DictContainsResponse(found=self._dicts.contains(request.dict_id, request.key))

    async def DictLen(self, request: api_pb2.DictLenRequest, context: Any) -> api_pb2.DictLenResponse:
        """Count the entries."""
        return api_pb2.DictLenResponse(len=self._dicts.length(request.dict_id))

    async def DictUpdate(self, request: api_pb2.DictUpdateRequest, context: Any) -> api_pb2.DictUpdateResponse:
        """Set all entries or none; the answer's `created` is the result of `Dict.put`."""
        created = self._dicts.update(
            request.dict_id,
            [(entry.key, entry.value) for entry in request.updates],
            if_not_exists=request.if_not_exists,
        )
        return api_pb2.DictUpdateResponse(created=created)

    async def DictContents(
        self, request: api_pb2.DictContentsRequest, context: Any
    ) -> AsyncIterator[api_pb2.DictEntry]:
        """Stream the entries, with keys, values or both."""
        for key, value in self._dicts.contents(request.dict_id, values=request.values):
            yield api_pb2.DictEntry(key=key if request.keys else b"", value=value)

    async def tidy(self) -> None:
        """Delete ephemeral dicts whose owner sends no heartbeats, and entries that have expired."""
        for dict_id in self._named.abandoned():
            self._named.delete(dict_id)
        while self._dicts.drop_expired():  # noqa: ASYNC110  # this waits for nothing, it lets other tasks run
            await asyncio.sleep(0)
