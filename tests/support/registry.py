"""A registry of images on loopback: the reading half of the distribution protocol, with what goes wrong on real ones.

It runs in threads of its own, so that tests with and without an event loop, and clouds in other processes, use it.
"""

import base64
import json
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.layers import Image, digest, index


@dataclass
class Fault:
    """What goes wrong with requests whose path has `path` (a pattern) in it, the next `times` times."""

    path: str
    times: int = 1
    status: int | None = None  # answer with this status instead
    headers: Mapping[str, str] = field(default_factory=dict)  # of every answer, also of right ones
    cut_after: int | None = None  # bytes of the body, then the connection is closed
    stall_after: int | None = None  # bytes of the body, then nothing comes any more
    body: bytes | None = None  # instead of the right one
    method: str = ""  # only of these, all when empty


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]  # names in lower case


@dataclass
class Registry:
    """What a registry has and how it behaves; a test may change it at any time."""

    address: str = ""  # host and port
    users: Mapping[str, str] = field(default_factory=dict)  # name to password; empty: anybody may read
    authentication: str = ""  # "basic", "bearer" or none at all
    realm: str = ""  # of the token server, when it is not this one
    storage: str = ""  # where blobs are redirected to, when they are not here
    knows_ranges: bool = True
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)  # (repository, version)
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    stalled: threading.Event = field(default_factory=threading.Event)  # since a `stall_after` has begun
    closing: threading.Event = field(default_factory=threading.Event)

    def push(self, name: str, image: Image) -> str:
        """Keep an image as `repository:tag`; returns its digest."""
        for blob in image.blobs():
            self.blobs[digest(blob)] = blob
        return self.put(name, image.manifest(), image.media_type())

    def push_index(self, name: str, *images: Image, docker: bool = False) -> str:
        """Keep images for several platforms under one name; returns the index's digest."""
        repository = name.partition(":")[0]
        for image in images:
            self.push(f"{repository}:{image.architecture}{image.variant}", image)
        return self.put(name, *index(images, docker=docker))

    def put(self, name: str, manifest: bytes, media_type: str) -> str:
        """Keep any manifest as `repository:tag`; returns its digest."""
        repository, _, tag = name.partition(":")
        for version in (tag, digest(manifest)):
            self.manifests[repository, version] = (manifest, media_type)
        return digest(manifest)

    def name(self, repository: str) -> str:
        """An image of this registry as people write it."""
        return f"{self.address}/{repository}"

    def asked(self, pattern: str) -> list[Seen]:
        """The requests so far whose path has a pattern in it."""
        return [one for one in self.seen if re.search(pattern, one.path)]


@contextmanager
def registry(host: str = "127.0.0.1", **how: Any) -> Iterator[Registry]:
    """Run a registry for the time of the block; `how` is as for `Registry`."""
    served = Registry(**how)

    class Handler(_Handler):
        registry = served

    server = _Server((host, 0), Handler)
    served.address = f"{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield served
    finally:
        served.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have gone: tests cut them off."""


class _Handler(BaseHTTPRequestHandler):
    registry: Registry
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.registry.seen.append(Seen(self.command, parts.path, parse_qs(parts.query), headers))
        fault = self._fault(parts.path)
        if fault is not None and fault.status is not None:
            self._answer(fault.status, fault.body or b"", dict(fault.headers))
        elif parts.path == "/token":
            self._token(parse_qs(parts.query))
        elif not self._is_allowed():
            self._answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', {"WWW-Authenticate": self._challenge()})
        else:
            self._content(parts.path, fault)

    def _fault(self, path: str) -> Fault | None:
        for fault in self.registry.faults:
            if fault.times > 0 and re.search(fault.path, path) and fault.method in ("", self.command):
                fault.times -= 1
                return fault
        return None

    # -- who may read

    def _user(self) -> str | None:
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Basic":
            return None
        name, _, password = base64.b64decode(value).decode().partition(":")
        return name if self.registry.users.get(name) == password else None

    def _is_allowed(self) -> bool:
        if self.registry.authentication == "basic":
            return self._user() is not None
        if self.registry.authentication == "bearer":
            scheme, _, token = self.headers.get("Authorization", "").partition(" ")
            return scheme == "Bearer" and token in self.registry.tokens
        return True

    def _challenge(self) -> str:
        if self.registry.authentication == "basic":
            return 'Basic realm="a \\"quoted\\" realm, with a comma"'
        realm = self.registry.realm or f"http://{self.registry.address}/token"
        return f'Bearer realm="{realm}",service="tests, and more",scope="repository:x:pull,push"'

    def _token(self, query: Mapping[str, list[str]]) -> None:
        if self.registry.users and self._user() is None:
            self._answer(401, b"{}", {})
            return
        token = secrets.token_hex(16)
        self.registry.tokens.add(token)
        assert query["scope"][0].endswith(":pull")
        self._answer(200, json.dumps({"token": token}).encode(), {})

    # -- what is read

    def _content(self, path: str, fault: Fault | None) -> None:
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", path)
        if found is None:
            self._answer(200 if path == "/v2/" else 404, b"{}", {})
            return
        repository, kind, version = found.groups()
        if kind == "manifests":
            manifest = self.registry.manifests.get((repository, version))
            if manifest is None:
                self._answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}', {})
                return
            self._send(
                200, manifest[0], {"Content-Type": manifest[1], "Docker-Content-Digest": digest(manifest[0])}, fault
            )
        elif self.registry.storage:
            location = f"http://{self.registry.storage}/v2/{repository}/blobs/{version}?signature=signed-for-one-reader"
            self._answer(307, b"", {"Location": location})
        elif version not in self.registry.blobs:
            self._answer(404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}', {})
        else:
            self._blob(self.registry.blobs[version], fault)

    def _blob(self, blob: bytes, fault: Fault | None) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        headers = {"Content-Type": "application/octet-stream"}
        if wanted is None or not self.registry.knows_ranges:
            self._send(200, blob, headers, fault)
            return
        start = int(wanted[1])
        headers["Content-Range"] = f"bytes {start}-{len(blob) - 1}/{len(blob)}"
        self._send(206, blob[start:], headers, fault)

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: Fault | None) -> None:
        """Answer, or do it as the fault wants it."""
        if fault is None:
            self._answer(status, body, headers)
            return
        body = body if fault.body is None else fault.body
        if fault.stall_after is not None:
            self._answer(status, body, headers, cut_after=fault.stall_after)
            self.registry.stalled.set()
            self.registry.closing.wait()
            return
        self._answer(status, body, {**headers, **fault.headers}, cut_after=fault.cut_after)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], *, cut_after: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            if name != "Content-Length" or value:  # without one, the body ends with the connection
                self.send_header(name, value)
            else:
                self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut_after is None else body[:cut_after])
        if cut_after is not None:
            self.close_connection = True
