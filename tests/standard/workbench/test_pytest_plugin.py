"""The pytest plugin in somebody else's project: a directory of its own, a pytest of its own, nothing of this one's."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import platformdirs
import psutil
import pytest

from tests.conftest import wait_until
from tests.support.docs import pages
from tests.support.docs.made import DOCS
from tests.support.processes import naming

PAGE = DOCS / "testing.md"
COMMANDS = [words for block in pages.blocks(PAGE, "sh", "pytest") for words in pages.commands_of(block.text)]
RUN_S = 230
pytestmark = pytest.mark.timeout(RUN_S + 70)  # on a loaded machine, what deploys takes its time
# Plugins that happen to be installed here and that the project does not use; nbval alone takes 1.4 s to be imported.
ALONE = "addopts = -p no:randomly -p no:asyncio -p no:nbval -p no:hypothesispytest"
# The user's own configuration: of Modal itself, signed in by a browser, which the SDK refuses beside a token.
USERS = '[mine]\nactive = true\nserver_url = "http://127.0.0.1:9"\noauth_refresh_token = "r"\noauth_client_id = "c"\n'
FAILING = """
def test_fails(modal_cloud):
    assert modal_cloud.url == "another"
"""
SLEEPS = """
import pathlib, time


def test_sleeps(modal_cloud, modal_app):
    import modal

    modal.Sandbox.create("sleep", "600", app=modal_app, timeout=600)
    pathlib.Path("ready").write_text(str(modal_cloud.pid))
    time.sleep(600)
"""
WORKERS = """
import json, os, pathlib, pytest


@pytest.mark.parametrize("number", range(6))
def test_notes_its_cloud(modal_cloud, number):
    found = {"url": modal_cloud.url, "state": str(modal_cloud.state_dir), "log": str(modal_cloud.log)}
    environ = pathlib.Path(f"/proc/{modal_cloud.pid}/environ").read_bytes().decode().split("\\0")
    found |= dict(one.split("=", 1) for one in environ if one.startswith(("TMPDIR=", "WORKBENCH_SANDBOX_UIDS=")))
    pathlib.Path(f"found-{os.environ['PYTEST_XDIST_WORKER']}").write_text(json.dumps(found))
"""
DIES = """
import os, pathlib, pytest


@pytest.mark.parametrize("number", range(4))
def test_dies_once(modal_cloud, number):
    if not os.path.exists("died"):
        pathlib.Path("died").write_text(str(modal_cloud.pid))
        os.kill(os.getpid(), 9)
"""
UNTOUCHED = """
import os


def pytest_sessionstart(session):
    session.before = dict(os.environ)


def pytest_unconfigure(config):
    changed = {name for name in os.environ.keys() | before.keys() if os.environ.get(name) != before.get(name)}
    assert changed - {"PYTEST_VERSION", "PYTEST_CURRENT_TEST"} == set(), changed


before = dict(os.environ)
"""
IDLE = """
import sys

import psutil


def test_uses_nothing():
    assert [name for name in sys.modules if name.startswith(("modal", "grpc", "workbench.local_cloud"))] == []
    assert psutil.Process().children() == []
"""
FAKE = """\
#!/bin/sh
[ "$1" = --version ] && echo bubblewrap 0.9.0 && exit
echo 'bwrap: {}' >&2
exit 1
"""


class Project:
    """A directory with tests, and a home directory and a TMPDIR of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root / "project"
        self.temporary = root / "tmp"
        self.home = root / "home"
        for directory in (self.root, self.temporary, self.home):
            directory.mkdir()
            directory.chmod(0o711)
        (self.home / ".modal.toml").write_text(USERS)
        (self.root / "pytest.ini").write_text(f"[pytest]\n{ALONE}\n")
        self.env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "TMPDIR": str(self.temporary)}
        self.env["XDG_CACHE_HOME"] = str(platformdirs.user_cache_path())  # else each copies a base of this machine

    def write(self, text: str, name: str = "test_it.py") -> None:
        (self.root / name).write_text(text)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=partial(
                signal.signal, signal.SIGINT, signal.SIG_DFL
            ),  # where it is ignored, Ctrl-C ends nothing
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        with self.start(*arguments) as process:
            try:
                return process.wait(RUN_S), process.stdout.read() if process.stdout else ""
            finally:
                process.kill()

    @property
    def directories(self) -> list[Path]:
        """What the plugin has made for its clouds and not removed."""
        return list(self.temporary.glob("workbench-*"))

    def is_clean(self) -> bool:
        """Whether nothing of a cloud is left, neither a process nor a directory."""
        return self.directories == [] and naming(str(self.temporary)) == []


