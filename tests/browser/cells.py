"""What the tests of the volume browser, the runs table and the deploy panel do with their pages."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from playwright.sync_api import Page, Request

from tests.browser.conftest import Lab, settled, wait_for_kernel
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


@contextmanager
def asked_elsewhere(page: Page, lab: Lab) -> Iterator[list[str]]:
    """The addresses that the page asks for outside of this JupyterLab, while the block runs."""
    found: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith((lab.url, lab.url.replace("http", "ws"), "data:", "blob:", "about:")):
            found.append(request.url)

    page.context.on("request", note)
    try:
        yield found
    finally:
        page.context.remove_listener("request", note)
