"""A real JupyterLab and a real browser. Pictures of what they showed stay in `.artifacts/`."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from workbench import Workbench
from workbench.local_cloud.state import Running

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / ".artifacts"
REMAKE = "WORKBENCH_REMAKE_SCREENSHOTS"
START_S = 90
LONG = 120_000  # milliseconds
_VIEWPORT = {"width": 1280, "height": 1600}


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab; notebooks are opened by name from `directory`."""

    url: str
    token: str
    directory: Path

    def address(self, name: str) -> str:
        """Where a notebook is shown alone."""
        return f"{self.url}/doc/tree/{name}?token={self.token}&reset"

    def write(self, *cells: str) -> str:
        """Make a notebook of these cells that no other test has open; returns its name."""
        name = f"{uuid.uuid4().hex[:12]}.ipynb"
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.directory / name)
        return name


@pytest.fixture(scope="session")
def lab(cloud: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("jupyter")
    directory = home / "notebooks"
    shutil.copytree(ROOT / "notebooks", directory)
    settings = home / "settings"
    settings.mkdir()
    (settings / "overrides.json").write_text(
        json.dumps({"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}})
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={directory}"]
    command += ["--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
    command += [f"--LabApp.app_settings_dir={settings}", "--ServerApp.port_retries=0"]
    env = {
        **os.environ,
        **{name: str(home / name.lower()) for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")},
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "TMPDIR": str(home),  # the server leaves directories behind
        "PYTHONPATH": str(ROOT),
    }
    with (home / "lab.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{url}/api?token={token}", process, home / "lab.log")
        yield Lab(url, token, directory)
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        _, alive = psutil.wait_procs(children, timeout=10)
        for child in alive:
            child.kill()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start: {log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def browser(wb: Workbench) -> Iterator[Browser]:
    """A browser for one module, with an endpoint deployed for its pages.

    While its driver runs, this thread has a running event loop, which other tests and the deployment must not have.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "Chromium is missing: run `workbench test`, which installs it, or `apt-get install -y chromium`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(
        viewport=_VIEWPORT, reduced_motion="reduce", permissions=["clipboard-read", "clipboard-write"]
    )
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    context.close()
    assert problems == []


def wait_for_kernel(page: Page) -> None:
    """Return when the notebook's kernel is ready and idle: the idle indicator alone comes too early."""
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=START_S * 1000)
    page.wait_for_function(
        """async () => {
            const panel = window.jupyterapp.shell.currentWidget;
            if (!panel?.sessionContext) return false;
            await panel.sessionContext.ready;
            const kernel = panel.sessionContext.session?.kernel;
            if (!kernel) return false;
            await kernel.info;
            return kernel.status === 'idle';
        }""",
        timeout=START_S * 1000,
    )


def settled(page: Page) -> None:
    """Return when every cell has run."""
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'", timeout=LONG
    )


def run_all(page: Page) -> None:
    """Run every cell, and do not wait for it."""
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")


def opened(lab: Lab, page: Page, *cells: str) -> Page:
    """A new notebook with all its cells running."""
    page.goto(lab.address(lab.write(*cells)))
    wait_for_kernel(page)
    run_all(page)
    return page


@contextmanager
def dark(page: Page) -> Iterator[None]:
    """JupyterLab's dark theme for a while: it is the same for every page of the session."""
    _theme(page, "JupyterLab Dark")
    yield
    _theme(page, "JupyterLab Light")


def _theme(page: Page, theme: str) -> None:
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", theme)
    page.wait_for_selector(f'body[data-jp-theme-name="{theme}"]', state="attached", timeout=LONG)
    page.wait_for_function("() => getComputedStyle(document.body).getPropertyValue('--jp-layout-color1') !== ''")


def picture(page: Page, name: str) -> Path:
    """Keep a picture of the page."""
    ARTIFACTS.mkdir(exist_ok=True)
    path = ARTIFACTS / f"{name}.png"
    page.evaluate("() => document.fonts.ready.then(() => true)")
    page.screenshot(path=path, animations="disabled")
    return path


def readme_picture(shown: Locator, theme: str) -> None:
    """Keep a picture for the README; it is replaced only when REMAKE is set, for no two machines draw the same."""
    ARTIFACTS.mkdir(exist_ok=True)
    path = ARTIFACTS / f"readme-{theme}.png"
    shown.screenshot(path=path, animations="disabled")
    kept = ROOT / ".github" / "screenshots" / f"{theme}.png"
    if os.environ.get(REMAKE):
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, kept)
    assert kept.is_file()
    assert f".github/screenshots/{theme}.png" in (ROOT / "README.md").read_text()