@pytest.fixture
def project() -> Iterator[Project]:
    root = Path(tempfile.mkdtemp(prefix="wb-plugin-"))
    root.chmod(0o711)
    own = Project(root)
    yield own
    try:
        wait_until(own.is_clean, "something of the plugin's cloud is left")
        assert (own.home / ".modal.toml").read_text() == USERS
        assert {path.name for path in own.home.iterdir()} - {".cache"} == {".modal.toml"}  # installers have caches
    finally:
        shutil.rmtree(root)


def log_in(output: str) -> Path:
    """The log that a failing test's report names."""
    return Path(re.findall(r"-+ local cloud -+\nits log, one JSON object a line: (\S+)\n", output)[-1])


# -- what the page says -----------------------------------------------------------------------------------------------


def test_the_page_s_program_passes_its_tests(project: Project) -> None:
    passes_its_tests(project, COMMANDS[0])


def passes_its_tests(project: Project, line: list[str]) -> None:
    """Fail unless the program of the page passes with a line of the page."""
    project.write(UNTOUCHED, "conftest.py")
    assert "6 passed" in said_of_the_page_s_program(project, line)


def said_of_the_page_s_program(project: Project, line: list[str]) -> str:
    for block in pages.blocks(PAGE, "python"):
        project.write(block.text, block.tag)
    assert line[0] == "pytest"
    code, output = project.run(*line[1:])
    assert code == 0, output
    return output


@pytest.mark.parametrize("line", COMMANDS[1:], ids=" ".join)
def test_the_page_s_other_commands_find_its_tests(project: Project, line: list[str]) -> None:
    """With each of them every test of the program runs at night."""
    assert "6 tests collected" in said_of_the_page_s_program(project, [*line, "--collect-only"])


def test_the_page_has_every_fixture_and_every_setting(project: Project) -> None:
    text = PAGE.read_text()
    _, fixtures = project.run("--fixtures", "-q")
    names = set(re.findall(r"^(modal_\w+)", fixtures, re.MULTILINE))
    assert names == {"modal_cloud", "modal_app", "modal_endpoint", "modal_faults", "modal_clock"}
    _, told = project.run("--help")
    options = set(re.findall(r"^ +(--modal-[\w-]+)", told, re.MULTILINE))
    settings = set(re.findall(r"^ +(modal_\w+) \(", told, re.MULTILINE))
    assert len(options) == len(settings) >= 4
    assert {name for name in (*names, *options, *settings) if f"`{name}`" not in text} == set()


# -- what it starts, and what it says of that -------------------------------------------------------------------------


def test_nothing_starts_until_a_fixture_is_used(project: Project) -> None:
    project.write(IDLE)
    code, output = project.run()
    assert code == 0, output


@pytest.mark.parametrize("arguments", [["-n", "2"], ["-p", "no:cacheprovider"], ["--modal-log-dir=logs"]], ids=" ".join)
def test_a_failing_test_says_where_the_log_is_and_it_is_there(project: Project, arguments: list[str]) -> None:
    project.write(FAILING)
    project.write("def test_of_something_else():\n    assert 0\n", "test_other.py")
    code, output = project.run(*arguments)
    assert code == 1, output
    assert output.count("- local cloud -") == 1
    log = log_in(output)
    assert all(json.loads(line) for line in log.read_text().splitlines())
    if "--modal-log-dir=logs" in arguments:
        assert log == project.root / "logs" / "modal-cloud.log"
        log.write_text("of the run before")
        project.run(*arguments)
        assert "of the run before" not in log.read_text()


def test_the_log_s_directory_may_stand_in_the_configuration(project: Project) -> None:
    project.write(f"[pytest]\nmodal_log_dir = build/logs\n{ALONE}\n", "pytest.ini")
    (project.root / "below").mkdir()
    project.write(FAILING, "below/test_it.py")
    assert log_in(project.run("below", "-n", "1")[1]) == project.root / "build" / "logs" / "modal-cloud-gw0.log"


