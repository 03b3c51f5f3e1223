"""Hostile callers: a clear 4xx in JSON, nothing created, nothing secret logged."""

import json
import socket
import uuid
from typing import Any
from urllib.parse import urlsplit

import httpx
import modal
import pytest

from modal_app.contract.caps import MAX_BODY_BYTES
from tests.conftest import live_sandboxes
from tests.quick.modal_app.contract.test_requests import BAD, BAD_IDS, BAD_PATHS, ID
from workbench import Project, Workbench


@pytest.fixture(autouse=True)
def _nothing_is_started(wb: Workbench) -> Any:
    yield
    assert live_sandboxes() == []


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_created(wb: Workbench) -> Any:
    """By none of them: the volume has the files of all tests, and takes a while to be listed."""
    volume = modal.Volume.from_name("endpoint-tests-projects", create_if_missing=True, version=2)
    before = {entry.path for entry in volume.iterdir("/projects", recursive=True)} if _exists(volume) else set()
    yield
    after = {entry.path for entry in volume.iterdir("/projects", recursive=True)} if _exists(volume) else set()
    assert after == before


def _exists(volume: modal.Volume) -> bool:
    return any(entry.path.strip("/") == "projects" for entry in volume.iterdir("/", recursive=False))


def owner(project: Project) -> dict[str, object]:
    return {"user_id": project.user_id, "project_id": project.project_id}


def refused(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error", "code", "recoverable"}
    assert (response.json()["code"], response.json()["recoverable"]) == (code, False)
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("secret", [None, "", "wrong", "x" * 10_000, "sécret".encode()], ids=repr)
def test_without_the_secret_nothing_is_even_read(wb: Workbench, secret: Any) -> None:
    headers = {} if secret is None else {"X-Modal-Secret": secret}
    for method, path in (("POST", "/generate"), ("DELETE", f"/generate/{uuid.uuid4()}")):
        response = httpx.request(method, wb.endpoint.url + path, headers=headers, content=None, timeout=30)
        refused(response, 401, "unauthorized")


@pytest.mark.parametrize("name", BAD)
def test_a_body_that_does_not_follow_the_contract(http: httpx.Client, project: Project, name: str) -> None:
    refused(http.post("/generate", json={**owner(project), **BAD[name]}), 400, "invalid_request")


@pytest.mark.parametrize("name", BAD_PATHS)
@pytest.mark.parametrize(
    "fields",
    [
        {"action": "python"},
        {"action": "files", "op": "read"},
        {"action": "files", "op": "delete"},
        {"action": "files", "op": "list"},
    ],
    ids=lambda fields: fields.get("op", "python"),
)
def test_a_path_out_of_the_project(http: httpx.Client, project: Project, fields: dict[str, str], name: str) -> None:
    refused(http.post("/generate", json={**owner(project), **fields, "path": BAD_PATHS[name]}), 400, "invalid_request")


@pytest.mark.parametrize("name", BAD_IDS)
def test_an_id_that_is_not_canonical(http: httpx.Client, project: Project, name: str) -> None:
    content = {**owner(project), "project_id": BAD_IDS[name], "action": "python", "code": "1"}
    refused(http.post("/generate", json=content), 400, "invalid_request")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b"{" * 100_000], ids=["empty", "cut", "list", "bytes", "deep"]
)
def test_what_is_not_a_json_object(http: httpx.Client, content: bytes) -> None:
    refused(http.post("/generate", content=content), 400, "invalid_request")


def test_a_body_that_is_too_long(http: httpx.Client, project: Project) -> None:
    """Told with and without a declared length, and not parsed."""
    long = json.dumps({**owner(project), "action": "python", "code": "x" * MAX_BODY_BYTES}).encode()
    refused(http.post("/generate", content=long), 413, "too_large")
    refused(http.post("/generate", content=iter([long])), 413, "too_large")


def test_a_timeout_longer_than_the_endpoint_allows(http: httpx.Client, project: Project) -> None:
    content = {**owner(project), "action": "python", "code": "1", "timeout_s": 3600}
    refused(http.post("/generate", json=content), 400, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/generate", 405),
        ("POST", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("PUT", "/health", 405),
        ("PATCH", f"/generate/{ID}", 405),
        ("POST", "/generate/", 404),
    ],
)
def test_other_routes(http: httpx.Client, method: str, path: str, status: int) -> None:
    refused(http.request(method, path), status, "not_found" if status == 404 else "method_not_allowed")


def test_health_needs_no_secret_and_tells_nothing(wb: Workbench) -> None:
    assert httpx.get(wb.endpoint.url + "/health", timeout=30).json() == {"status": "ok"}


def test_bytes_that_are_not_http(wb: Workbench) -> None:
    """A request line of garbage, a header without end: the connection ends, the endpoint goes on."""
    parts = urlsplit(wb.endpoint.url)
    for garbage in (b"\x00\x01\x02\r\n\r\n", b"POST /generate HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n"):
        with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
            try:
                connection.sendall(garbage)
                assert b"400" in connection.recv(4096)
            except ConnectionError:
                pass
    assert httpx.get(wb.endpoint.url + "/health", timeout=30).status_code == 200


def test_a_refusal_logs_neither_secret_nor_body(
    wb: Workbench, http: httpx.Client, modal_cli: Any, project: Project
) -> None:
    httpx.post(wb.endpoint.url + "/generate", headers={"X-Modal-Secret": "guess-quagga"}, content="{}", timeout=30)
    http.post("/generate", json={**owner(project), "action": "python", "code": 1, "extra": "body-quagga"})
    log = modal_cli("app", "logs", "endpoint-tests")
    assert "quagga" not in log
    assert wb.endpoint.secret.get_secret_value() not in log
