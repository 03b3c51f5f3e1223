"""The volume browser's Python side: what its page may ask for, and what it gets. The browser tests see it drawn."""

from collections.abc import Iterator

import pytest

from tests.conftest import wait_until
from tests.support.questions import Page
from workbench import Project, Workbench
from workbench.files import project_files
from workbench.files.project_files import MAX_UPLOAD_BYTES
from workbench.widgets import Files, RunsTable, VolumeBrowser, WorkbenchPanel

CODE = """
import os
os.mkdir('d'); open('d/a.txt', 'w').write('text'); open('raw', 'wb').write(bytes(1)); os.symlink('/etc/passwd', 'out')
open('<b>\\x1b[2J', 'w').write('x')
"""


@pytest.fixture
def page(wb: Workbench, project: Project) -> Iterator[Page]:
    assert wb.launch(project, "python", code=CODE).wait(60).type == "done"
    browser = VolumeBrowser(wb.volume(project))
    assert browser.settle(60)
    yield Page(browser)
    browser.close()


def test_the_browser_reads_what_is_committed_and_nothing_outside(page: Page) -> None:
    assert [(entry["path"], entry["kind"]) for entry in page.panel.entries] == [
        ("<b>\x1b[2J", "file"),
        ("d", "directory"),
        ("d/a.txt", "file"),
        ("out", "link"),
        ("raw", "file"),
    ]
    answer, _ = page.ask("preview", path="d/a.txt")
    assert (answer["kind"], answer["lines"]) == ("text", ((("", "text"),),))
    assert "not text" in page.ask("preview", path="raw")[0]["note"]
    for path in ("out", "d", "../x", "/etc/passwd", "", "nothing"):
        for what in ("preview", "download"):
            assert page.refused(what, path=path)


def test_questions_that_nobody_asks_have_no_answer(page: Page) -> None:
    for content in (
        None,
        [],
        {},
        {"type": "ask"},
        {"type": "ask", "id": 1, "what": "close"},
        {"type": "ask", "id": "1"},
    ):
        page.panel._on_message(page.panel, content, [])
    assert page.ask("download", path="d/a.txt")[1] == [b"text"]
    assert [one.get("id") for one, _ in page.sent] == [1000]
    for commit in (-1, "1", None, 1.5):
        assert "number of a commit" in page.refused("restore", commit=commit)
    assert page.panel.problem == ""