def test_each_worker_has_a_cloud_of_its_own(project: Project) -> None:
    project.write(WORKERS)
    code, output = project.run("-n", "2", "--dist", "each")
    assert code == 0, output
    first, second = (json.loads((project.root / f"found-gw{number}").read_text()) for number in (0, 1))
    assert first.keys() == second.keys() == {"url", "state", "log", "TMPDIR", "WORKBENCH_SANDBOX_UIDS"}
    assert [name for name in first if first[name] == second[name]] == []
    (_, last), (begin, _) = sorted(tuple(map(int, one["WORKBENCH_SANDBOX_UIDS"].split("-"))) for one in (first, second))
    assert last < begin


# -- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_all_ends_with_pytest_however_it_ends(project: Project, number: int) -> None:
    all_ends_with_pytest(project, number, [])


def all_ends_with_pytest(project: Project, number: int, arguments: list[str]) -> None:
    """Fail when anything of the cloud outlives a pytest that gets a signal."""
    project.write(SLEEPS)
    with project.start(*arguments) as process:
        try:
            wait_until((project.root / "ready").exists, "the test has not begun")
            cloud = psutil.Process(int((project.root / "ready").read_text()))
            process.send_signal(number)
            process.wait(60)
            wait_until(project.is_clean, "something of the cloud is left")
            assert not cloud.is_running() or cloud.status() == psutil.STATUS_ZOMBIE
        finally:
            process.kill()


def test_a_worker_that_is_killed_takes_its_cloud_along_and_the_next_has_another(project: Project) -> None:
    project.write(DIES)
    code, output = project.run("-n", "1")
    assert code == 1, output
    assert "1 failed, 3 passed" in output
    assert not psutil.pid_exists(int((project.root / "died").read_text()))


# -- what it says -----------------------------------------------------------------------------------------------------


def without_bubblewrap(directory: Path) -> str:
    """A PATH that has git and Python, and no bubblewrap, no sudo and no apt."""
    directory.mkdir()
    for name in ("git", "python3", "sh"):
        (directory / name).symlink_to(str(shutil.which(name)))
    return str(directory)


def test_without_bubblewrap_it_says_what_to_install(project: Project) -> None:
    project.write(FAILING)
    project.env["PATH"] = without_bubblewrap(project.root / "bin")
    code, output = project.run()
    assert code == 1, output
    assert "no local cloud for these tests: Missing: bubblewrap. Run: sudo apt-get update && " in output
    assert "Traceback" not in output
    code, output = project.run("--modal-unavailable", "skip", "-rs")
    assert code == 0, output
    assert "Missing: bubblewrap. Run: " in output
    code, output = project.run("--modal-install")  # and what cannot be installed is told the same way
    assert code == 1
    assert "Missing: bubblewrap" in output


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        ("setting up uid map: Permission denied", "(`workbench doctor` tells more)"),
        ("Unknown option --disable-userns", "too old"),
    ],
)
def test_a_machine_that_isolates_nothing_is_told_why_and_what_to_do(project: Project, printed: str, told: str) -> None:
    """What a container without privileges, or an old system, gives: the cause and the command, and no traceback."""
    project.write(FAILING)
    fake = project.root / "bin" / "bwrap"
    project.env["PATH"] = f"{without_bubblewrap(fake.parent)}:{os.environ['PATH']}"
    fake.write_text(FAKE.format(printed))
    fake.chmod(0o755)
    code, output = project.run()
    assert code == 1, output
    assert "no local cloud for these tests: " in output
    assert told in output
    assert "modal_unavailable = skip" in output
    assert "Traceback" not in output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's sandboxes are users who cannot enter private directories")
