"""The command line as its users have it: a process, its output, its exit code."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from modal_app.contract.events import parse_event
from tests.conftest import live_sandboxes, processes_of, stop_apps, wait_until
from tests.support import warm
from tests.support.commands import PLAIN, WORKBENCH, cli
from tests.support.places import free_port
from workbench import Project, Workbench
from workbench.cli import app
from workbench.deployment.model_backing import UPSTREAM_KEY_VARIABLE, WITHOUT_CLAUDE_VARIABLE
from workbench.local_cloud.process.state_directory import STATE_VARIABLE, Running, State


@pytest.fixture(autouse=True, scope="module")
def _stopped(cloud: Running) -> Iterator[None]:
    """What the demo and `workbench lab` have deployed is theirs alone."""
    yield
    stop_apps("modal-workbench")


def commands(group: Any, *words: str) -> Iterator[tuple[str, ...]]:
    """Every command and group of the command line, as the words that call it."""
    yield words
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *words, name)


@pytest.mark.parametrize("command", list(commands(get_command(app))), ids=" ".join)
def test_help_teaches(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.stdout
    assert len(done.stdout.split()) > 15


def test_the_command_is_a_process_of_its_own() -> None:
    done = cli("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout


def test_the_demo_shows_the_whole_path(cloud: Running) -> None:
    done = cli("demo", "--json")
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    events = [parse_event(line) for line in lines]
    assert [event.type for event in events].count("done") == 3
    summary = json.loads(last)
    assert (summary["type"], summary["ok"]) == ("summary", True)
    assert summary["without_claude"] == "WORKBENCH_WITHOUT_CLAUDE is set"
    assert summary["files"] == ["note-1.txt", "note-2.txt", "note-3.txt", "src", "src/main.py"]
    assert [run["outcome"] for run in summary["runs"]] == ["done", "done", "done"]


@pytest.mark.timeout(300)
def test_the_demo_ends_with_a_page_that_the_claude_cli_wrote_without_any_account(own_state: State) -> None:
    """And with the cloud that it has started."""
    env = {STATE_VARIABLE: str(own_state.root), WITHOUT_CLAUDE_VARIABLE: "", UPSTREAM_KEY_VARIABLE: ""}
    done = cli("demo", env=env, timeout_s=280)
    assert done.returncode == 0, done.stderr
    for text in ("│ I write a page and its style.", "│ → Write /workspace/index.html", "timeline of claude run"):
        assert text in done.stdout
    assert "  style.css  " not in done.stdout.partition("committed files")[0]
    for name in ("index.html", "style.css"):
        assert name in done.stdout.partition("committed files")[2]
    assert own_state.running() is None
    assert processes_of(own_state) == []


def test_the_demo_for_people_prints_events_timeline_and_tree(wb: Workbench) -> None:
    done = cli("demo")
    assert done.returncode == 0, done.stderr
    for text in (
        "wrote note-3.txt",
        "sandbox_starting",
        "timeline of python run",
        "committed files",
        "  main.py  15 B",
    ):
        assert text in done.stdout
    assert wb.target.kind == "local"


def test_jobs_run_from_the_shell(wb: Workbench, project: Project) -> None:
    where = ["--user", project.user_id, "--project", project.project_id, "--app-name", wb.app_name]
    python = cli(
        *("run", "python", "--stdin", "-c", "import sys; print(sys.stdin.read().upper(), sys.argv[1])"),
        *(*where, "arg"),
        stdin="in",
    )
    assert (python.returncode, "IN arg" in python.stdout) == (0, True), python.stderr
    assert cli("run", "files", "write", "a.txt", "--content", "one", "-m", "first", *where).returncode == 0
    log = cli("run", "git", "log", "--json", *where)
    events = [json.loads(line) for line in log.stdout.splitlines()]
    assert events[-1]["result"]["entries"][0]["subject"] == "first"
    failed = cli("run", "python", "-c", "raise SystemExit(3)", *where)
    assert failed.returncode == 1
    assert "process_failed" in failed.stdout


def test_a_request_from_a_file_or_stdin(wb: Workbench, project: Project, tmp_path: Path) -> None:
    content = {"user_id": project.user_id, "project_id": project.project_id, "action": "python", "code": "print(42)"}
    (tmp_path / "request.json").write_text(json.dumps(content))
    for source, stdin in ((str(tmp_path / "request.json"), None), ("-", json.dumps(content))):
        done = cli("run", "request", source, "--app-name", wb.app_name, stdin=stdin)
        assert (done.returncode, "42" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["run", "python", "-c", "1", "--user", "nobody"], 2, "--user"),
        (["run", "python"], 2, "code or path"),
        (["run", "git", "push"], 2, "op"),
        (["run", "files", "read", "../etc/passwd"], 2, "path"),
        (["run", "request", "/nowhere.json"], 2, "cannot be read"),
        (["run", "python", "-c", "1", "--target", "nowhere"], 1, "unknown target"),
        (["endpoint", "--app-name", "not-deployed"], 1, "workbench deploy"),
        (["run", "python", "-c", "1", "--target", "http://127.0.0.1:1"], 1, "WORKBENCH_SECRET"),
        (["notebooks", "run", "99"], 1, "no notebook"),
        (["notebooks", "run", "-p", "nonsense"], 2, "name=value"),
        (["cloud", "start", "--port", "99999"], 2, "65535"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_said_in_one_sentence(wb: Workbench, arguments: list[str], code: int, told: str) -> None:
    done = cli(*arguments)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert live_sandboxes() == []


def test_the_endpoint_is_told_to_machines_with_its_secret_and_to_people_without(wb: Workbench) -> None:
    found = json.loads(cli("endpoint", "--json", "--app-name", wb.app_name).stdout)
    assert found == {"url": wb.endpoint.url, "secret": wb.endpoint.secret.get_secret_value()}
    people = cli("endpoint", "--app-name", wb.app_name)
    assert people.stdout.strip() == wb.endpoint.url
    assert found["secret"] not in people.stderr


def test_output_of_a_hostile_job_does_not_drive_the_terminal(wb: Workbench, project: Project) -> None:
    where = ["--user", project.user_id, "--project", project.project_id, "--app-name", wb.app_name]
    done = cli("run", "python", "-c", "print('\\x1b]0;owned\\x07 \\x1b[2J \\r done')", *where)
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout


def test_the_cloud_from_the_shell(own_state: State) -> None:
    env = {STATE_VARIABLE: str(own_state.root)}
    assert cli("cloud", "status", env=env).returncode == 3
    assert cli("cloud", "env", env=env).returncode == 3
    started = json.loads(cli("cloud", "start", "--json", env=env).stdout)
    assert json.loads(cli("cloud", "status", "--json", env=env).stdout) == started
    exports = cli("cloud", "env", env=env).stdout
    variables = dict(shlex.split(line)[1].split("=", 1) for line in exports.splitlines())
    assert variables["MODAL_SERVER_URL"] == started["url"]
    script = f'eval "$({shlex.join(WORKBENCH)} cloud env)" && {sys.executable} -m modal volume create from-the-shell'
    made = subprocess.run(
        ["sh", "-c", script], env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False
    )
    assert made.returncode == 0, made.stderr
    assert cli("cloud", "stop", env=env).stdout == "stopped\n"
    assert cli("cloud", "stop", env=env).stdout == "it was not running\n"
    assert cli("cloud", "reset", stdin="n\n", env=env).returncode == 1
    assert (own_state.root / "cloud.sqlite").exists()
    assert cli("cloud", "reset", "--yes", env=env).returncode == 0
    assert not own_state.root.exists()


def test_lab_opens_the_workbench_and_ends_with_ctrl_c(wb: Workbench, state: State, cloud: Running) -> None:
    port = free_port()
    command = [*WORKBENCH, "lab", "--no-browser", "--port", str(port)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as lab:
        try:
            assert lab.stderr is not None
            address = next(line for line in lab.stderr if b"?token=" in line).split()[-1].decode()
            base, _, token = address.partition("/lab/workspaces/workbench?token=")
            wait_until(lambda: _listening(port), "JupyterLab does not listen")  # it tells its address before
            with urllib.request.urlopen(f"{base}/api/contents/01_quickstart.ipynb?token={token}", timeout=30) as answer:
                assert json.load(answer)["type"] == "notebook"
            lab.send_signal(signal.SIGINT)
            lab.stderr.read()
            assert lab.wait(60) == 0
        finally:
            lab.terminate()
    wait_until(lambda: not _listening(port), "JupyterLab still listens")
    assert state.running() == cloud


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_faults_and_the_clock_from_the_command_line(cloud: Running) -> None:
    rule_id = cli("cloud", "fault", "add", "rpc=AppList", "status=UNAVAILABLE", "times=1").stdout.strip()
    [rule] = json.loads(cli("cloud", "fault", "list", "--json").stdout)["rules"]
    assert (rule["rule_id"], rule["rule"]["status"], rule["injected"]) == (rule_id, "UNAVAILABLE", 0)
    assert rule_id in cli("cloud", "fault", "list").stdout
    assert cli("cloud", "fault", "clear", rule_id).stdout == "dropped\n"
    assert "no rules" in cli("cloud", "fault", "list").stdout
    before = json.loads(cli("cloud", "clock", "show", "--json").stdout)["offset_s"]
    assert json.loads(cli("cloud", "clock", "advance", "1.5m", "--json").stdout)["offset_s"] == before + 90
    for wrong in (["fault", "add", "status"], ["fault", "add", "colour=red"], ["clock", "advance", "ten"]):
        assert cli("cloud", *wrong).returncode == 2
    refused = cli("cloud", "fault", "add", "status=FINE")
    assert (refused.returncode, refused.stderr.startswith("error: there is no status 'FINE': there is")) == (1, True)
    for words, meant in (
        (["rpc=TaskExecStdioReed", "delay_s=1"], "did you mean TaskExecStdioRead"),
        (["rpc=WorkspaceMembersList", "delay_s=1"], "WorkspaceMembersList is not implemented by the local cloud"),
        (["at=sstream", "delay_s=1"], "did you mean stream?"),
        (["atfer_messages=2", "status=INTERNAL"], "did you mean after_messages?"),
        (["at=call", "rpc=", "status=UNAVAILABLE"], "rpc has no value"),
        (["status=UNAVAILABLE", "app= "], "app has no value"),
        (["status=", "delay_s=1"], "status has no value"),
        (["rpc=DictUpdate", "rpc=DictGet", "status=UNAVAILABLE"], "rpc is given twice"),
        (["status=UNAVAILABLE", "nth=1", "nth=2"], "nth is given twice"),
    ):
        refused = cli("cloud", "fault", "add", *words)
        assert refused.returncode != 0
        assert meant in " ".join(refused.stderr.replace("│", " ").split())
    assert "no rules" in cli("cloud", "fault", "list").stdout


def test_coverage_names_every_missing_rpc(cloud: Running) -> None:
    asked = cli("cloud", "env", "--json").stdout
    modal_cli = [sys.executable, "-m", "modal", "workspace", "members", "list"]
    subprocess.run(modal_cli, env={**os.environ, **json.loads(asked)}, capture_output=True, timeout=60, check=False)
    found = json.loads(cli("cloud", "coverage", "--json").stdout)
    assert found["asked_for"]["WorkspaceMembersList"] >= 1
    assert "WorkspaceMembersList" in cli("cloud", "coverage").stdout
    assert {"FunctionMap", "SandboxCreateV2", "DictGet"} <= set(found["implemented"])
    assert len(found["implemented"]) + len(found["missing"]) == 308
    assert "AuditLogList" in found["missing"]


def in_a_shell(
    script: str, env: dict[str, str] | None = None, *, command: Sequence[str] = WORKBENCH
) -> "subprocess.CompletedProcess[str]":
    """A line of a script with real streams, in which `w` is the command `workbench`."""
    return subprocess.run(
        ["bash", "-c", f'w() {{ {shlex.join(command)} "$@"; }}; {script}'],
        env={**os.environ, **PLAIN, **(env or {})},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=100,
        check=False,
    )


def warm_workbench() -> Sequence[str]:
    """The command where it is not about the interpreter's own start."""
    return warm.words(*WORKBENCH[1:], env={**os.environ, **PLAIN})


