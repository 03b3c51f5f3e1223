"""Proxies by name: on Modal a fixed address for what leaves, made in its dashboard; here a name without an effect.

Whoever names one gets it, since there is no place where one could make it first. Nothing is stored: a proxy's id
follows from its environment and its name.
"""

import hashlib
import re
from typing import Any

from modal_proto import api_pb2

from workbench.local_cloud.base.errors import invalid, not_found
from workbench.local_cloud.store.names import DEFAULT_ENVIRONMENT, Objects

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")  # the SDK's own rule (name_utils.py)
_ID = re.compile(r"pr-[0-9a-f]{22}")


class ProxyRpcs:
    """Handles the RPC that looks a proxy up. Those that make and change proxies are not implemented."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def ProxyGet(self, request: api_pb2.ProxyGetRequest, context: Any) -> api_pb2.ProxyGetResponse:
        """Return the proxy of this name, which has no addresses.

        Raises CloudError INVALID_ARGUMENT for a bad name, NOT_FOUND for an unknown environment.
        """
        if not _NAME.fullmatch(request.name):
            raise invalid(
                f"Invalid proxy name {request.name[:64]!r}: use 1 to 64 letters, digits, dashes, dots and underscores."
            )
        place = self._objects.environment_id(request.environment_name)
        proxy_id = f"pr-{hashlib.sha256(f'{place} {request.name}'.encode()).hexdigest()[:22]}"
        return api_pb2.ProxyGetResponse(
            proxy=api_pb2.Proxy(
                name=request.name, environment_name=request.environment_name or DEFAULT_ENVIRONMENT, proxy_id=proxy_id
            )
        )


def check_proxy(proxy_id: str) -> None:
    """Raise CloudError NOT_FOUND for an id that no proxy can have; an empty one is none."""
    if proxy_id and not _ID.fullmatch(proxy_id):
        raise not_found(f"Proxy {proxy_id[:64]} not found.")