def test_a_temporary_directory_that_sandboxes_cannot_enter_is_told(project: Project) -> None:
    project.write(FAILING)
    closed = project.root / "closed"
    closed.mkdir(mode=0o700)
    code, output = project.run("--basetemp", str(project.root / "base"))
    assert "no local cloud" not in output
    project.env["TMPDIR"] = str(closed)
    code, output = project.run()
    assert code == 1, output
    assert "set TMPDIR to another directory" in output
    assert f"chmod o+x {closed}" in output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--modal-unavailable", "maybe"], "modal_unavailable is 'maybe': it must be fail or skip"),
        (["--modal-start-timeout", "soon"], "modal_start_timeout is 'soon': it must be a number of seconds above 0"),
        (["--modal-start-timeout=-1"], "modal_start_timeout is '-1'"),
        (["--modal-start-timeout", "nan"], "modal_start_timeout is 'nan'"),
        (["-o", "modal_unavailable=never"], "modal_unavailable is 'never'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_setting_is_told_before_any_test(project: Project, arguments: list[str], told: str) -> None:
    project.write(IDLE)
    code, output = project.run(*arguments)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert told in output
    assert "Traceback" not in output


def test_a_wrong_setting_of_the_cloud_is_told_by_its_name(project: Project) -> None:
    project.write(FAILING)
    project.env["WORKBENCH_SANDBOX_UIDS"] = "7-5"
    code, output = project.run()
    assert code == 1, output
    assert "no local cloud for these tests: WORKBENCH_SANDBOX_UIDS is '7-5'" in output


ENDPOINTS = """
import modal
import pytest

app = modal.App("endpoints")
web = modal.Image.debian_slim().uv_pip_install("fastapi")


@app.function(image=web)
@modal.fastapi_endpoint()
def one() -> int:
    return 1


@app.cls(image=web)
class Web:
    @modal.fastapi_endpoint()
    def two(self) -> int:
        return 2


@app.function()
def plain() -> None: ...


nameless = modal.App()


@nameless.function(image=web)
@modal.fastapi_endpoint()
def three() -> int:
    return 3


def test_functions_and_methods(modal_endpoint):
    assert modal_endpoint(app, "one").get("/").json() == 1
    assert modal_endpoint(app, "Web.two").get("/").json() == 2


def test_an_app_that_another_test_has_used_and_one_without_a_name(modal_endpoint):
    assert modal_endpoint(app, "one").get("/").json() == 1
    assert modal_endpoint(nameless).get("/").json() == 3


def test_the_app_of_the_test_before_is_stopped(modal_cloud):
    with pytest.raises(modal.exception.NotFoundError):
        modal.App.lookup("endpoints")


@pytest.mark.parametrize(
    ("function", "told"),
    [("", "one, Web.two: name one"), ("none", "no function 'none'"), ("Web.no", "no function"), ("plain", "no web")],
)
def test_another_name(modal_endpoint, function, told):
    with pytest.raises(LookupError, match=told):
        modal_endpoint(app, function)


@pytest.mark.parametrize("wrong", ["endpoints.py", plain])
def test_no_app(modal_endpoint, wrong):
    with pytest.raises(TypeError, match="takes a modal.App, not"):
        modal_endpoint(wrong)


def test_this_package_s_own(modal_endpoint):
    generate = modal_endpoint()
    assert generate.get("/health").status_code == 200
    ids = {"user_id": "6f1c0a52-52a1-4b5e-9d0e-0d6f0f0c7c11", "project_id": "0b1f7a1e-3c8e-4d52-8a53-5a2f5d1f9a10"}
    answer = generate.post("/generate", json={**ids, "action": "python", "code": "print(6 * 7)"})
    assert "event: done" in answer.text


@pytest.mark.parametrize("time", [1, 2])
def test_rules_end_with_their_test(modal_app, modal_faults, time):
    assert modal_faults.rules() == []
    modal_faults.add(rpc="SandboxCreateV2", status="RESOURCE_EXHAUSTED")
    with pytest.raises(modal.exception.ResourceExhaustedError):
        modal.Sandbox.create("true", app=modal_app)


def test_the_app_of_a_test_takes_functions_too(modal_app):
    double = modal_app.function(serialized=True, name="double")(lambda number: 2 * number)
    with modal_app.run():
        assert double.remote(4) == 8


def test_what_a_command_says_is_told(modal_cloud):
    from workbench.pytest_plugin.session_cloud import CommandFailedError

    with pytest.raises(CommandFailedError, match="(?s)`modal deploy none.py` failed with exit code .*none.py"):
        modal_cloud.modal("deploy", "none.py")
    with pytest.raises(CommandFailedError, match="`modal app list` did not end within 0.01 s"):
        modal_cloud.modal("app", "list", timeout_s=0.01)
"""


def test_the_fixtures_do_what_they_say_and_refuse_what_they_cannot(project: Project) -> None:
    project.write(ENDPOINTS, "test_endpoints.py")
    code, output = project.run()
    assert code == 0, output