def test_what_is_not_listed_is_there_all_the_same(
    page: Page, wb: Workbench, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project with more entries than are listed: its files are read by name, and none is written over unasked."""
    monkeypatch.setattr(project_files, "MAX_LIST_ENTRIES", 2)
    volume = wb.volume(project)
    entries, more = volume.listing()
    assert (len(entries), more) == (2, True)
    assert volume.read("d/a.txt") == b"text"
    assert volume.read("raw") == b"\0"
    assert volume.tree().endswith(project_files.CUT)
    page.panel.refresh()
    assert page.panel.settle(60)
    assert project_files.CUT in page.panel.still()["plain"]
    assert page.ask("upload", [b"other"], path="raw")[0]["exists"] == "file"
    assert volume.read("raw") == b"\0"


def test_history_differences_and_the_way_back(wb: Workbench, page: Page, project: Project) -> None:
    assert wb.launch(project, "python", code="open('d/a.txt', 'w').write('other')").wait(60).type == "done"
    new, old = (one["number"] for one in page.ask("history", path="d/a.txt")[0]["commits"])
    assert page.ask("diff", base=old, head=new)[0]["changes"] == [["d/a.txt", "modified", 4, 5]]
    lines = page.ask("text_diff", path="d/a.txt", base=old)[0]["lines"]
    assert {(("removed", "-text"),), (("added", "+other"),)} <= set(lines)
    assert [line[3] for line in page.ask("blame", path="d/a.txt")[0]["lines"]] == ["other"]
    assert page.ask("preview", path="d/a.txt", commit=old)[0]["lines"] == ((("", "text"),),)
    assert page.ask("restore", path="d/a.txt", commit=old)[0]["said"].startswith("restored as commit")
    assert page.ask("download", path="d/a.txt")[1] == [b"text"]
    assert "There is no commit" in page.refused("restore", path="d/a.txt", commit=10**6)


def test_what_a_restore_would_do_is_told_before(wb: Workbench, page: Page, project: Project) -> None:
    first = page.ask("history")[0]["commits"][0]["number"]
    code = "import os; os.mkdir('e'); os.remove('raw'); [open(n, 'w').write(n) for n in ('d/a.txt', 'new', 'e/f')]"
    assert wb.launch(project, "python", code=code).wait(60).type == "done"
    would = page.ask("would_restore", commit=first)[0]
    assert (would["modified"], would["added"]) == (["d/a.txt"], ["raw"])
    assert {"new", "e/f"} <= set(would["removed"])
    below = page.ask("would_restore", path="d", commit=first)[0]
    assert (below["removed"], below["modified"], below["added"]) == ([], ["d/a.txt"], [])
    assert page.ask("restore", commit=first)[0]["said"].startswith("restored as commit")
    after = page.ask("would_restore", commit=first)[0]
    assert (after["removed"], after["modified"], after["added"]) == ([], [], [])
    for commit in (-1, "1", None):
        assert "number of a commit" in page.refused("would_restore", commit=commit)
    assert "There is no commit" in page.refused("would_restore", commit=10**6)


def test_a_commit_leads_to_its_run_and_a_run_to_its_files(wb: Workbench, project: Project) -> None:
    panel = WorkbenchPanel(wb)
    files, table = panel.part("files"), panel.part("runs")
    assert isinstance(files, Files)
    assert isinstance(table, RunsTable)
    job = wb.launch(project, "python", code="open('a', 'w').write('12'); open('<b>', 'w')")
    job.wait()
    wb.runs.get(job.run_id, wait_s=30)
    changed = Page(table).ask("files", run_id=job.run_id)[0]
    assert [one[:3] for one in changed["files"]] == [["<b>", "added", 0], ["a", "added", 2]]
    assert changed["more"] == 0
    table.handle({"type": "browse", "run_id": job.run_id}, [])
    wait_until(lambda: files.project.get("project_id") == project.project_id and not files.opening, "not opened")
    assert panel.chosen == "files"
    assert files.view is not None
    assert files.view.settle(60)
    newest = Page(files.view).ask("history")[0]["commits"][0]
    assert (newest["run_id"], newest["number"]) == (job.run_id, changed["files"][0][3])
    files.view.handle({"type": "run", "run_id": job.run_id}, [])
    wait_until(lambda: table.shown == job.run_id, "the run was not opened")
    assert panel.chosen == "runs"
    files.view.handle({"type": "run", "run_id": "../x"}, [])
    wait_until(lambda: "canonical" in table.problem, "it was not told")
    panel.close()


def test_a_file_of_one_side_alone_has_a_difference(wb: Workbench, page: Page, project: Project) -> None:
    before = page.ask("history", path="")[0]["commits"][0]["number"]
    code = "import os; os.remove('d/a.txt'); open('new', 'w').write('x\\n')"
    assert wb.launch(project, "python", code=code).wait(60).type == "done"
    changes = page.ask("diff", base=before)[0]["changes"]
    assert [(path, word) for path, word, _, _ in changes] == [("d/a.txt", "removed"), ("new", "added")]
    for path, line in (("d/a.txt", ("removed", "-text")), ("new", ("added", "+x"))):
        assert (line,) in page.ask("text_diff", path=path, base=before)[0]["lines"]
    assert "no file nothing" in page.refused("text_diff", path="nothing", base=before)


def test_a_file_goes_in_and_replaces_none_without_a_word(page: Page) -> None:
    assert page.ask("upload", [b"one"], path="d/new.txt")[0]["said"] == "uploaded d/new.txt"
    assert page.ask("upload", [b"two"], path="d/new.txt")[0]["exists"] == "file"
    assert page.ask("download", path="d/new.txt")[1] == [b"one"]
    page.ask("upload", [b"two"], path="d/new.txt", replace=True)
    assert page.ask("download", path="d/new.txt")[1] == [b"two"]
    assert "modal volume put" in page.ask("upload", [bytes(MAX_UPLOAD_BYTES + 1)], path="large")[0]["message"]
    assert "'..'" in page.refused("upload", path="../out")
    wait_until(lambda: any(one["path"] == "d/new.txt" for one in page.panel.entries), "the tree was not read again")


def test_a_reader_without_a_kernel_sees_the_tree(page: Page) -> None:
    data = page.panel._repr_mimebundle_()[0]
    assert "d/a.txt" in data["text/html"]
    assert "&lt;b&gt;\ufffd[2J" in data["text/html"]
    assert "\x1b" not in data["text/html"] + data["text/plain"]
    assert "a.txt  4 B" in data["text/plain"]


def test_what_is_not_committed_is_told(wb: Workbench, page: Page, project: Project) -> None:
    with wb.faults.injected(at="commit", path=f"*{project.project_id}", status="RESOURCE_EXHAUSTED"):
        code = "open('lost', 'w').write('x' * 10); print(1, flush=True); import time; time.sleep(60)"
        run = wb.launch(project, "python", code=code)
        assert any(event.type == "stream" for event in run.follow())
        page.says(type="refresh")
        wait_until(lambda: bool(page.panel.mounts), "nothing was told")
        (mount,) = page.panel.mounts
        assert (mount["files"], mount["size"], mount["paths"]) == (1, 10, ["lost"])
        assert "not committed" in page.panel.still()["plain"]
        changes = page.ask("diff", holder=mount["holder"])[0]["changes"]
        assert changes == [["lost", "not committed", None, None]]
        assert (("added", "+xxxxxxxxxx"),) in page.ask("text_diff", path="lost", holder=mount["holder"])[0]["lines"]
    run.cancel()


def test_a_volume_that_cannot_be_read_says_why(wb: Workbench, project: Project) -> None:
    with wb.faults.injected(rpc="VolumeListFiles*", status="PERMISSION_DENIED"):
        browser = VolumeBrowser(wb.volume(project))
        assert browser.settle(60)
    assert browser.condition == "error"
    assert "the volume cannot be read" in browser.still()["plain"]
    browser.refresh()
    assert browser.settle(60)
    assert browser.condition == "ready"
    assert "(nothing committed)" in browser.still()["plain"]
    browser.close()