def test_a_job_leaves_the_input_of_the_script_around_it_alone(wb: Workbench, project: Project) -> None:
    """A loop over a list gives its commands the list as their stdin; an open pipe that nobody writes to never ends."""
    where = f"--user {project.user_id} --project {project.project_id} --app-name {wb.app_name}"
    job = f"w run python {where} -c 'import sys; print(sys.argv[1], 6*7)' $name"
    done = in_a_shell(f"printf 'a\\nb\\n' | while read -r name; do {job}; done", command=warm_workbench())
    printed = [line.partition("│ ")[2] for line in done.stdout.splitlines() if "│ " in line]
    assert printed == ["a 42", "b 42"], done.stderr
    line = f"exec 3< <(exec sleep 90); w run python {where} -c 'print(5)' <&3; kill $!"
    waiting = in_a_shell(line, command=warm_workbench())
    assert "│ 5" in waiting.stdout, waiting.stderr


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("w contract openapi >&-", 2, "stdout is closed"),
        ("w contract openapi >/dev/full", 1, "No space left on device"),
        ("w volume read --help >/dev/full", 1, "No space left on device"),
        ("w doctor --json >/dev/full", 1, "No space left on device"),
        ("w run claude <&-", 2, "the prompt: stdin is closed"),
        ("w run request - <&-", 2, "the request: stdin is closed"),
        ("printf '\\xff' | w run claude", 2, "is not UTF-8 text: byte 0 is 0xff"),
        ("(sleep 5; printf '{') | w run request -", 2, "waiting for the request on stdin"),
        ("w contract openapi 2>/dev/full | tail -c 1", 0, ""),
        ("w contract openapi 2>&- | tail -c 1", 0, ""),
        ("w contract openapi | head -c 1; exit ${PIPESTATUS[0]}", 141, ""),
    ],
)
def test_streams_of_a_script_end_in_a_sentence(line: str, code: int, told: str) -> None:
    done = in_a_shell(line)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert told in done.stderr
    assert done.stderr.count("\n") <= 2, done.stderr


