"""The time machine: who committed what and when, what differs, and the way back; always within one project."""

import json
import re
import uuid

import httpx
import modal
import pytest

from tests.conftest import wait_until
from tests.support.commands import Cli
from tests.support.commands import cli as command_line
from tests.support.paths import APPS
from workbench import HistoryError, HistoryUnavailableError, Project, Workbench
from workbench.files.history import HistoryClient
from workbench.files.project_files import ProjectVolume
from workbench.local_cloud.process.state_directory import Running

STEPS = (
    "open('a.txt', 'w').write('one\\ntwo\\nthree\\n'); open('b.txt', 'w').write('b')",
    "open('a.txt', 'w').write('one\\n2\\nthree\\nfour\\n')",
    "import os; os.remove('b.txt'); os.mkdir('sub'); open('sub/c', 'w').write('c')",
)


@pytest.fixture
def volume(wb: Workbench, project: Project) -> ProjectVolume:
    """A project with three runs behind it."""
    for code in STEPS:
        assert wb.launch(project, "python", code=code).wait().type == "done"
    return wb.volume(project)


def test_commits_tell_who_when_and_what(wb: Workbench, volume: ProjectVolume, project: Project) -> None:
    runs = [commit for commit in volume.history() if commit.author.startswith("sandbox:")]
    assert [sorted(change.path for change in commit.changes) for commit in runs] == [
        ["b.txt", "sub", "sub/c"],
        ["a.txt"],
        ["a.txt", "b.txt"],
    ]
    assert [change.path for change in runs[0].changes if change.removed] == ["b.txt"]
    assert all("run_id=" in commit.author and " exec=" in commit.author for commit in runs)
    assert [commit.at for commit in runs] == sorted((commit.at for commit in runs), reverse=True)
    assert [commit.number for commit in volume.history("a.txt")] == [runs[1].number, runs[2].number]


def test_states_are_compared_and_read(volume: ProjectVolume) -> None:
    newest, second, first = (commit.number for commit in volume.history()[:3])
    assert [(change.path, change.what) for change in volume.diff(first, newest)] == [
        ("a.txt", "modified"),
        ("b.txt", "removed"),
        ("sub", "added"),
        ("sub/c", "added"),
    ]
    assert volume.diff(newest, newest) == []
    assert volume.read_at("a.txt", first) == b"one\ntwo\nthree\n"
    assert volume.read_at("b.txt", second) == b"b"
    assert "-two\n+2\n" in volume.diff_text("a.txt", first)
    with pytest.raises(HistoryError, match=r"There was no .*b\.txt"):
        volume.read_at("b.txt", newest)


def test_each_line_has_the_commit_that_brought_it(volume: ProjectVolume) -> None:
    _, second, first = (commit.number for commit in volume.history()[:3])
    assert [(line.text, line.commit) for line in volume.blame("a.txt")] == [
        ("one", first),
        ("2", second),
        ("three", first),
        ("four", second),
    ]
    with pytest.raises(HistoryError, match="there is no file"):
        volume.blame("b.txt")


def test_what_was_is_brought_back_as_a_new_commit(wb: Workbench, volume: ProjectVolume, project: Project) -> None:
    newest, _, first = (commit.number for commit in volume.history()[:3])
    restored = volume.restore(first)
    assert restored is not None
    assert restored > newest
    assert {entry.path for entry in volume.entries()} == {"a.txt", "b.txt"}
    assert volume.read("a.txt") == b"one\ntwo\nthree\n"
    assert volume.restore(first) is None
    assert volume.restore(newest, "sub") is not None
    assert volume.read("sub/c") == b"c"
    assert volume.history()[0].author.startswith("client:restore")
    end = wb.launch(project, "python", code="print(open('b.txt').read(), open('sub/c').read())")
    assert end.wait().type == "done"
    assert end.text() == "b c\n"


def test_a_project_sees_its_own_history_only(wb: Workbench, volume: ProjectVolume) -> None:
    other = wb.volume(Project.new())
    assert other.history() == []
    assert other.diff() == []
    before = volume.entries()
    with pytest.raises(HistoryError):
        other.restore(volume.history()[0].number)
    assert volume.entries() == before
    with pytest.raises(ValueError, match="path"):
        other.read_at("../../x", 1)


