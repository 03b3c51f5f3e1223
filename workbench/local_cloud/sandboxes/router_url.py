"""The URL of the task command router, with the scheme that the calling SDK expects. The port speaks plain text to all.

The SDKs for JavaScript and Go accept only `https://`, but use plain text for addresses of this machine. The SDK for
Python does what the scheme says, so it gets `http://`.
"""

from typing import Any

from modal_proto import api_pb2

from workbench.local_cloud.server.callers import metadata

_HTTPS_ONLY = frozenset(str(number) for number in (api_pb2.CLIENT_TYPE_LIBMODAL_JS, api_pb2.CLIENT_TYPE_LIBMODAL_GO))


class Url:
    """A callable that returns a URL. Its `value` is set once the server listens, and empty before."""

    def __init__(self) -> None:
        self.value = ""

    def __call__(self) -> str:
        """Return the URL."""
        return self.value

    def for_caller(self, context: Any) -> str:
        """Return the URL with the scheme that the calling SDK expects; `context` is the call's."""
        client_type = metadata(context).get("x-modal-client-type", "")
        if client_type in _HTTPS_ONLY and self.value.startswith("http://"):
            return f"https://{self.value.removeprefix('http://')}"
        return self.value
