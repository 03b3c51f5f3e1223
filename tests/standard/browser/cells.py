"""What the tests of the volume browser, the runs table and the deploy panel do with their pages."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, TypeVar

from playwright.sync_api import Page

from tests.standard.browser.conftest import settled, wait_for_kernel
from workbench import Project, Workbench

T = TypeVar("T")

PATIENCE_MS = 60_000


def aside(work: Callable[..., T], *arguments: Any) -> T:
    """Do something in another thread: the SDK's blocking calls must not be made where the browser's driver runs."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


def again(page: Page) -> None:
    """Load the page again, with the notebook saved and its kernel alive."""
    settled(page)
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.reload()
    wait_for_kernel(page)


def connected(workbench: Workbench, project: Project | None = None) -> str:
    """A cell that has `workbench`, `wb` and, of a project, `volume`."""
    lines = ["import workbench", f"wb = workbench.connect(app_name={workbench.app_name!r})"]
    if project is not None:
        lines.append(f"volume = wb.volume(workbench.Project({project.user_id!r}, {project.project_id!r}))")
    return "\n".join(lines)


class _Heard(HTTPServer):
    """Takes every connection down, and talks to none."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), BaseHTTPRequestHandler)
        self.callers: list[str] = []

    def verify_request(self, request: object, client_address: object) -> bool:
        self.callers.append(str(client_address))
        return False


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """An address on loopback, and who has connected to it so far."""
    with _Heard() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server.callers
        finally:
            server.shutdown()
            thread.join()
