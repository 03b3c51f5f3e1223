"""A project's files in JupyterLab: hostile names and contents are text, and nothing of theirs runs or loads."""

import struct
import zlib
from base64 import b64encode
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.standard.browser.cells import PATIENCE_MS, again, aside, connected, listening
from tests.standard.browser.conftest import JupyterPages, dark, picture
from workbench import Project, Workbench
from workbench.files.project_files import ProjectVolume

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

MARKUP = "<img src=x onerror=alert(1)><b>.txt"
HOSTILE = "<script>window.parent.owned = 1</script>\x1b[2J\u202eevil\n"
PAGE = """<!doctype html><h1>A page</h1><p id=said>no script ran</p>
<script>document.getElementById('said').textContent = 'a script ran'</script>
<img src="ELSEWHERE/pixel"><link rel=stylesheet href="ELSEWHERE/style">
<meta http-equiv=refresh content="0;url=ELSEWHERE/refreshed">
<a id=away href="ELSEWHERE/away" target=_self>leave</a>
<form action="ELSEWHERE/form"><button id=send>send</button></form><iframe src="ELSEWHERE/frame"></iframe>
"""
MODULE = '"""A greeting."""\n\n\ndef greet(name: str) -> str:\n    # says hello\n    return f"hello {name}" * 3\n'
JSON = '{"name": "report", "big": 12345678901234567890, "steps": [1, 2.50, null, true], "<b>": {"deep": ["x"]}}'