def test_what_is_written_and_not_committed_is_told(wb: Workbench, project: Project) -> None:
    """The commit doctor: a job that goes on has files that nobody else can see."""
    assert wb.launch(project, "python", code="open('draft', 'w').write('old\\n')").wait().type == "done"
    write = "os.pwrite(file, f'{time.time():.6f}\\n'.encode(), 0); print('on', flush=True); time.sleep(0.2)"
    code = f"import os, time\nfile = os.open('draft', os.O_WRONLY)\nwhile True: {write}"  # it is never empty
    run = wb.launch(project, "python", code=code)
    wait_until(lambda: run.text().startswith("on\n"), "the job did not speak")
    volume = wb.volume(project)
    (mount,) = volume.uncommitted()
    assert mount.mount_path == "/workspace"
    assert set(mount.paths) <= {"draft"}
    first = volume.history("draft")[-1].number
    text = volume.diff_text("draft", first, mount.holder)
    assert "-old\n+" in text
    with pytest.raises(HistoryError, match="There is no regular file"):
        volume.diff_text("draft", first, "sb-nobody")
    run.cancel()
    assert volume.uncommitted() == []


@pytest.mark.parametrize("path", ["commits", "diff", "versions", "content", "uncommitted", "working"])
def test_the_history_is_not_told_without_the_token(wb: Workbench, cloud: Running, path: str) -> None:
    address = f"{cloud.http_url}/history/{wb.app_name}-projects/{path}"
    assert httpx.get(address, trust_env=False).status_code == 401
    wrong = {"x-modal-token-id": cloud.token_id, "x-modal-token-secret": "wrong"}
    assert httpx.get(address, headers=wrong, trust_env=False).status_code == 401


@pytest.mark.parametrize(
    ("path", "question", "status"),
    [
        ("diff", {"base": "x"}, 400),
        ("diff", {"base": 1, "head": 10**9}, 404),
        ("commits", {"path": "../.."}, 400),
        ("commits", {"limit": 0}, 400),
        ("commits", {"unknown": 1}, 400),
        ("content", {"path": "nowhere"}, 404),
        ("restore", {"commit": 1}, 405),
    ],
)
def test_bad_questions_are_refused(
    wb: Workbench, volume: ProjectVolume, cloud: Running, path: str, question: dict[str, str], status: int
) -> None:
    headers = {"x-modal-token-id": cloud.token_id, "x-modal-token-secret": cloud.token_secret}
    address = f"{cloud.http_url}/history/{wb.app_name}-projects/{path}"
    assert httpx.get(address, params=question, headers=headers, trust_env=False).status_code == status


def test_without_a_history_it_says_so() -> None:
    import modal

    elsewhere = ProjectVolume(modal.Volume.from_name("x"), "u", "p")
    with pytest.raises(HistoryUnavailableError, match="Modal keeps no history"):
        elsewhere.history()


def test_the_command_line_shows_it_all(wb: Workbench, volume: ProjectVolume, project: Project) -> None:
    where = ["--user", project.user_id, "--project", project.project_id, "--app-name", wb.app_name]

    def cli(*arguments: str) -> str:
        done = command_line("volume", *arguments, *where)
        assert done.returncode == 0, done.stderr
        return done.stdout

    commits = [json.loads(line) for line in cli("history", "--json").splitlines()]
    newest, second, first = (commit["number"] for commit in commits[:3])
    assert "a.txt" in cli("tree")
    assert cli("read", "a.txt", "--commit", str(first)) == "one\ntwo\nthree\n"
    assert "- b.txt" in cli("history")
    assert "removed   b.txt" in cli("diff", str(first), str(newest))
    assert "+four" in cli("diff", str(first), "--path", "a.txt")
    assert f"{second:>5}" in cli("blame", "a.txt")
    assert "no sandbox or container" in cli("uncommitted")
    assert "restored as commit" in cli("restore", str(first), "--yes")
    assert cli("read", "b.txt") == "b"


def test_a_commit_of_a_function_tells_its_container_and_call(wb: Workbench, modal_cli: Cli) -> None:
    app = APPS / "echo.py"
    modal_cli("secret", "create", "echo-secret", "WORD=hush", "--force")
    modal_cli("deploy", str(app))
    try:
        url = f"{modal.Function.from_name('echo', 'web').get_web_url()}/write"
        httpx.get(url, params={"text": uuid.uuid4().hex, "commit": True}, timeout=60).raise_for_status()
        assert wb.target.cloud_url is not None
        newest = HistoryClient(wb.target.cloud_url, wb.target.env, "echo-data").commits("", limit=1)[0]
        assert re.fullmatch(r"container:ta-\w+ call=fc-\w+", newest.author)
        assert [change.path for change in newest.changes] == ["note.txt"]
    finally:
        modal_cli("app", "stop", "echo", "--yes")
