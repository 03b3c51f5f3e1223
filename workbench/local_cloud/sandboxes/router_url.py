"""The URL of the task command router as each SDK wants it; all of them reach the same plain-text port.

The SDKs for JavaScript and Go take none but `https://`, and then speak plain text to a cloud on this machine; the one
for Python believes the scheme.
"""

from typing import Any

from modal_proto import api_pb2

from workbench.local_cloud.server.callers import metadata

_HTTPS_ONLY = frozenset(str(number) for number in (api_pb2.CLIENT_TYPE_LIBMODAL_JS, api_pb2.CLIENT_TYPE_LIBMODAL_GO))


class Url:
    """A call that returns a URL, known once the server listens."""

    def __init__(self) -> None:
        self.value = ""

    def __call__(self) -> str:
        """Return the URL."""
        return self.value

    def for_caller(self, context: Any) -> str:
        """Return the URL with the scheme that the calling SDK takes."""
        client_type = metadata(context).get("x-modal-client-type", "")
        if client_type in _HTTPS_ONLY and self.value.startswith("http://"):
            return f"https://{self.value.removeprefix('http://')}"
        return self.value