def dot(colour: bytes = b"\xff\x80\x00") -> bytes:
    """A small PNG picture."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = (b"\0" + colour * 64) * 64
    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """Where the hostile page would like to go, and who has come there."""
    with listening() as found:
        yield found


@pytest.fixture
def volume(wb: Workbench, project: Project, elsewhere: tuple[str, list[str]]) -> ProjectVolume:
    """The project with files of every kind, and a change to one."""
    return aside(_filled, wb, project, elsewhere[0])


def _filled(wb: Workbench, project: Project, elsewhere: str) -> ProjectVolume:
    volume = wb.volume(project)
    files = {
        "src/greeting.py": MODULE.encode(),
        "page.html": PAGE.replace("ELSEWHERE", elsewhere).encode(),
        "facts.json": JSON.encode(),
        "dot.png": dot(),
        "raw.bin": bytes(range(256)) * 40,
        "empty.txt": b"",
        MARKUP: HOSTILE.encode(),
    }
    write = [{"path": path, "content": b64encode(data).decode(), "encoding": "base64"} for path, data in files.items()]
    wb.launch(project, "files", op="write", files=write).wait()
    volume.write("src/greeting.py", MODULE.replace("hello", "good day").encode())
    return volume


def entry(view: Locator, name: str) -> Locator:
    return view.get_by_role("treeitem").filter(has=view.page.get_by_text(name, exact=True))


@pytest.fixture
def view(desk: JupyterPages, wb: Workbench, project: Project, volume: ProjectVolume) -> Locator:
    view = desk.show(f"{connected(wb, project)}\nvolume.browse()").locator(".wb-volume")
    expect(entry(view, "page.html")).to_be_visible(timeout=PATIENCE_MS)
    return view


def test_files_are_shown_as_what_they_are(desk: JupyterPages, view: Locator) -> None:
    entry(view, "greeting.py").click()
    expect(view.locator(".wb-content")).to_contain_text('return f"good day {name}" * 3', timeout=PATIENCE_MS)
    expect(view.locator(".wb-token-keyword", has_text="def")).to_be_visible()
    picture(view, "volume-text")
    entry(view, "facts.json").click()
    expect(view.locator(".wb-json-value", has_text="12345678901234567890")).to_be_visible(timeout=PATIENCE_MS)
    picture(view, "volume-json")
    entry(view, "dot.png").click()
    image = view.locator("img.wb-image")
    expect(image).to_be_visible(timeout=PATIENCE_MS)
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    entry(view, "raw.bin").click()
    expect(view.locator(".wb-pane")).to_contain_text("not text, 10.0 KiB: download it", timeout=PATIENCE_MS)
    with desk.page.expect_download() as download:
        view.get_by_role("button", name="Download this file").click()
    assert download.value.path().read_bytes() == bytes(range(256)) * 40
    assert download.value.suggested_filename == "raw.bin"


def test_what_a_job_wrote_does_nothing(desk: JupyterPages, view: Locator, elsewhere: tuple[str, list[str]]) -> None:
    """Its names and texts are text; its page runs no script, loads nothing, and leads nowhere."""
    page = desk.page
    address, callers = elsewhere
    entry(view, MARKUP).click()
    text = view.locator(".wb-content")
    expect(text).to_contain_text("<script>window.parent.owned = 1</script>", timeout=PATIENCE_MS)
    assert "\x1b" not in text.inner_text()
    assert "\u202e" not in text.inner_text()
    entry(view, "page.html").click()
    shut_in = view.frame_locator("iframe.wb-page").frame_locator("iframe")
    expect(shut_in.locator("#said")).to_have_text("no script ran", timeout=PATIENCE_MS)
    picture(view, "volume-page")
    shut_in.locator("#send").click()
    expect(shut_in.locator("#said")).to_have_text("no script ran")
    assert callers == []
    shut_in.locator("#away").click()
    view.get_by_role("button", name="Show as source").click()
    expect(view.locator(".wb-content")).to_contain_text("<h1>A page</h1>")
    callers.clear()  # Chromium connects to where a link leads, and sends nothing
    page.evaluate("address => fetch(address, { mode: 'no-cors' }).catch(() => null)", address)
    assert callers != []  # whoever came would have been seen
    assert page.evaluate("() => window.owned") is None
    assert len(page.context.pages) == 1


def test_the_way_back(view: Locator, volume: ProjectVolume) -> None:
    """History, what differs, who wrote what, and an earlier state brought back after a question."""
    entry(view, "greeting.py").click()
    view.get_by_role("tab", name="History").click()
    commits = view.get_by_role("table", name="Commits").locator("tbody tr")
    expect(commits).to_have_count(2, timeout=PATIENCE_MS)
    picture(view, "volume-history")
    view.get_by_role("button", name="Compare the two states").click()
    expect(view.locator(".wb-diff .wb-token-added")).to_contain_text(["good day"], timeout=PATIENCE_MS)
    picture(view, "volume-changes")
    view.get_by_role("tab", name="Blame").click()
    expect(view.get_by_role("table", name="Who wrote each line").locator("tr")).to_have_count(6, timeout=PATIENCE_MS)
    picture(view, "volume-blame")
    view.get_by_role("tab", name="History").click()
    commits.last.get_by_role("button", name="Restore commit").click()
    expect(view.locator(".wb-asking")).to_contain_text("changes 1 (src/greeting.py)", timeout=PATIENCE_MS)
    picture(view, "volume-restore")
    view.get_by_role("button", name="Do nothing").click()
    commits.last.get_by_role("button", name="Restore commit").click()
    view.get_by_role("button", name="restore", exact=True).click()
    expect(view.locator(".wb-notice")).to_contain_text("restored as commit", timeout=PATIENCE_MS)
    expect(commits).to_have_count(3, timeout=PATIENCE_MS)
    assert aside(volume.read, "src/greeting.py") == MODULE.encode()


def test_a_file_goes_in_and_replaces_another_after_a_question(view: Locator, volume: ProjectVolume) -> None:
    entry(view, "src").click()
    upload = view.get_by_label("A file to upload")
    upload.set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"first"})
    expect(view.locator(".wb-notice")).to_have_text("uploaded src/notes.txt", timeout=PATIENCE_MS)
    expect(entry(view, "notes.txt")).to_be_visible(timeout=PATIENCE_MS)
    upload.set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"second"})
    view.get_by_role("button", name="replace").click(timeout=PATIENCE_MS)
    expect(view.locator(".wb-notice")).to_have_text("uploaded src/notes.txt", timeout=PATIENCE_MS)
    assert aside(volume.read, "src/notes.txt") == b"second"
    upload.set_input_files({"name": "x" * 300, "mimeType": "text/plain", "buffer": b""})
    expect(view.locator(".wb-asking")).to_contain_text("has 300 bytes, and may have at most 255", timeout=PATIENCE_MS)
    picture(view, "volume-error")


def test_a_page_that_is_loaded_again_shows_the_same(
    desk: JupyterPages, view: Locator, wb: Workbench, project: Project
) -> None:
    """The kernel lives, and so do the tree, what is chosen, and what is not committed."""
    entry(view, "facts.json").click()
    with wb.faults.injected(at="commit", path=f"*{project.project_id}", status="RESOURCE_EXHAUSTED"):
        code = "open('lost.txt', 'w').write('x' * 5000); print('on', flush=True); import time; time.sleep(100)"
        run = wb.launch(project, "python", code=code)
        assert any(event.type == "stream" for event in run.follow())
        view.get_by_role("button", name="Read the volume again").click()
        expect(view.locator(".wb-uncommitted")).to_contain_text("holds 1 file, 4.9 KiB", timeout=PATIENCE_MS)
        again(desk.page)
        expect(view.locator(".wb-name")).to_have_text("facts.json", timeout=PATIENCE_MS)
        expect(view.locator(".wb-json-value").first).to_be_visible(timeout=PATIENCE_MS)
        view.get_by_role("button", name="Compare with").click()
        expect(view.locator(".wb-change .wb-content")).to_contain_text("+xxxxx", timeout=PATIENCE_MS)
        with dark(desk.page):
            picture(view, "volume-uncommitted")
    aside(run.cancel)