def test_a_character_that_the_terminal_lacks_is_written_by_its_number(wb: Workbench, project: Project) -> None:
    where = f"--user {project.user_id} --project {project.project_id} --app-name {wb.app_name}"
    done = in_a_shell(f"w run python {where} -c 'print(chr(9731), chr(228))'", {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, "\\u2603 \\xe4" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("words", ["runs list", "failures list", "contract openapi", "doctor"])
def test_a_locale_without_utf_8_is_no_reason_to_fail(cloud: Running, words: str) -> None:
    """Our own files are UTF-8 wherever they are read: in C or ISO-8859-1, Python would take them for something else."""
    done = in_a_shell(f"w {words}", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"})
    assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("how", ["| head -n 1", ">/dev/full"])
def test_a_run_whose_reader_has_left_is_cancelled(wb: Workbench, project: Project, how: str) -> None:
    """Else the next command of the script finds the project held by a job that nobody sees."""
    where = f"--user {project.user_id} --project {project.project_id} --app-name {wb.app_name}"
    job = "import time\nwhile True: print(1, flush=True); time.sleep(0.1)"
    line = f"w run python {where} -c {shlex.quote(job)} {how}; w run python {where} -c 'print(7)'"
    done = in_a_shell(line, command=warm_workbench())
    assert "│ 7" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_connection_that_a_fork_has_copied_says_so(wb: Workbench, project: Project) -> None:
    script = f"""
import multiprocessing, os, workbench
with workbench.connect(app_name={wb.app_name!r}) as wb:
    project = workbench.Project({project.user_id!r}, {project.project_id!r})
    assert wb.launch(project, "python", code="1").wait(60).type == "done"
    def work(name):
        try:
            wb.launch(project, "python", code="1").wait(60)
        except RuntimeError as error:
            return str(error)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        print(pool.map_async(work, ["a"]).get(30))
    assert wb.launch(project, "python", code="1").wait(60).type == "done"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert "connect again in each process" in done.stdout, done.stderr
