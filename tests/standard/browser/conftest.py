"""A real JupyterLab and a real browser. Pictures of what they showed stay in `.artifacts/`."""

import json
import os
import secrets
import shutil
import signal
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
from playwright.sync_api import Browser, Dialog, Locator, Page, expect

from tests.support.chromium import chromium
from tests.support.paths import ROOT
from tests.support.places import free_port
from workbench import Workbench
from workbench.local_cloud.process.state_directory import Running

ARTIFACTS = ROOT / ".artifacts"
REMAKE = "WORKBENCH_REMAKE_SCREENSHOTS"
START_S = 90
LONG = 120_000  # milliseconds
expect.set_options(timeout=30_000)  # what a page is to show has its time also on a busy machine
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
    shown = home / "jupyter_config_dir" / "labconfig"
    shown.mkdir(parents=True)
    # A page asks else whether JupyterLab must be built anew, for which the server starts Node.js each time.
    (shown / "page_config.json").write_text(json.dumps({"buildCheck": False, "buildAvailable": False}))
    port = free_port()
    token = secrets.token_hex(16)
    dying_with_us = ["setpriv", "--pdeathsig", "TERM", "--"]  # a worker that is interrupted ends no fixture
    command = [*dying_with_us, sys.executable, "-m", "jupyterlab"]
    command += ["--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root"]
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


@pytest.fixture(scope="package")
def browser(wb: Workbench) -> Iterator[Browser]:
    """A browser for these tests, with an endpoint deployed for their pages.

    While its driver runs, this thread has a running event loop, which other tests and the deployment must not have.
    """
    with chromium() as browser:
        yield browser


@contextmanager
def new_page(browser: Browser, problems: list[str]) -> Iterator[Page]:
    """A page with nothing of another; what goes wrong in it is added to `problems`."""
    context = browser.new_context(
        viewport=_VIEWPORT, reduced_motion="reduce", permissions=["clipboard-read", "clipboard-write"]
    )
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: _answer(dialog, problems))
    yield page
    context.close()


def _answer(dialog: Dialog, problems: list[str]) -> None:
    if dialog.type == "beforeunload":  # JupyterLab asks so when there is something to save
        dialog.accept()
    else:
        problems.append(f"{dialog.type}: {dialog.message}")
        dialog.dismiss()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    problems: list[str] = []
    with new_page(browser, problems) as page:
        yield page
    assert problems == []


class JupyterPages:
    """A notebook of one cell, with its page and its kernel: what a test shows there takes the place of the last."""

    def __init__(self, lab: Lab, page: Page) -> None:
        self.lab = lab
        self.page = page

    def open(self) -> None:
        """Begin with a new notebook, and so with a new kernel."""
        self.page.goto(self.lab.address(self.lab.write("")))
        wait_for_kernel(self.page)

    def alive(self) -> bool:
        """Whether there is a kernel that can be asked something."""
        found = self.page.evaluate(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
        )
        return found in {"idle", "busy"}

    def clear(self) -> None:
        """Take away what was shown, from the page and from the kernel."""
        if self.page.locator(".jp-Dialog").count():
            self.page.keyboard.press("Escape")  # that a kernel has died, which is known
        if not self.alive():
            self.open()
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.widgets[0].model.outputs.clear()")
        self.execute("__import__('ipywidgets').Widget.close_all()")

    def show(self, code: str) -> Locator:
        """Run code in the cell, and do not wait for it; returns the cell."""
        self.clear()
        self.page.evaluate(
            """code => {
                const { content } = window.jupyterapp.shell.currentWidget;
                content.activeCellIndex = 0;
                content.activeCell.model.sharedModel.setSource(code);
                window.jupyterapp.commands.execute('notebook:run-cell');
            }""",
            code,
        )
        return self.page.locator(".jp-Notebook .jp-Cell").first

    def execute(self, code: str) -> str:
        """Run code in the kernel, beside the cell; returns what it printed."""
        return str(
            self.page.evaluate(
                """async code => {
                    const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
                    const future = kernel.requestExecute({ code, store_history: false });
                    let said = '';
                    future.onIOPub = ({ content }) => { said += content.text ?? content.evalue ?? ''; };
                    await future.done;
                    return said;
                }""",
                code,
            )
        )


@pytest.fixture(scope="package")
def _desk(lab: Lab, browser: Browser) -> Iterator[tuple[JupyterPages, list[str]]]:
    problems: list[str] = []
    with new_page(browser, problems) as page:
        yield JupyterPages(lab, page), problems


@pytest.fixture
def desk(_desk: tuple[JupyterPages, list[str]]) -> Iterator[JupyterPages]:
    """A page and a kernel that tests share, for opening them takes longer than what is tested; nothing is on it."""
    desk, problems = _desk
    desk.clear()
    problems.clear()
    yield desk
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


@contextmanager
def dark(page: Page) -> Iterator[None]:
    """JupyterLab's dark theme for a while: it is the same for every page of the session."""
    _theme(page, "JupyterLab Dark")
    try:
        yield
    finally:
        _theme(page, "JupyterLab Light")


def _theme(page: Page, theme: str) -> None:
    """Change the theme. JupyterLab shows its splash meanwhile, and stumbles over two changes at once."""
    splash = page.locator("#jupyterlab-splash")
    splash.wait_for(state="detached", timeout=LONG)
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", theme)
    page.wait_for_selector(f'body[data-jp-theme-name="{theme}"]', state="attached", timeout=LONG)
    page.wait_for_function("() => getComputedStyle(document.body).getPropertyValue('--jp-layout-color1') !== ''")
    splash.wait_for(state="detached", timeout=LONG)


def picture(shown: Page | Locator, name: str) -> Path:
    """Keep a picture of the page, or of a part of it."""
    ARTIFACTS.mkdir(exist_ok=True)
    path = ARTIFACTS / f"{name}.png"
    page = shown if isinstance(shown, Page) else shown.page
    page.evaluate("() => document.fonts.ready.then(() => true)")
    shown.screenshot(path=path, animations="disabled")
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
